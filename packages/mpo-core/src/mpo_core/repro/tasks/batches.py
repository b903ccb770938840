"""From examples to padded batches whose order is a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.tasks.task import Kind, Split, TextTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
WINDOW_BATCHES = 50
_ENCODE_AT_ONCE = 1000


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example (or one window of a document), unpadded.

    ``token_type_ids`` is ``None`` where they are all 0 in the split, which is what a model assumes without
    them (some tokenizers give them to models that take none).
    """

    input_ids: list[int]
    token_type_ids: list[int] | None
    label: int | float | None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Masking:
    """How masked language modelling hides tokens (Devlin et al. 2019, 3.1): 80 % mask, 10 % random.

    Args:
        mask_token_id: the mask.
        vocab_size: random tokens are drawn below it.
        special_ids: never hidden.
        probability: share of the other tokens that is to be predicted.
    """

    mask_token_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    probability: float = 0.15

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, probability: float = 0.15) -> Masking:
        """The masking that fits a tokenizer.

        Raises:
            UsageError: it has no mask token.
        """
        mask: Any = tokenizer.mask_token_id
        if not isinstance(mask, int):
            raise UsageError("masked language modelling needs a tokenizer with a mask token; this one has none.")
        return cls(mask, len(tokenizer), tuple(sorted(tokenizer.all_special_ids)), probability)


def encode_split(
    task: TextTask, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[EncodedExample]:
    """Tokenise a split.

    Texts longer than ``max_length`` tokens are cut off; the documents of language modelling are cut into
    windows instead, each with the tokenizer's special tokens, every token in one window, only a document's
    last one shorter.

    Raises:
        UsageError: no such split.
        InputFileError: language modelling text too short to predict anything.
    """
    if split not in task.splits:
        raise UsageError(f"the task {task.name} has no split {split!r}; it has {', '.join(task.splits)}.")
    windows = task.kind == "language-modelling"
    encoded: list[EncodedExample] = []
    examples = task.splits[split]
    for start in range(0, len(examples), _ENCODE_AT_ONCE):
        part = examples[start : start + _ENCODE_AT_ONCE]
        columns: Any = list(map(list, zip(*(example.texts for example in part), strict=True)))
        fields = tokenizer(
            *columns,
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=windows,
            return_attention_mask=False,
            verbose=False,
        )
        types = fields.get("token_type_ids")
        ids: Any = fields["input_ids"]
        for place, row in enumerate(ids):
            label = None if windows else part[place].label
            encoded.append(EncodedExample(list(row), list(types[place]) if types else None, label))
    if not any(any(row.token_type_ids or ()) for row in encoded):
        encoded = [EncodedExample(row.input_ids, None, row.label) for row in encoded]
    if not windows:
        return encoded
    # One token alone, or special tokens alone, predict nothing.
    kept = [window for window in encoded if len(window) >= 2 and len(window) > _special_count(tokenizer)]
    if not kept:
        raise InputFileError(f"the split {split!r} of {task.name} is too short: no window has two tokens.")
    return kept


class TextBatches:
    """Batches of an encoded split, for `fit`: sized, and iterated by epoch.

    Batches are of near equal length: the examples are shuffled, sorted within runs of 50 batches, and the
    batches shuffled again.

    Args:
        encoded: of `encode_split`.
        batch_size: examples per batch; the last one may be smaller.
        seed: of order and masking.
        pad_token_id: fills rows; masked in attention and labels.
        shuffle: ``False`` sorts by length once and keeps that order.
        kind: labels are ``long`` (classification), ``float`` (regression) or tokens (language modelling).
        masking: makes language modelling masked instead of causal.
    """

    def __init__(
        self,
        encoded: Sequence[EncodedExample],
        batch_size: int,
        seed: int,
        pad_token_id: int,
        shuffle: bool = True,
        kind: Kind = "classification",
        masking: Masking | None = None,
    ) -> None:
        if not encoded:
            raise UsageError("there are no examples to make batches of.")
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, found {batch_size}.")
        self.encoded = list(encoded)
        self.batch_size = batch_size
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.shuffle = shuffle
        self.kind = kind
        self.masking = masking

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.encoded) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The batches of one epoch, the same for the same seed and epoch.

        Yields:
            ``input_ids``, ``attention_mask`` and, where the tokenizer gives them, ``token_type_ids`` of shape
            ``(batch, length)``; ``labels`` of shape ``(batch,)``, in language modelling ``(batch, length)``
            with -100 where nothing is predicted.
        """
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        for indices in self._order(generator):
            yield self._collate([self.encoded[index] for index in indices], generator)

    def order(self, epoch: int) -> list[list[int]]:
        """The example indices of each batch of one epoch."""
        return self._order(torch.Generator().manual_seed(_mix(self.seed, epoch)))

    def _order(self, generator: torch.Generator) -> list[list[int]]:
        total, size = len(self.encoded), self.batch_size
        if not self.shuffle:
            order = sorted(range(total), key=lambda index: len(self.encoded[index]))
            return [order[start : start + size] for start in range(0, total, size)]
        shuffled: list[int] = torch.randperm(total, generator=generator).tolist()
        run = size * WINDOW_BATCHES
        batches: list[list[int]] = []
        for start in range(0, total, run):
            window = sorted(shuffled[start : start + run], key=lambda index: len(self.encoded[index]))
            batches += [window[place : place + size] for place in range(0, len(window), size)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def _collate(self, rows: list[EncodedExample], generator: torch.Generator) -> dict[str, Tensor]:
        width = max(map(len, rows))
        batch = {
            "input_ids": _pad([row.input_ids for row in rows], width, self.pad_token_id),
            "attention_mask": _pad([[1] * len(row) for row in rows], width, 0),
        }
        types = [row.token_type_ids for row in rows if row.token_type_ids is not None]
        if len(types) == len(rows):
            batch["token_type_ids"] = _pad(types, width, 0)
        if self.kind == "language-modelling":
            if self.masking is None:
                batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
            else:
                batch["input_ids"], batch["labels"] = _mask(batch, self.masking, generator)
        elif all(row.label is not None for row in rows):
            dtype = torch.float32 if self.kind == "regression" else torch.long
            batch["labels"] = torch.tensor([row.label for row in rows], dtype=dtype)
        return batch


def _mask(batch: dict[str, Tensor], masking: Masking, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide one token a row at least; gives the changed ids and the labels, both ``(batch, length)``."""
    ids = batch["input_ids"]
    allowed = (batch["attention_mask"] == 1) & ~torch.isin(ids, torch.tensor(masking.special_ids, dtype=ids.dtype))
    draw = torch.rand(ids.shape, generator=generator).masked_fill(~allowed, 2.0)
    chosen = draw < masking.probability
    # A short row may draw none; its lowest draw then counts, so that no batch has an empty mean.
    lowest = torch.zeros_like(chosen).scatter_(1, draw.argmin(dim=1, keepdim=True), True)
    chosen = (chosen | (lowest & ~chosen.any(dim=1, keepdim=True))) & allowed
    fate = torch.rand(ids.shape, generator=generator)
    noise = torch.randint(masking.vocab_size, ids.shape, generator=generator)
    hidden = torch.where(fate < 0.8, masking.mask_token_id, torch.where(fate < 0.9, noise, ids))
    return torch.where(chosen, hidden, ids), ids.masked_fill(~chosen, IGNORED)


def _pad(rows: Sequence[Sequence[int]], width: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def _special_count(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.num_special_tokens_to_add(pair=False))


def _mix(seed: int, epoch: int) -> int:
    """One generator seed of the two, so that (0, 1) and (1, 0) differ."""
    return (seed * 1_000_003 + epoch) % 2**63
