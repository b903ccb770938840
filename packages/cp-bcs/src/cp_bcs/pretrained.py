"""Checkpoints of the user's own, through transformers: an encoder that reads pseudo code, and seq2seq models.

The released code has CodeT5's encoder as a variant of the one for pseudo code, and refines with CodeT5. No checkpoint
is part of this package: a folder is named, and what is learned from it is saved whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cp_bcs.method.encoders import Memory, at_least_one
from mpo_core.errors import UsageError
from mpo_core.repro.batches import SortedBatches, padded
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.models import build_model, load_config, load_model, load_tokenizer
from mpo_core.repro.training import Batch, fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
"""Label of a place that does not count in the loss (transformers)."""


@dataclass(frozen=True)
class Reader:
    """A pretrained encoder with its tokenizer.

    Attributes:
        tokenizer: what cuts texts into pieces.
        name: of the checkpoint, or of the folder that `save` wrote.
        saved: whether `save` wrote it: then the weights are with those of the whole network.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    saved: bool = False

    @classmethod
    def open(cls, name: str, saved: bool = False) -> Reader:
        """Find a checkpoint.

        Args:
            name: a folder in Hugging Face form.
            saved: whether `save` wrote it.

        Raises:
            InputFileError: it has no tokenizer that can be read.
        """
        return cls(load_tokenizer(name), name, saved)

    def model(self) -> PreTrainedModel:
        """The whole model; of a saved one without its weights.

        Raises:
            InputFileError: it cannot be read.
        """
        return build_model(self.name, "backbone") if self.saved else load_model(self.name, "backbone")

    def numbers(self, text: str, length: int) -> list[int]:
        """The pieces of a text, at most so many, each one higher than its number: 0 is padding."""
        if not text:
            return []
        found: Any = self.tokenizer(text, truncation=True, max_length=length)
        return [number + 1 for number in found["input_ids"]]

    def save(self, folder: Path) -> None:
        """Write configuration and tokenizer, not the weights."""
        self.tokenizer.save_pretrained(folder)
        load_config(self.name).save_pretrained(folder)


class PretrainedEncoder(nn.Module):
    """A pretrained encoder that stays as it is, and a linear map of its states.

    Args:
        reader: the checkpoint.
        d: dimension of the states that come out.
        length: pieces that will be read, at most.

    Raises:
        InputFileError: the checkpoint cannot be read.
        UsageError: it has fewer places than `length`.
    """

    def __init__(self, reader: Reader, d: int, length: int) -> None:
        super().__init__()
        model = reader.model()
        config: Any = model.config
        places = getattr(config, "max_position_embeddings", None)
        if places is not None and length > places:
            raise UsageError(f"encoder {reader.name} reads {places} pieces at most; pseudo_length is {length}.")
        whole: Any = model
        self.model: Any = (whole.get_encoder() if config.is_encoder_decoder else whole).requires_grad_(False).eval()
        self.project = nn.Linear(config.hidden_size, d)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Set the mode of the map; the encoder is always in the mode `eval`."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, tokens: Tensor) -> Memory:
        """States of the pieces (batch, t), numbered as `Reader.numbers` does."""
        there = at_least_one(tokens != 0)
        with torch.no_grad():
            found = self.model(input_ids=(tokens - 1).clamp_min(0), attention_mask=there.long())
        return Memory(self.project(found.last_hidden_state), there)


@dataclass
class Translator:
    """A seq2seq model: texts in, texts out.

    Attributes:
        model: with a language-modelling head.
        tokenizer: of both sides.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def open(cls, name: str, seed: int = 0) -> Translator:
        """Read a checkpoint.

        Args:
            name: a folder in Hugging Face form.
            seed: of weights that it lacks.

        Raises:
            InputFileError: it is none, or cannot be read.
        """
        return cls(load_model(name, "seq2seq", seed=seed), load_tokenizer(name))

    def learn(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        training: TrainingConfig,
        *,
        lengths: tuple[int, int],
        learning_rate: float,
        seed: int,
        folder: Path,
    ) -> FitResult:
        """Fine-tune on pairs of texts, or go on where an earlier call on the same folder stopped.

        Args:
            sources: what is read.
            targets: what is to be written, one for each.
            training: epochs, schedule, batches.
            lengths: pieces of a source and of a target, at most.
            learning_rate: peak.
            seed: of order and dropout.
            folder: gets checkpoints and a log.
        """
        read: Any = self.tokenizer(list(sources), truncation=True, max_length=lengths[0])
        written: Any = self.tokenizer(text_target=list(targets), truncation=True, max_length=lengths[1])
        rows: list[tuple[list[int], list[int]]] = list(zip(read["input_ids"], written["input_ids"], strict=True))
        batches = SortedBatches(rows, lambda row: len(row[0]), self._batch, training.batch_size, seed)
        return fit(self.model, batches, training, learning_rate=learning_rate, seed=seed, folder=folder)

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
        read = [row for row, _ in rows]
        return {
            "input_ids": padded(read, self._padding),
            "attention_mask": padded([[1] * len(row) for row in read], 0),
            "labels": padded([row for _, row in rows], IGNORED),
        }

    @property
    def _padding(self) -> int:
        tokenizer: Any = self.tokenizer
        return tokenizer.pad_token_id or 0

    @torch.no_grad()
    def write(
        self, sources: Sequence[str], *, lengths: tuple[int, int], beams: int = 1, batch_size: int = 32
    ) -> list[str]:
        """What the model makes of texts.

        Args:
            sources: the texts.
            lengths: pieces of a source and of what is written, at most.
            beams: of the search.
            batch_size: texts at a time.
        """
        self.model.eval()
        model: Any = self.model
        texts: list[str] = []
        for start in range(0, len(sources), batch_size):
            block = list(sources[start : start + batch_size])
            read: Any = self.tokenizer(block, truncation=True, max_length=lengths[0], padding=True, return_tensors="pt")
            found = model.generate(
                input_ids=read["input_ids"].to(model.device),
                attention_mask=read["attention_mask"].to(model.device),
                num_beams=beams,
                max_new_tokens=lengths[1],
                do_sample=False,
            )
            texts += self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save(self, folder: Path) -> None:
        """Write a folder in Hugging Face form."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
