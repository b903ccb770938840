"""A trained network with what it needs to summarise: vocabularies, the known functions, the way it decodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cp_bcs.config import DecodingConfig, ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.decoding import Hypothesis, looked_at, write
from cp_bcs.encoding import Encoded, Encoder
from cp_bcs.minimum_risk import Ballot, Words, best_weighting, said, voices_of, weightings
from cp_bcs.model import SummaryNetwork
from cp_bcs.refining import Refiner, load_refiner, with_pseudo
from cp_bcs.retrieval import Index, Neighbour
from cp_bcs.saving import load_network, save_network
from cp_bcs.summaries.consensus import SHOWN
from cp_bcs.summaries.drafts import Draft
from cp_bcs.tokens import sentence_of
from cp_bcs.vectors import KnownVectors, Weighted, place
from mpo_core.errors import InputFileError
from mpo_core.repro.atomic import write_json_atomic


@dataclass
class Learned:
    """A network and its surroundings.

    Attributes:
        encoder: its vocabularies.
        network: the weights.
        index: the known functions whose sentences it looks at; None where it looks at none.
        decoding: how sentences are chosen.
        refiner: what rewrites pseudo code before the network reads it.
        vectors: the known functions in the network's shared space; None without one, or before `use_index`.
    """

    encoder: Encoder
    network: SummaryNetwork
    index: Index | None
    decoding: DecodingConfig
    refiner: Refiner | None = None
    vectors: KnownVectors | None = None

    @property
    def config(self) -> ModelConfig:
        """Sizes and forms of the network."""
        return self.network.config

    @property
    def reads_pseudo(self) -> bool:
        """Whether the network looks at pseudo code."""
        return "pseudo" in self.config.sources

    def use_index(self, index: Index, refined: bool = False) -> None:
        """Take other known functions, or the same ones after the network has changed.

        Args:
            index: the known functions.
            refined: whether their pseudo code is what the refiner writes already.
        """
        self.network.eval()
        if self.refiner is not None and not refined:
            index = Index(with_pseudo(index.pairs, self.refiner.refine(index.pairs)), index.texts)
        self.index = index
        self.vectors = None
        if self.config.contrast and any(pair.sentence for pair in index.pairs):
            self.vectors = KnownVectors.of(self.network, self.encoder, index.pairs)

    def encode(
        self, pairs: Sequence[Pair], apart: Callable[[Pair], Hashable] | None = None
    ) -> tuple[list[Encoded], list[list[Neighbour]]]:
        """Functions as numbers, with their nearest known ones.

        Args:
            pairs: the functions.
            apart: see `Index.search`.
        """
        if self.index is None:
            return self.encoder.encode(pairs), [[] for _ in pairs]
        k = max(self.config.neighbours, self.decoding.neighbours)
        near = self.index.search(pairs, k, apart, documented=True)
        return self.encoder.encode(pairs, near), near

    def summarize(self, functions: Sequence[Pair]) -> list[Draft]:
        """A draft for each function; see `Summarizer`."""
        functions, rows, near, written = self._write(functions)
        chosen = [(sentences[0].words, math.exp(sentences[0].likelihood)) for sentences in written]
        if self.decoding.consensus:
            chosen = self._chosen(self._ballots(rows, near, written), written)
        shown = near  # as evidence, known functions without a sentence count, too
        if self.index is not None and not self.index.all_documented:
            shown = self.index.search(functions, SHOWN)
        drafts: list[Draft] = []
        for row, (words, score), heard, seen in zip(rows, chosen, near, shown, strict=True):
            source = next(iter((*heard, *seen)), None)
            drafts.append(Draft(sentence_of(words), score, self._highlights(row, words), source, tuple(seen[:SHOWN])))
        return drafts

    def sentences(self, functions: Sequence[Pair]) -> list[str]:
        """The sentences of `summarize` alone, which takes less time."""
        _, rows, near, written = self._write(functions)
        if not self.decoding.consensus:
            return [sentence_of(sentences[0].words) for sentences in written]
        return [sentence_of(words) for words, _ in self._chosen(self._ballots(rows, near, written), written)]

    def tune_decoding(self, dev: Sequence[Pair]) -> None:
        """Choose power, trust and share of the sentence of least risk by functions that nothing was learned from.

        Args:
            dev: documented functions; with none nothing changes.
        """
        if not dev:
            return
        _, rows, near, written = self._write(dev)
        best = best_weighting(
            self._ballots(rows, near, written),
            [said(pair.sentence) for pair in dev],
            weightings(shared=self.vectors is not None),
        )
        self.decoding = self.decoding.model_copy(update=best._asdict())

    def _write(
        self, functions: Sequence[Pair]
    ) -> tuple[Sequence[Pair], list[Encoded], list[list[Neighbour]], list[list[Hypothesis]]]:
        """The functions as the network reads them, as numbers, their neighbours, and the sentences of the beams."""
        self.network.eval()
        if self.refiner is not None:
            functions = with_pseudo(functions, self.refiner.refine(functions))
        rows, near = self.encode(functions)
        return functions, rows, near, write(self.network, self.encoder, rows, beams=self.decoding.beams)

    def _ballots(
        self, rows: list[Encoded], near: list[list[Neighbour]], written: list[list[Hypothesis]]
    ) -> list[Ballot]:
        """All that may be right of each function."""
        close: list[tuple[list[Weighted], ...]] = [() for _ in rows]
        if self.vectors is not None and rows:
            placed = place(self.network, self.encoder, rows)
            close = [*self.vectors.near(self.network, placed, self.decoding.neighbours)]
        return [
            Ballot(
                near=voices_of(heard[: self.decoding.neighbours]),
                written=[(each.words, math.exp(each.likelihood)) for each in sentences if each.words],
                shared=[[(said(pair.sentence), share) for pair, share in kind] for kind in closest],
            )
            for heard, closest, sentences in zip(near, close, written, strict=True)
        ]

    def _chosen(self, ballots: list[Ballot], written: list[list[Hypothesis]]) -> list[tuple[Words, float]]:
        """The words of the least risk, and their expected BLEU."""
        by = self.decoding.weighting
        return [
            ballot.choose(by) or (sentences[0].words, 0.0) for ballot, sentences in zip(ballots, written, strict=True)
        ]

    def _highlights(self, row: Encoded, words: Sequence[str]) -> tuple[float, ...]:
        """How much the network looked at each instruction while it wrote a sentence, the most looked at 1."""
        looked = looked_at(self.network, self.encoder, row, words)
        weights = [0.0] * row.instructions
        for members, value in zip(row.members, looked.get("graph", []), strict=False):
            for node in members:
                weights[node] += value
        for node, value in zip(row.code_nodes, looked.get("code", []), strict=False):
            weights[node] += value
        most = max(weights, default=0.0)
        return tuple(value / most if most else 0.0 for value in weights)

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: network, way of decoding, and, where there are, index, vectors, refiner."""
        save_network(folder, self.encoder, self.network)
        if self.index is not None:
            self.index.save(folder / "index")
        if self.vectors is not None:
            self.vectors.save(folder / "vectors.safetensors")
        if self.refiner is not None:
            self.refiner.save(folder / "refiner")
        write_json_atomic(folder / "decoding.json", self.decoding.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Learned:
        """Read what `save` wrote.

        Raises:
            InputFileError: the folder holds no network, or a damaged one.
        """
        encoder, network = load_network(folder)
        path = folder / "decoding.json"
        try:
            decoding = DecodingConfig.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputFileError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error
        # Without an index of its own it reads what it is given later, or nothing.
        index = Index.load(folder / "index") if (folder / "index").exists() else None
        refiner = load_refiner(folder / "refiner") if network.config.refined else None
        vectors = None
        if index is not None and network.config.contrast:
            vectors = KnownVectors.load(folder / "vectors.safetensors", index.pairs)
        return cls(encoder, network, index, decoding, refiner, vectors)
