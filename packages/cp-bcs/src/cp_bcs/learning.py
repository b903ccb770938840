"""Training of one network, or of a seq2seq checkpoint, on one split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from cp_bcs.config import DecodingConfig, ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.data.splits import Split
from cp_bcs.encoding import Encoder
from cp_bcs.learned import Learned
from cp_bcs.pretrained import Translator
from cp_bcs.refining import learn_refiner, refined_by_others, with_pseudo
from cp_bcs.retrieval import Index
from cp_bcs.saving import new_network
from cp_bcs.tokens import code_words
from mpo_core.errors import UsageError
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.training import fit

OnProgress = Callable[[int, int], None]


class Chosen(TypedDict):
    """What a trial decides of a training: rate, seed, and the folder for its checkpoints."""

    learning_rate: float
    seed: int
    folder: Path


def learn(
    model: ModelConfig,
    decoding: DecodingConfig,
    split: Split,
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None = None,
) -> tuple[Learned, FitResult]:
    """Train a network on the training part of a split, or go on where an earlier call on the same folder stopped.

    A training function's neighbours are as near as those of a test function can be: of a split by file, for example,
    none is from its own file.

    Args:
        model: sizes and forms.
        decoding: how sentences are chosen.
        split: what to learn from; its dev part is looked at by ``variant: released``, and by decoding that is tuned.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of weights, order and dropout.
        folder: gets checkpoints and logs.
        on_progress: called after every step with steps done and steps in all.

    Raises:
        UsageError: pseudo code is to be read, and the functions have none.
        DivergedError: the loss of a refiner is no longer finite.
    """
    refiner, train, dev = None, split.train, split.dev
    if "pseudo" in model.sources and not any(pair.pseudo for pair in train):
        raise UsageError(f"the split {split.name} holds no pseudo code; make the corpora with --pseudo.")
    if model.refined:
        chosen: Chosen = {"learning_rate": learning_rate, "seed": seed, "folder": folder / "refiner"}
        refiner = learn_refiner(model, train, training, **chosen)
        dev = tuple(with_pseudo(dev, refiner.refine(dev)))
        train = tuple(refined_by_others(model, train, split.group, training, **chosen))
    encoder = Encoder.learn(model, train, dev)
    index = Index(train) if "neighbours" in model.sources or decoding.consensus else None
    learned = Learned(encoder, new_network(encoder, seed), index, decoding, refiner)
    rows, _ = learned.encode(train, apart=split.group)
    fitted = fit(
        learned.network,
        encoder.batches(rows, training.batch_size, seed),
        training,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
        loss_of=lambda network, batch: learned.network.loss(network(batch), batch),
        on_progress=on_progress,
    )
    if index is not None and fitted.status == "completed":
        learned.use_index(index, refined=True)
    if decoding.consensus and decoding.tuned and fitted.status == "completed":
        learned.tune_decoding(split.dev)
    return learned, fitted


def learn_translator(
    checkpoint: str,
    model: ModelConfig,
    train: Sequence[Pair],
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
) -> tuple[Translator, FitResult]:
    """Fine-tune a seq2seq checkpoint from the text of functions to their sentences; see `translate`.

    Args:
        checkpoint: folder in Hugging Face form.
        model: its sources and lengths say what is read.
        train: functions.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of order and dropout.
        folder: gets checkpoints and a log.

    Raises:
        InputFileError: the checkpoint cannot be read.
        UsageError: pseudo code is to be read, and the functions have none.
    """
    translator = Translator.open(checkpoint, seed)
    fitted = translator.learn(
        texts_of(model, train),
        [pair.sentence for pair in train],
        training,
        lengths=_lengths(model),
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
    )
    return translator, fitted


def translate(translator: Translator, model: ModelConfig, pairs: Sequence[Pair], beams: int) -> list[str]:
    """The sentences that a fine-tuned seq2seq model makes of functions."""
    return translator.write(texts_of(model, pairs), lengths=_lengths(model), beams=beams)


def texts_of(model: ModelConfig, pairs: Sequence[Pair]) -> list[str]:
    """What a seq2seq model reads of functions: pseudo code if that is among the sources, else code.

    Raises:
        UsageError: pseudo code is to be read, and no function has any.
    """
    if "pseudo" not in model.sources:
        return ["\n".join(" ".join(row) for row in code_words(pair, model.texts)) for pair in pairs]
    if not any(pair.pseudo for pair in pairs):
        raise UsageError("these functions have no pseudo code; make the corpora with --pseudo.")
    return [pair.pseudo or "" for pair in pairs]


def _lengths(model: ModelConfig) -> tuple[int, int]:
    """Pieces of a source and of a sentence, whose words are a piece or two each."""
    return model.pseudo_length if "pseudo" in model.sources else model.code_length, 2 * model.summary_length
