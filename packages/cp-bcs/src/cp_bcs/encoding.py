"""Functions and their nearest known ones as padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cp_bcs.binary.flow_graph import basic_blocks, block_edges
from cp_bcs.config import ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.decompile.lexing import pseudo_tokens
from cp_bcs.metrics import words as sentence_words
from cp_bcs.pretrained import Reader
from cp_bcs.retrieval import Neighbour
from cp_bcs.tokens import (
    END_NUMBER,
    PAD_NUMBER,
    START_NUMBER,
    UNKNOWN_NUMBER,
    Pieces,
    Words,
    code_words,
    pseudo_words,
    without_digits,
)
from mpo_core.repro.batches import SortedBatches, padded
from mpo_core.repro.training import Batch

NO_EDGE = (-1, -1, 0)
EDGE_TYPES = 3
"""Next, jump and table; edges against the flow have three more."""
_WORDS_OF_A_NODE = 24
_WORDS_OF_A_BLOCK = 96


@dataclass(frozen=True)
class Encoded:
    """One function as numbers.

    Attributes:
        code: pieces of its instructions in a row.
        code_nodes: the instruction of each piece.
        pseudo: pieces of its pseudo code.
        nodes: what describes each node of its control-flow graph.
        members: the instructions of each node.
        edges: from, to, type.
        target: words of its sentence; words that only the neighbours know have numbers behind the vocabulary.
        neighbours: words of the sentences of the nearest known functions, numbered in the same way.
        similarities: of the neighbours.
        extra: the words behind the vocabulary.
        instructions: how many the function has, those that are not read included.
    """

    code: list[int]
    code_nodes: list[int]
    pseudo: list[int]
    nodes: list[list[int]]
    members: list[tuple[int, ...]]
    edges: list[tuple[int, int, int]]
    target: list[int]
    neighbours: list[list[int]]
    similarities: list[float]
    extra: list[str]
    instructions: int

    @property
    def size(self) -> int:
        """About how long it takes to read."""
        return max(len(self.code), len(self.nodes), len(self.pseudo))


class Encoder:
    """Turns functions into tensors.

    Args:
        config: sizes and forms.
        pieces: of code and pseudo code.
        nodes: whole instructions, for ``nodes: instruction``.
        words: of sentences.
        reader: the pretrained encoder of pseudo code, where there is one.
    """

    def __init__(
        self, config: ModelConfig, pieces: Pieces, nodes: Words, words: Words, reader: Reader | None = None
    ) -> None:
        self.config, self.pieces, self.nodes, self.words, self.reader = config, pieces, nodes, words, reader
        self._split = _splitter(config)

    @classmethod
    def learn(cls, config: ModelConfig, train: Sequence[Pair], dev: Sequence[Pair] = ()) -> Encoder:
        """Vocabularies of the training functions; the released code's are of the dev functions, too.

        Args:
            config: sizes and forms.
            train: functions.
            dev: functions.
        """
        known = [*train, *dev] if config.variant == "released" else list(train)
        split = _splitter(config)
        rows = [row for pair in known for row in (*_code(config, pair), _pseudo(config, pair.pseudo))]
        return cls(
            config,
            Pieces.learn(rows, config.pieces),
            Words.of((_key(config, key) for key in pair.keys) for pair in known),
            Words.of((split(pair.sentence) for pair in known), config.least_count),
            None if config.encoder is None else Reader.open(config.encoder),
        )

    def encode(self, pairs: Sequence[Pair], neighbours: Sequence[Sequence[Neighbour]] | None = None) -> list[Encoded]:
        """Functions as numbers.

        Args:
            pairs: the functions.
            neighbours: the nearest known functions of each, the nearest first.
        """
        rows: list[Encoded] = []
        for number, pair in enumerate(pairs):
            rows.append(self._one(pair, () if neighbours is None else neighbours[number]))
        return rows

    def _one(self, pair: Pair, neighbours: Sequence[Neighbour]) -> Encoded:
        config = self.config
        code = _code(config, pair)
        if self.reader is None:
            *per_node, pseudo = self.pieces.numbers([*code, _pseudo(config, pair.pseudo)])
        else:
            per_node = self.pieces.numbers(code)
            pseudo = self.reader.numbers(_readable(config, pair.pseudo), config.pseudo_length)
        members, forward = _graph(config, pair)
        if config.nodes == "instruction":
            nodes = [[self.nodes.number(_key(config, pair.keys[node]))] for (node,) in members]
        else:
            most = _WORDS_OF_A_BLOCK if config.nodes == "block" else _WORDS_OF_A_NODE
            described = ([number for node in block for number in per_node[node]] for block in members)
            nodes = [numbers[:most] or [UNKNOWN_NUMBER] for numbers in described]
        extra: dict[str, int] = {}
        near = neighbours[: config.neighbours] if "neighbours" in config.sources else ()
        sentences = [self._split(each.pair.sentence)[: config.summary_length] for each in near]
        copied = [[self._extended(word, extra) for word in sentence] for sentence in sentences]
        target = [extra.get(word, self.words.number(word)) for word in self._split(pair.sentence)]
        return Encoded(
            code=[number for numbers in per_node for number in numbers][: config.code_length],
            code_nodes=[node for node, numbers in enumerate(per_node) for _ in numbers][: config.code_length],
            pseudo=pseudo[: config.pseudo_length],
            nodes=nodes,
            members=members,
            edges=self._edges(forward, len(members)),
            target=[*target[: config.summary_length - 1], END_NUMBER],
            neighbours=copied,
            similarities=[each.similarity for each in near],
            extra=list(extra),
            instructions=len(pair.keys),
        )

    def _extended(self, word: str, extra: dict[str, int]) -> int:
        number = self.words.number(word)
        return extra.setdefault(word, len(self.words) + len(extra)) if number == UNKNOWN_NUMBER else number

    def _edges(self, forward: Sequence[tuple[int, int, int]], count: int) -> list[tuple[int, int, int]]:
        """Of the nodes that are read; a node's edge to itself is left out, as every node sees itself anyway."""
        kept = [(a, b, why) for a, b, why in forward if a != b and a < count and b < count]
        backward = [(b, a, why + EDGE_TYPES) for a, b, why in kept]
        match self.config.edges:
            case "forward":
                return kept
            case "backward":
                return backward
            case "both":
                return kept + backward

    def batches(self, rows: Sequence[Encoded], batch_size: int, seed: int) -> SortedBatches[Encoded]:
        """Training batches of functions.

        Args:
            rows: the functions.
            batch_size: functions of a batch, at most.
            seed: of the order.
        """
        return SortedBatches(rows, lambda row: row.size, self.batch, batch_size, seed)

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """Rows side by side.

        Returns:
            ``code (b, s)``, ``pseudo (b, p)``, ``nodes (b, n, w)``, ``edges (b, e, 3)``, ``given (b, t)`` the words
            before each place, ``target (b, t)`` the word at it, 0 behind the end, ``neighbours (b, k, l)``
            with l the length of a summary, ``copied (b, k, l)`` with the numbers behind the vocabulary,
            ``similarities (b, k)``.
        """
        size = len(self.words)
        known = [[[n if n < size else UNKNOWN_NUMBER for n in each] for each in row.neighbours] for row in rows]
        given = [[START_NUMBER, *(n if n < size else UNKNOWN_NUMBER for n in row.target[:-1])] for row in rows]
        return {
            "code": padded([row.code for row in rows], PAD_NUMBER),
            "pseudo": padded([row.pseudo for row in rows], PAD_NUMBER),
            "nodes": _padded_twice([row.nodes for row in rows]),
            "edges": padded([row.edges for row in rows], NO_EDGE),
            "given": padded(given, PAD_NUMBER),
            "target": padded([row.target for row in rows], PAD_NUMBER),
            # As wide in every batch: how far apart words of two sentences stand must not depend on the other rows.
            "neighbours": _padded_twice(known, self.config.summary_length),
            "copied": _padded_twice([row.neighbours for row in rows], self.config.summary_length),
            "similarities": padded([row.similarities for row in rows], 0.0),
        }


def _graph(config: ModelConfig, pair: Pair) -> tuple[list[tuple[int, ...]], Sequence[tuple[int, int, int]]]:
    """The instructions of each node that is read, and the edges of all nodes."""
    if config.nodes == "block":
        blocks = basic_blocks(len(pair.keys), pair.edges)
        return list(blocks[: config.graph_length]), block_edges(blocks, pair.edges)
    return [(node,) for node in range(len(pair.keys))][: config.graph_length], pair.edges


def _splitter(config: ModelConfig) -> Callable[[str], list[str]]:
    """How what a network writes is split into words."""
    return sentence_words if config.writes == "sentence" else pseudo_words


def _code(config: ModelConfig, pair: Pair) -> list[list[str]]:
    rows = code_words(pair, config.texts)
    return [_stripped(row) for row in rows] if config.variant == "released" else rows


def _stripped(row: list[str]) -> list[str]:
    return without_digits(" ".join(row)).split()


def _key(config: ModelConfig, key: str) -> str:
    return " ".join(_stripped([key])) if config.variant == "released" else key


def _pseudo(config: ModelConfig, text: str | None) -> list[str]:
    return pseudo_tokens(_readable(config, text))


def _readable(config: ModelConfig, text: str | None) -> str:
    return without_digits(text or "") if config.variant == "released" else text or ""


def _padded_twice(rows: Sequence[Sequence[Sequence[int]]], least: int = 1) -> torch.Tensor:
    """Rows of rows of equal lengths, these at least 1, their rows at least `least`."""
    width = max(least, *(len(inner) for row in rows for inner in row), 1)
    empty = [PAD_NUMBER] * width
    filled = [[[*inner, *[PAD_NUMBER] * (width - len(inner))] for inner in row] for row in rows]
    length = max(1, *(len(row) for row in filled)) if filled else 1
    return torch.tensor([[*row, *[empty] * (length - len(row))] for row in filled])
