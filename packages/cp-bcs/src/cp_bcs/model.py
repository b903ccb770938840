"""The network put between functions and sentences: encoders, the decoder over them, and a head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cp_bcs.config import ModelConfig
from cp_bcs.encoding import EDGE_TYPES, Encoder
from cp_bcs.method.attention import Sizes
from cp_bcs.method.decoder import CopyHead, Decoder, Prefix, WordHead
from cp_bcs.method.encoders import GraphEncoder, Memory, NeighbourEncoder, SequenceEncoder
from cp_bcs.method.shared_space import SharedSpace
from cp_bcs.pretrained import PretrainedEncoder
from cp_bcs.tokens import END_NUMBER, PAD_NUMBER, UNKNOWN_NUMBER
from mpo_core.errors import UsageError
from mpo_core.repro.training import Batch


class Said(NamedTuple):
    """What a network says of functions and their sentences.

    Attributes:
        chances: logarithms of those of all words at all places of the sentences, (batch, t, words).
        functions: their vectors in the shared space, (batch, d); None without one.
        sentences: theirs.
    """

    chances: Tensor
    functions: Tensor | None = None
    sentences: Tensor | None = None


class Next(NamedTuple):
    """What a network says of the words after those given.

    Attributes:
        chances: logarithms, (batch, t, words): those of the vocabulary and, where it copies, those behind it.
        looked: for each source, in the order of the cross-attentions, where the last layer looked, (batch, t, s).
    """

    chances: Tensor
    looked: list[Tensor]


def sizes_of(config: ModelConfig) -> Sizes:
    """The sizes that all Transformer layers of a network share."""
    return Sizes(
        d=config.d,
        layers=config.layers,
        heads=config.heads,
        inner=config.inner,
        dropout=config.dropout,
        attention_dropout=config.dropout if config.attention_dropout is None else config.attention_dropout,
        reach=config.reach,
    )


class SummaryNetwork(nn.Module):
    """CP-BCS (Ye et al. 2023, section 3): up to three encoders and a decoder that looks at one after the other.

    With ``neighbours`` among the sources (ours) it also looks, last, at the sentences of the nearest known functions,
    and can copy words from there.

    Args:
        config: sizes and forms.
        encoder: its vocabularies.
    """

    def __init__(self, config: ModelConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        vocabulary, sizes = len(encoder.words), sizes_of(config)
        self.vocabulary = vocabulary
        words = nn.Embedding(vocabulary, config.d, padding_idx=PAD_NUMBER)
        nodes = len(encoder.nodes) if config.nodes == "instruction" else len(encoder.pieces)
        encoders: dict[str, nn.Module] = {}
        for source in config.order:
            match source:
                case "pseudo" if encoder.reader is not None:
                    encoders[source] = PretrainedEncoder(encoder.reader, config.d, config.pseudo_length)
                case "code" | "pseudo":
                    encoders[source] = SequenceEncoder(len(encoder.pieces), sizes)
                case "graph":
                    encoders[source] = GraphEncoder(
                        nodes,
                        config.d,
                        layers=config.graph_layers,
                        dropout=config.dropout,
                        backend=config.graph_backend,
                        edge_types=2 * EDGE_TYPES if config.edge_types else 0,
                    )
                case "neighbours":
                    encoders[source] = NeighbourEncoder(words, config.summary_length, config.neighbours, sizes)
        self.encoders = nn.ModuleDict(encoders)
        self.decoder = Decoder(words, config.summary_length, len(config.order), sizes)
        head = CopyHead if "neighbours" in config.sources else WordHead
        self.head = head(config.d, vocabulary)
        described = len(set(config.sources) - {"neighbours"})
        self.space = SharedSpace(described, config.d, vocabulary, END_NUMBER + 1) if config.contrast else None
        for parameter in self.parameters():
            if parameter.ndim > 1 and parameter.requires_grad:
                nn.init.xavier_uniform_(parameter)
        with torch.no_grad():
            for module in self.modules():
                if (
                    isinstance(module, nn.Embedding)
                    and module.padding_idx == PAD_NUMBER
                    and module.weight.requires_grad
                ):
                    module.weight[module.padding_idx] = 0

    def read(self, batch: Batch, own: bool = False) -> list[Memory]:
        """What each encoder makes of the functions, in the order of the cross-attentions.

        Args:
            batch: the functions.
            own: without what is known of neighbours, which comes last.
        """
        memories: list[Memory] = []
        for source, encoder in self.encoders.items():
            match source:
                case "neighbours" if own:
                    pass
                case "graph":
                    memories.append(encoder(batch["nodes"], batch["edges"]))
                case "neighbours":
                    memories.append(encoder(batch["neighbours"], batch["similarities"]))
                case _:
                    memories.append(encoder(batch[source]))
        return memories

    def write(self, given: Tensor, memories: list[Memory], batch: Batch) -> Next:
        """The chances of the words after those given.

        Args:
            given: (batch, t); words behind the vocabulary are taken for unknown ones.
            memories: of `read`.
            batch: the functions; of the rows of `given`.
        """
        states, looked = self.decoder(self._known(given), memories)
        return self._next(states, looked, batch)

    def write_on(self, words: Tensor, prefix: Prefix, batch: Batch) -> Next:
        """The chances of the next words of several sentences of each function, (batch, sentences, words).

        Args:
            words: the last ones, (batch, sentences); the first of all are the start.
            prefix: what came before, of ``decoder.begin(memories)``; the words are added to it.
            batch: the functions.
        """
        states, looked = self.decoder.step(self._known(words), prefix)
        return self._next(states, looked, batch)

    def _known(self, words: Tensor) -> Tensor:
        return torch.where(words < self.vocabulary, words, UNKNOWN_NUMBER)

    def _next(self, states: Tensor, looked: list[Tensor], batch: Batch) -> Next:
        if isinstance(self.head, CopyHead):
            copied = batch["copied"].flatten(1)
            extended = max(self.vocabulary, int(copied.max()) + 1)
            return Next(self.head(states, looked[-1], copied, extended), looked)
        return Next(self.head(states), looked)

    def place(self, memories: list[Memory]) -> Tensor:
        """The functions' vectors in the shared space, (batch, d), from the memories of `read`."""
        count = len(self.encoders) - ("neighbours" in self.encoders)
        return self.shared_space.of_functions(memories[:count])

    def place_sentences(self, words: Tensor) -> Tensor:
        """Vectors of sentences, (batch, d), of words (batch, t); those behind the vocabulary do not count."""
        return self.shared_space.of_sentences(torch.where(words < self.vocabulary, words, PAD_NUMBER))

    @property
    def shared_space(self) -> SharedSpace:
        """Where functions and sentences are vectors."""
        if self.space is None:
            raise UsageError("this network was trained without a shared space (contrast: 0).")
        return self.space

    def forward(self, batch: Batch) -> Said:
        """What it says of functions and their sentences."""
        memories = self.read(batch)
        chances = self.write(batch["given"], memories, batch).chances
        if self.space is None:
            return Said(chances)
        return Said(chances, self.place(memories), self.place_sentences(batch["target"]))

    def loss(self, said: Said, batch: Batch) -> Tensor:
        """Negative log-likelihood of the sentences, summed over words, mean over functions (released `src/model.py`).

        A word that neither the vocabulary nor the neighbours know counts as an unknown one. With a shared space its
        loss is added, as often as `contrast` says.
        """
        chances, target = said.chances.flatten(0, 1), batch["target"].flatten()
        losses = functional.nll_loss(chances, target, ignore_index=PAD_NUMBER, reduction="sum") / len(batch["target"])
        if said.functions is None or said.sentences is None:
            return losses
        return losses + self.config.contrast * self.shared_space.loss(said.functions, said.sentences)
