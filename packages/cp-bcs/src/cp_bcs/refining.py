"""The refiner: from the pseudo code of a stripped function to what it would be, had the binary not been stripped.

The paper fine-tunes CodeT5 for it. Here it is the same network as the one that summarises, with one encoder, and it may
copy from what it reads; or a seq2seq checkpoint of the user's (`Pretrained`). It learns from the training functions and
the pseudo code of their unstripped twins, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cp_bcs.config import ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.decoding import write
from cp_bcs.encoding import Encoder
from cp_bcs.model import SummaryNetwork
from cp_bcs.retrieval import Neighbour
from cp_bcs.saving import load_network, new_network, save_network
from cp_bcs.tokens import pseudo_words
from mpo_core.errors import UsageError
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.training import fit


def refiner_config(model: ModelConfig) -> ModelConfig:
    """The network of a refiner: it reads pseudo code, and copies from it as from the sentence of a neighbour."""
    return model.model_copy(
        update={
            "sources": ("pseudo", "neighbours"),
            "writes": "pseudo",
            "summary_length": model.pseudo_length,
            "neighbours": 1,
            "refined": False,
        }
    )


@dataclass
class Refiner:
    """A trained one.

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
        train: Sequence[Pair],
        training: TrainingConfig,
        *,
        learning_rate: float,
        seed: int,
        folder: Path,
    ) -> Refiner:
        """Train a refiner.

        Args:
            model: of the network that will read what it writes; its sizes are the refiner's.
            train: functions; those without pseudo code of an unstripped twin teach nothing.
            training: epochs, schedule, batches.
            learning_rate: peak.
            seed: of weights, order and dropout.
            folder: gets checkpoints and a log.

        Raises:
            UsageError: no function has both.
        """
        taught = [replace(pair, sentence=pair.pseudo_twin) for pair in train if pair.pseudo and pair.pseudo_twin]
        if not taught:
            raise UsageError(
                "a refiner needs pseudo code of unstripped twins, and these functions have none; make the corpora "
                "with --pseudo."
            )
        config = refiner_config(model)
        encoder = Encoder.learn(config, taught)
        network = new_network(encoder, seed)
        fit(
            network,
            encoder.batches(encoder.encode(taught, _themselves(taught)), training.batch_size, seed),
            training,
            learning_rate=learning_rate,
            seed=seed,
            folder=folder,
            loss_of=lambda wrapped, batch: network.loss(wrapped(batch), batch),
        )
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
        """Write a new folder, which `load` reads."""
        save_network(folder, self.encoder, self.network)

    @classmethod
    def load(cls, folder: Path) -> Refiner:
        """Read what `save` wrote.

        Raises:
            InputFileError: the folder holds no network, or a damaged one.
        """
        return cls(*load_network(folder))


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
