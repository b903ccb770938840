"""The refiner: from the pseudo code of a stripped function to what it would be, had the binary not been stripped.

The paper fine-tunes CodeT5 for it. Here it is the same network as the one that summarises, with one encoder, and it may
copy from what it reads; or a seq2seq checkpoint of the user's. It learns from the training functions and
the pseudo code of their unstripped twins, and from nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cp_bcs.config import ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.decoding import write
from cp_bcs.encoding import Encoder
from cp_bcs.model import SummaryNetwork
from cp_bcs.pretrained import Translator
from cp_bcs.retrieval import Neighbour
from cp_bcs.saving import load_network, new_network, save_network
from cp_bcs.tokens import pseudo_words
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.training import fit

LENGTH = "refiner.json"


def refiner_config(model: ModelConfig) -> ModelConfig:
    """The network of a refiner: it reads pseudo code, and copies from it as from the sentence of a neighbour."""
    return model.model_copy(
        update={
            "sources": ("pseudo", "neighbours"),
            "writes": "pseudo",
            "summary_length": model.pseudo_length,
            "neighbours": 1,
            "refined": False,
            "refiner": None,
            "encoder": None,
        }
    )


class Refiner(Protocol):
    """What rewrites pseudo code."""

    def refine(self, pairs: Sequence[Pair]) -> list[str | None]:
        """What the pseudo code of functions would be; None where a function has none."""
        ...

    def save(self, folder: Path) -> None:
        """Write a new folder, which `load_refiner` reads."""
        ...


def learn_refiner(
    model: ModelConfig,
    train: Sequence[Pair],
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
) -> Refiner:
    """Train a refiner.

    Args:
        model: of the network that will read what it writes: it names a checkpoint, or its sizes are the refiner's.
        train: functions; those without pseudo code of an unstripped twin teach nothing.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of weights, order and dropout.
        folder: gets checkpoints and a log.

    Raises:
        UsageError: no function has both.
        InputFileError: the checkpoint cannot be read.
        DivergedError: the loss is no longer finite.
    """
    taught = [replace(pair, sentence=pair.pseudo_twin) for pair in train if pair.pseudo and pair.pseudo_twin]
    if not taught:
        raise UsageError(
            "a refiner needs pseudo code of unstripped twins, and these functions have none; make the corpora "
            "with --pseudo."
        )
    learn = NetworkRefiner.learn if model.refiner is None else CheckpointRefiner.learn
    return learn(model, taught, training, learning_rate=learning_rate, seed=seed, folder=folder)


def refined_by_others(
    model: ModelConfig,
    train: Sequence[Pair],
    group: Callable[[Pair], Hashable],
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
) -> list[Pair]:
    """Training functions with refined pseudo code, each half by a refiner that was trained on the other.

    What a refiner makes of functions that it was trained on has names that it only remembers; the network that reads
    them would meet others, worse ones, in every function to come.

    Args:
        model: as of `learn_refiner`.
        train: functions.
        group: what stays in one half.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of weights, order and dropout, and of the halves.
        folder: gets checkpoints and logs.

    Raises:
        UsageError: one half has no function with pseudo code of an unstripped twin.
        DivergedError: the loss is no longer finite.
    """
    names = sorted({repr(group(pair)) for pair in train})
    random.Random(seed).shuffle(names)
    half_of = {name: number % 2 for number, name in enumerate(names)}
    halves = [[pair for pair in train if half_of[repr(group(pair))] == half] for half in (0, 1)]
    made: dict[int, Pair] = {}
    for half in (0, 1):
        refiner = learn_refiner(
            model, halves[1 - half], training, learning_rate=learning_rate, seed=seed, folder=folder / f"half-{half}"
        )
        texts = refiner.refine(halves[half])
        made |= {id(old): new for old, new in zip(halves[half], with_pseudo(halves[half], texts), strict=True)}
    return [made[id(pair)] for pair in train]


def names_recovered(refiner: Refiner, pairs: Sequence[Pair]) -> tuple[int, int]:
    """`recovered`, summed over the functions that have pseudo code of both twins."""
    known = [pair for pair in pairs if pair.pseudo and pair.pseudo_twin]
    found = [
        recovered(text or "", pair.pseudo_twin or "", pair.pseudo or "")
        for pair, text in zip(known, refiner.refine(known), strict=True)
    ]
    return sum(hit for hit, _ in found), sum(there for _, there in found)


def load_refiner(folder: Path) -> Refiner:
    """Read what a refiner saved.

    Raises:
        InputFileError: the folder holds none, or a damaged one.
    """
    if (folder / LENGTH).is_file():
        return CheckpointRefiner.load(folder)
    return NetworkRefiner(*load_network(folder))


@dataclass
class NetworkRefiner:
    """A network.

    Attributes:
        encoder: its vocabularies.
        network: the weights.
    """

    encoder: Encoder
    network: SummaryNetwork

    @classmethod
    def learn(
        cls,
        model: ModelConfig,
        taught: Sequence[Pair],
        training: TrainingConfig,
        *,
        learning_rate: float,
        seed: int,
        folder: Path,
    ) -> NetworkRefiner:
        """Train one; `taught` have their twins' pseudo code for a sentence."""
        config = refiner_config(model)
        encoder = Encoder.learn(config, taught)
        network = new_network(encoder, seed)
        fitted = fit(
            network,
            encoder.batches(encoder.encode(taught, _themselves(taught)), training.batch_size, seed),
            training,
            learning_rate=learning_rate,
            seed=seed,
            folder=folder,
            loss_of=lambda wrapped, batch: network.loss(wrapped(batch), batch),
        )
        fitted.require_completed(learning_rate, folder)
        return cls(encoder, network)

    def refine(self, pairs: Sequence[Pair]) -> list[str | None]:
        """What the pseudo code of functions would be; None where a function has none.

        Args:
            pairs: functions.
        """
        self.network.eval()
        asked = [pair for pair in pairs if pair.pseudo]
        found = write(self.network, self.encoder, self.encoder.encode(asked, _themselves(asked)), beams=1)
        texts = iter([" ".join(hypotheses[0].words) for hypotheses in found])
        return [next(texts) if pair.pseudo else None for pair in pairs]

    def save(self, folder: Path) -> None:
        """Write a new folder, which `load_refiner` reads."""
        save_network(folder, self.encoder, self.network)


@dataclass
class CheckpointRefiner:
    """A seq2seq checkpoint, fine-tuned.

    Attributes:
        translator: the model.
        length: pieces that are read and written, at most.
    """

    translator: Translator
    length: int

    @classmethod
    def learn(
        cls,
        model: ModelConfig,
        taught: Sequence[Pair],
        training: TrainingConfig,
        *,
        learning_rate: float,
        seed: int,
        folder: Path,
    ) -> CheckpointRefiner:
        """Fine-tune one; `taught` have their twins' pseudo code for a sentence."""
        translator, length = Translator.open(model.refiner or "", seed), model.pseudo_length
        fitted = translator.learn(
            [pair.pseudo or "" for pair in taught],
            [pair.sentence for pair in taught],
            training,
            lengths=(length, length),
            learning_rate=learning_rate,
            seed=seed,
            folder=folder,
        )
        fitted.require_completed(learning_rate, folder)
        return cls(translator, length)

    def refine(self, pairs: Sequence[Pair]) -> list[str | None]:
        """What the pseudo code of functions would be; None where a function has none."""
        asked = [pair.pseudo for pair in pairs if pair.pseudo]
        texts = iter(self.translator.write(asked, lengths=(self.length, self.length)))
        return [next(texts) if pair.pseudo else None for pair in pairs]

    def save(self, folder: Path) -> None:
        """Write a new folder, which `load_refiner` reads."""
        self.translator.save(folder)
        write_json_atomic(folder / LENGTH, {"length": self.length})

    @classmethod
    def load(cls, folder: Path) -> CheckpointRefiner:
        """Read what `save` wrote.

        Raises:
            InputFileError: a file is damaged.
        """
        path = folder / LENGTH
        try:
            length = int(json.loads(path.read_bytes())["length"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputFileError(f"{path} cannot be read ({error}); train the network again.") from error
        return cls(Translator.open(str(folder)), length)


def with_pseudo(pairs: Sequence[Pair], texts: Sequence[str | None]) -> list[Pair]:
    """Functions with other pseudo code."""
    return [replace(pair, pseudo=text) for pair, text in zip(pairs, texts, strict=True)]


def recovered(written: str, twin: str, stripped: str) -> tuple[int, int]:
    """How many of the twin's words that the stripped text lacks a refiner wrote, and how many there are.

    Args:
        written: by the refiner.
        twin: pseudo code of the unstripped function.
        stripped: what the refiner read.
    """
    lost = set(pseudo_words(twin)) - set(pseudo_words(stripped))
    return len(lost & set(pseudo_words(written))), len(lost)


def _themselves(pairs: Sequence[Pair]) -> list[list[Neighbour]]:
    """Each function's pseudo code as the sentence that can be copied from."""
    return [[Neighbour(replace(pair, sentence=pair.pseudo or ""), 1.0)] for pair in pairs]
