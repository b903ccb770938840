"""The known functions in a network's shared space, and which of them lie near a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cp_bcs.data.pairs import Pair
from cp_bcs.encoding import Encoded, Encoder
from cp_bcs.method.shared_space import WARMTH
from cp_bcs.model import SummaryNetwork
from mpo_core.errors import InputFileError
from mpo_core.repro.devices import device_of, to_device

Weighted = tuple[Pair, float]
"""A known function and its share, of those that are looked at, of the chances."""

_BATCH = 64


@dataclass(frozen=True)
class KnownVectors:
    """Documented functions and their sentences as vectors.

    Attributes:
        pairs: the functions.
        functions: their vectors, (n, d).
        sentences: those of their sentences, (n, d).
    """

    pairs: tuple[Pair, ...]
    functions: Tensor
    sentences: Tensor

    @classmethod
    def of(cls, network: SummaryNetwork, encoder: Encoder, pairs: Sequence[Pair]) -> KnownVectors:
        """Place functions with their sentences; those without a sentence are left out.

        Args:
            network: a trained one, in the mode `eval`.
            encoder: its vocabularies.
            pairs: the functions.
        """
        documented = tuple(pair for pair in pairs if pair.sentence)
        rows = encoder.encode(documented)
        with torch.no_grad():
            sentences = [network.place_sentences(batch["target"]) for batch in _batches(network, encoder, rows)]
        return cls(documented, place(network, encoder, rows), torch.cat(sentences).cpu())

    def near(self, network: SummaryNetwork, placed: Tensor, k: int) -> list[tuple[list[Weighted], list[Weighted]]]:
        """For each function the k nearest known ones, and those with the k nearest sentences.

        Args:
            network: that placed all of them.
            placed: vectors of functions (m, d).
            k: how many.
        """
        with torch.no_grad():
            alike = placed @ self.functions.mT * WARMTH
            device = device_of(network)
            fitting = network.shared_space.likeness(placed.to(device), self.sentences.to(device)).cpu()
        kinds = [self._likeliest(logits, k) for logits in (alike, fitting)]
        return list(zip(*kinds, strict=True))

    def _likeliest(self, logits: Tensor, k: int) -> list[list[Weighted]]:
        best = logits.topk(min(k, len(self.pairs)), dim=-1)
        shares = best.values.softmax(-1).tolist()
        return [
            [(self.pairs[place], share) for place, share in zip(places, row, strict=True)]
            for places, row in zip(best.indices.tolist(), shares, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write the vectors; the functions are in the index."""
        save_file({"functions": self.functions, "sentences": self.sentences}, path)

    @classmethod
    def load(cls, path: Path, pairs: Sequence[Pair]) -> KnownVectors:
        """Read what `save` wrote.

        Args:
            path: the file.
            pairs: the known functions, those without a sentence included.

        Raises:
            InputFileError: it is damaged, or of other functions.
        """
        documented = tuple(pair for pair in pairs if pair.sentence)
        try:
            read = load_file(path)
            functions, sentences = read["functions"], read["sentences"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputFileError(f"{path} holds no vectors ({error}).") from error
        if not len(functions) == len(sentences) == len(documented):
            raise InputFileError(f"{path} holds {len(functions)} vectors, but the index {len(documented)} functions.")
        return cls(documented, functions, sentences)


@torch.no_grad()
def place(network: SummaryNetwork, encoder: Encoder, rows: Sequence[Encoded]) -> Tensor:
    """Vectors of functions in the shared space, (n, d).

    Args:
        network: a trained one, in the mode `eval`.
        encoder: its vocabularies.
        rows: the functions.
    """
    found = [network.place(network.read(batch, own=True)) for batch in _batches(network, encoder, rows)]
    return torch.cat(found).cpu()


def _batches(network: SummaryNetwork, encoder: Encoder, rows: Sequence[Encoded]) -> list[dict[str, Tensor]]:
    made = (encoder.batch(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH))
    return [to_device(batch, device_of(network)) for batch in made]
