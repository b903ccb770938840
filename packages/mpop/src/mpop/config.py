"""The configuration of MPOP's experiments and of its command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig, TaskConfig, TrainingConfig

DEFAULT_EXCLUDE = (
    "*position_embeddings", "*token_type_embeddings", "*wpe", "*embedding_hidden_mapping_in",
    "*lm_head", "classifier*", "score", "qa_outputs*", "cls.*", "*pre_classifier", "vocab_*",
)  # fmt: skip
"""What is not decomposed unless asked for: tables of positions, ALBERT's factorised embedding's map, output heads.

A head that is tied to a decomposed embedding follows it.
"""

Trains = Literal["all", "auxiliary", "auxiliary-only", "central", "last-layers", "biases", "lora", "nothing"]


class Compression(StrictModel):
    """How the matrices of a model become matrix product operators.

    At most one of ``bond``, ``budget`` and ``tolerance`` is given; none of them means full bonds, which is lossless.

    Attributes:
        n: core tensors per matrix (paper: 5).
        cores: name pattern -> core tensors of the matrices it matches, before ``n`` (the first pattern that fits wins).
        bond: one cap on every bond.
        bonds: name pattern -> cap for the matrices it matches, before ``bond`` (the first pattern that fits wins).
        budget: parameters of the compressed model as a share of the original's, in (0, 1].
        tolerance: relative Frobenius error allowed per matrix, in (0, 1).
        include: name patterns of the matrices to decompose.
        exclude: name patterns of matrices to leave alone.
        shapes: ``paper`` takes the factors of the paper's appendix for the sizes that it lists, ``balanced`` never;
            ``low-rank`` makes two factors of a truncated singular value decomposition of every matrix, whatever ``n``.
    """

    n: int = Field(default=5, ge=1, le=16)
    cores: dict[str, Annotated[int, Field(ge=1, le=16)]] = Field(default_factory=dict)
    bond: int | None = Field(default=None, ge=1)
    bonds: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    budget: float | None = Field(default=None, gt=0, le=1)
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    shapes: Literal["paper", "balanced", "low-rank"] = "paper"

    @model_validator(mode="after")
    def _one_limit(self) -> Compression:
        limits = [name for name in ("bond", "budget", "tolerance") if getattr(self, name) is not None]
        if len(limits) > 1:
            raise ValueError(f"{limits[0]} and {limits[1]} exclude each other; give one")
        if self.bonds and (self.budget is not None or self.tolerance is not None):
            raise ValueError("bonds per pattern go with bond or alone, not with budget or tolerance")
        return self


Structure = Literal["embedding", "attention", "linear"]


class Squeeze(StrictModel):
    """How bonds are cut while the model trains (Algorithm 2); sizes are shares of the dense model's parameters.

    Attributes:
        variant: the paper's algorithm; for the released code's see `ReleasedSqueeze`.
        target_size: where cutting ends; needed unless ``cuts`` says how many there are.
        stages: how often the training is interrupted to cut.
        cuts: bonds cut by one at each stage (paper: 1); as many as an even way to ``target_size`` needs if left out.
        begin: share of the training before the first cut: lightweight fine-tuning to begin with.
        end: share of it after which nothing is cut any more.
        bonds: ``all``, or the two of the central tensor (the paper's).
        order: what is kept small: the ``error`` of all matrices together (the paper's), the ``relative-error`` of each,
            or that for each parameter saved (``error-per-parameter``).
        spectra: Schmidt values of the ``current`` cores, or the ``initial`` ones (the paper's).
        threshold: relative drop of the metric, against that before the first cut, that ends squeezing.
        patience: so many stages in a row may be below it.
    """

    variant: Literal["paper"] = "paper"
    target_size: float | None = Field(default=None, gt=0, lt=1)
    stages: int = Field(default=10, ge=1)
    cuts: int | None = Field(default=None, ge=1)
    begin: float = Field(default=0.1, ge=0, lt=1)
    end: float = Field(default=0.6, gt=0, le=1)
    bonds: Literal["all", "central"] = "all"
    order: Literal["error", "relative-error", "error-per-parameter"] = "relative-error"
    spectra: Literal["current", "initial"] = "current"
    threshold: float | None = Field(default=None, ge=0)
    patience: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _there_is_an_end(self) -> Squeeze:
        if self.target_size is None and self.cuts is None:
            raise ValueError("squeeze needs target_size, or cuts per stage")
        if self.begin >= self.end:
            raise ValueError(f"squeezing begins at {self.begin:g} of the training, so it cannot end at {self.end:g}")
        return self


class ReleasedSqueeze(StrictModel):
    """How the authors' released callback cuts (docs/errata.md, MPOP 4): by the training loss and a list of structures.

    A structure is ``embedding``, ``attention`` (query, key, value, output) or ``linear`` (the rest); one cap is on all
    bonds of a structure, and a cut lowers it by one.

    Attributes:
        variant: marks it.
        best_loss: the training loss at full bonds on this task, set by hand there.
        slack: the loss may be so much above it (there ``THRESH``: .03, for RTE .005).
        window: steps of the moving average of the loss.
        steps_under: so many steps below ``best_loss + slack`` before the next cut; for attention see the next.
        steps_under_attention: the same before a cut of attention.
        give_up: after so many steps above it no more is cut.
        start: first caps; a structure that is not named starts at its widest bond.
        stop: caps that are not gone below (there 150 for ``linear``).
        order: structures in the order of their cuts; the file that held it was never released, so by default the one
            whose cut has the least estimated error.
    """

    variant: Literal["released"]
    best_loss: float
    slack: float = Field(default=0.03, ge=0)
    window: int = Field(default=10, ge=1)
    steps_under: int = Field(default=10, ge=1)
    steps_under_attention: int = Field(default=30, ge=1)
    give_up: int = Field(default=2000, ge=1)
    start: dict[Structure, int] = Field(default_factory=dict)
    stop: dict[Structure, int] = Field(default_factory=dict)
    order: tuple[Structure, ...] | None = None


def _variant(given: Any) -> Any:
    """Whose squeezing is meant: the paper's where nothing is said."""
    return given.get("variant", "paper") if isinstance(given, Mapping) else getattr(given, "variant", None)


AnySqueeze = Annotated[
    Annotated[Squeeze, Tag("paper")] | Annotated[ReleasedSqueeze, Tag("released")],
    Discriminator(
        _variant,
        custom_error_type="squeeze_variant",
        custom_error_message="Input should be a mapping, with variant paper or released if any",
    ),
]


class Arm(ArmConfig):
    """One method: what is decomposed and what is trained.

    Attributes:
        compression: ``None`` leaves the model dense.
        squeeze: cut bonds while training; begins at the bonds of ``compression``.
        trains: ``auxiliary`` is the paper's lightweight fine-tuning (LFA): all but the central tensors, so that biases,
            norms and head train, too, as its #Pr counts them; ``auxiliary-only`` auxiliary tensors and head;
            ``central`` all but the auxiliary tensors; ``last-layers`` the last ``layers`` encoder layers and the head;
            ``biases`` (BitFit) biases and head; ``lora`` updates of rank ``lora_rank`` and the head.
        layers: for ``last-layers``.
        lora_rank: for ``lora``.
        keep_blocks: leave only these blocks of the backbone (as DistilBERT's student starts), before all else.
        architecture: for ``study: count``, the model as the keyword arguments of its transformers configuration.
        matrices: for ``study: truncate``, the matrices of the model or random ones.
    """

    compression: Compression | None = None
    squeeze: AnySqueeze | None = None
    trains: Trains = "all"
    layers: int = Field(default=1, ge=1)
    lora_rank: int = Field(default=8, ge=1)
    keep_blocks: tuple[int, ...] | None = None
    architecture: dict[str, Any] | None = None
    matrices: Literal["model", "random"] = "model"

    @model_validator(mode="after")
    def _there_is_something_to_squeeze(self) -> Arm:
        if self.squeeze is not None and self.compression is None:
            raise ValueError("squeeze cuts the bonds of matrix product operators, so the arm needs compression")
        if self.squeeze is not None and self.trains == "nothing":
            raise ValueError("squeeze goes with training, but the arm trains nothing")
        if self.trains == "lora" and self.compression is not None:
            raise ValueError("lora adds to dense layers, so the arm cannot have compression as well")
        return self


class TunedStart(StrictModel):
    """The dense model is tuned on the task first, once for all trials of a run; they start from what came out.

    Without it, trials of a few minutes judge how fast an arm learns a task at all; with it, what an arm loses.

    Attributes:
        learning_rate: peak.
        training: epochs, batches, schedule; of all training examples, whatever ``task.train_size`` says.
        seed: of the head, order and dropout.
    """

    learning_rate: float = Field(gt=0)
    training: TrainingConfig
    seed: int = 0


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        study: ``finetune`` trains on a task; ``count`` counts parameters on meta-device models; ``truncate`` measures
            truncation errors, bounds and entropies.
        model: ``minilm``, a Hugging Face folder or a hub name.
        start: for ``finetune``, tune the dense model first.
        cases: for ``truncate``, random truncations per arm.
    """

    study: Literal["finetune", "count", "truncate"] = "finetune"
    model: str = "minilm"
    task: TaskConfig | None = None
    training: TrainingConfig = TrainingConfig()
    start: TunedStart | None = None
    cases: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _parts_fit_the_study(self) -> Config:
        if self.study == "finetune" and self.task is None:
            raise ValueError("a finetune study needs a task")
        if self.study != "finetune" and self.start is not None:
            raise ValueError("only a finetune study has a start")
        for name, arm in self.arms.items():
            if self.study == "count" and arm.architecture is None:
                raise ValueError(f"arm {name!r} of a count study needs an architecture")
            if self.study == "finetune" and not arm.learning_rates and arm.trains != "nothing":
                raise ValueError(f"arm {name!r} trains {arm.trains}, so it needs learning_rates")
        return self
