"""The network put between words and answers: embeddings of hyperedges, a network over them, and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypermr.config import ModelConfig
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import TOPIC
from hypermr.hypergraph.encoding import ABSENT, PAD, UNKNOWN, Vocabulary, relation_spellings, relation_words
from hypermr.hypergraph.negatives import right_of, with_negatives
from hypermr.layers import Norm, SharedDropout, linear
from hypermr.manifold import space_of
from hypermr.method import ClosedHead, HyperMR, PointerHead
from hypermr.neural_baselines import HypergraphConvolution, PathScorer
from hypermr.word_vectors import KnownWords
from mpo_core.repro.training import Batch

REACH_OF_POSITIONS = 32
"""Hyperedges of a question that are farther from the topic share a position."""
UNLIKELY = 1e-30
"""Stands for 0 under a logarithm."""


class Embeddings(nn.Module):
    """Vectors of the hyperedges of questions and of knowledge.

    A question's hyperedge: the vectors of its tokens side by side, through a linear map, plus a vector of its position.
    A knowledge's: those of its relations side by side, through a linear map, plus, where wanted, the mean over its
    walks of the vectors of the entities. A relation's vector comes from the words of its name; these are the words of
    questions, too. Where the question calls a relation by its name, the hyperedge knows at which places it does
    (``names: true``): that holds for relations that no training question asks for, too.

    Args:
        config: sizes and forms.
        vocabulary: words.
        kb: knowledge base.
        hops: relations of a walk, at most.
    """

    relation_words: Tensor

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, kb: KnowledgeBase, hops: int) -> None:
        super().__init__()
        d = config.d
        self.ngram, self.from_topic = config.ngram, config.positions == "topic"
        self.pad = vocabulary.numbers([PAD])[0]
        self.words = (
            nn.Embedding(len(vocabulary.words), d, padding_idx=self.pad)
            if config.word_vectors is None
            else KnownWords(config.word_vectors, len(vocabulary.words), d)
        )
        names = [vocabulary.numbers(relation_words(relation)) for relation in kb.relations]
        longest = max(map(len, names))
        padded = [[*name, *[self.pad] * (longest - len(name))] for name in names]
        self.register_buffer("relation_words", torch.tensor(padded), persistent=False)
        self.rest_of_name = linear(d, d)
        self.question = linear(config.ngram * d, d)
        self.positions = nn.Embedding(2 * REACH_OF_POSITIONS + 1, d)
        nn.init.normal_(self.positions.weight, std=0.5)
        self.path = linear(hops * d, d)
        self.named = NamedRelations(hops, d, _spellings(vocabulary, kb)) if config.names else None
        self.passed = PassedEntities(len(kb.entities), hops, d) if config.entities == "ids" else None
        self.norm_question, self.norm_knowledge = Norm(d, 1.0), Norm(d, 1.0)
        self.dropout = SharedDropout(config.dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """States of both sides, (batch, q, d) and (batch, k, d), and which of them are there.

        Of a side with none, the first one counts as there.
        """
        question, question_there = self.of_question(batch)
        knowledge, knowledge_there = self.of_knowledge(batch)
        return question, knowledge, (question_there, knowledge_there)

    def of_question(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of its n-grams."""
        tokens = functional.pad(batch["tokens"], (0, max(0, self.ngram - batch["tokens"].shape[1])), value=self.pad)
        count = tokens.shape[1] - self.ngram + 1
        words = self.words(tokens)
        side_by_side = torch.cat([words[:, start : start + count] for start in range(self.ngram)], dim=-1)
        states = self.question(side_by_side) + self.positions(self.places(batch, count))
        there = tokens[:, self.ngram - 1 :] != self.pad
        return self.dropout(self.norm_question(states)), _at_least_one(there)

    def of_knowledge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of its hyperedges."""
        states = self.path(self.of_relations(batch["relations"]).flatten(2))
        if self.named is not None:
            places = self.places(batch, batch["tokens"].shape[1])
            states = states + self.named(batch["relations"], batch["tokens"], places)
        if self.passed is not None:
            states = states + self.passed(batch["walks"], batch["walk_edge"], states.shape[1])
        return self.dropout(self.norm_knowledge(states)), _at_least_one(batch["relations"][..., 0] != ABSENT)

    def places(self, batch: Batch, count: int) -> Tensor:
        """Numbers of the positions of so many places in a row, (batch, count)."""
        tokens = batch["tokens"]
        places = torch.arange(count, device=tokens.device).expand(len(tokens), -1)
        if self.from_topic:
            places = places - batch["topic_place"].unsqueeze(1)
        return places.clamp(-REACH_OF_POSITIONS, REACH_OF_POSITIONS) + REACH_OF_POSITIONS

    def of_relations(self, relations: Tensor) -> Tensor:
        """Vectors of relations by number; 0 for absent ones."""
        names = self.relation_words
        vectors = self.words(names[:, 0])
        if names.shape[1] > 1:
            rest = names[:, 1:]
            count = (rest != self.pad).sum(-1, keepdim=True).clamp_min(1)
            vectors = vectors + self.rest_of_name(self.words(rest).sum(-2) / count)
        return functional.embedding(relations.clamp_min(0), vectors) * (relations != ABSENT).unsqueeze(-1)


class NamedRelations(nn.Module):
    """At which places a question names the relations of a hyperedge: vectors of the places, mapped linearly.

    Args:
        hops: relations of a walk, at most.
        d: dimension.
        spellings: the words of each name of each relation (relations, names, words), 0 for none.
    """

    spellings: Tensor

    def __init__(self, hops: int, d: int, spellings: Tensor) -> None:
        super().__init__()
        self.register_buffer("spellings", spellings, persistent=False)
        self.vectors = nn.Embedding(2 * REACH_OF_POSITIONS + 1, d)
        self.side_by_side = linear(hops * d, d)

    def forward(self, relations: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """States (batch, k, d).

        Args:
            relations: of the hyperedges (batch, k, hops), `ABSENT` for none.
            tokens: words of the question (batch, t), 0 for none.
            places: their positions (batch, t).
        """
        asked, numbers = relations.clamp_min(0).unique(return_inverse=True)
        rows = torch.arange(len(relations), device=relations.device)[:, None, None]
        named = self.named(asked, tokens)[rows, numbers] & (relations != ABSENT).unsqueeze(-1)
        vectors = self.vectors(places)
        shares = named.to(vectors.dtype) / named.sum(-1, keepdim=True).clamp_min(1)
        found = (shares.flatten(1, 2) @ vectors).view(*relations.shape, -1)
        return self.side_by_side(found.flatten(2))

    def named(self, relations: Tensor, tokens: Tensor) -> Tensor:
        """Whether a name of a relation begins at a place (batch, relations, t).

        Args:
            relations: numbers (relations,).
            tokens: words of the question (batch, t), 0 for none.
        """
        names = self.spellings[relations][None, :, :, None]
        windows = functional.pad(tokens, (0, names.shape[-1] - 1)).unfold(1, names.shape[-1], 1)
        fits = (windows[:, None, None] == names) | (names == 0)
        return (fits.all(-1) & (names[..., 0] != 0)).any(2)


def _spellings(vocabulary: Vocabulary, kb: KnowledgeBase) -> Tensor:
    """The names of relations in words of the vocabulary; 0 for those that have a word that it lacks."""
    unknown = vocabulary.numbers([UNKNOWN])[0]
    numbers = [[vocabulary.numbers(each) for each in relation_spellings(relation)] for relation in kb.relations]
    known = [[each for each in names if unknown not in each] for names in numbers]
    width = max((len(each) for names in known for each in names), default=1)
    made = torch.zeros(len(kb.relations), max(1, *map(len, known)), width, dtype=torch.long)
    for relation, names in enumerate(known):
        for number, each in enumerate(names):
            made[relation, number, : len(each)] = torch.tensor(each)
    return made


class PassedEntities(nn.Module):
    """What the walks of hyperedges pass: vectors of their entities side by side, mapped linearly; their mean.

    Args:
        entities: how many there are.
        hops: relations of a walk, at most.
        d: dimension.
    """

    def __init__(self, entities: int, hops: int, d: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(entities + 1, d, padding_idx=0)
        self.side_by_side = linear((hops + 1) * d, d)

    def forward(self, walks: Tensor, edge_of: Tensor, count: int) -> Tensor:
        """States (batch, count, d).

        Args:
            walks: entities (batch, w, hops + 1).
            edge_of: the hyperedge of each walk (batch, w).
            count: hyperedges.
        """
        states = self.side_by_side(self.vectors(walks + 1).flatten(2))
        # walks that only fill the row go to a place behind the last
        places = torch.where(edge_of == ABSENT, count, edge_of)
        sums = states.new_zeros(len(states), count + 1, states.shape[-1])
        sums = sums.scatter_add(1, places.unsqueeze(-1).expand_as(states), states)
        sizes = states.new_zeros(len(states), count + 1).scatter_add(1, places, states.new_ones(places.shape))
        return (sums / sizes.clamp_min(1).unsqueeze(-1))[:, :-1]


class AnswerModel(nn.Module):
    """Scores hyperedges, or labels, of a batch of questions.

    Args:
        config: sizes and forms.
        vocabulary: words.
        kb: knowledge base.
        hops: relations of a walk, at most.
        labels: entities of the closed vocabulary, for the head ``closed``.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, kb: KnowledgeBase, hops: int, labels: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, vocabulary, kb, hops)
        match config.network:
            case "hypermr":
                self.network = HyperMR(config)
            case "path-scorer":
                self.network = PathScorer(config.d, config.dropout)
            case "hypergraph-conv":
                self.network = HypergraphConvolution(
                    config.d,
                    config.stages,
                    config.dropout,
                    names=self.embeddings.relation_words,
                    topic=vocabulary.numbers([TOPIC])[0],
                    ngram=config.ngram,
                )
        space = self.network.space if isinstance(self.network, HyperMR) else space_of("euclidean")
        if config.head == "closed":
            self.head = ClosedHead(config.d, labels, space, config.dropout)
        else:
            self.head = PointerHead(config.d, space)

    @property
    def curvatures(self) -> Tensor:
        """Of the stages and, last, of the head; 1, which means nothing, for networks in flat space without any."""
        return self.network.curvatures() if isinstance(self.network, HyperMR) else torch.ones(1)

    def forward(self, batch: Batch) -> Tensor:
        """Scores (batch, k) of hyperedges, or (batch, labels).

        While the model is trained, k is larger: negatives stand behind the hyperedges of the batch.
        """
        if self.training and self.config.negatives:
            batch = with_negatives(batch, self.config.negatives)
        question, knowledge, present = self.embeddings(batch)
        question, knowledge = self.network(question, knowledge, present, batch)
        return self.head(question, knowledge, present, self.curvatures[-1])

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood, over the questions that have a right hyperedge, or a label.

        Of a hyperedge, the likelihood is its probability times the share of its ends that are right: the chance that
        an answer drawn from the model is right, with no word about which path leads there.

        Args:
            scores: of `forward`.
            batch: the questions.
        """
        if self.config.head == "closed":
            losses = functional.cross_entropy(scores, batch["label"], ignore_index=ABSENT, reduction="none")
            counts = batch["label"] != ABSENT
        else:
            right = right_of(batch, scores.shape[1])
            losses = -torch.logsumexp(scores.log_softmax(-1) + right.clamp_min(UNLIKELY).log(), dim=-1)
            counts = (right > 0).any(-1)
        return losses.masked_fill(~counts, 0).sum() / counts.sum().clamp_min(1)


def _at_least_one(there: Tensor) -> Tensor:
    """With the first one counted as there where none is: attention needs something to look at."""
    there = there.clone()
    there[:, 0] |= ~there.any(-1)
    return there
