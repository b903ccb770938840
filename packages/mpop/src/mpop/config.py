"""The configuration of MPOP's experiments and of its command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig, TaskConfig, TrainingConfig

DEFAULT_EXCLUDE = (
    "*position_embeddings", "*token_type_embeddings", "*wpe", "*embedding_hidden_mapping_in",
    "*lm_head", "classifier*", "score", "qa_outputs*", "cls.*", "*pre_classifier", "vocab_*",
)  # fmt: skip
"""What is not decomposed unless asked for: tables of positions, ALBERT's factorised embedding's map, output heads.

A head that is tied to a decomposed embedding follows it.
"""

Trains = Literal["all", "auxiliary", "central", "last-layers", "nothing"]


class Compression(StrictModel):
    """How the matrices of a model become matrix product operators.

    At most one of ``bond``, ``budget`` and ``tolerance`` is given; none of them means full bonds, which is lossless.

    Attributes:
        n: core tensors per matrix (paper: 5).
        bond: one cap on every bond.
        bonds: name pattern -> cap for the matrices it matches, before ``bond`` (the first pattern that fits wins).
        budget: parameters of the compressed model as a share of the original's, in (0, 1].
        tolerance: relative Frobenius error allowed per matrix, in (0, 1).
        include: name patterns of the matrices to decompose.
        exclude: name patterns of matrices to leave alone.
        shapes: ``paper`` takes the factors of the paper's appendix for the sizes that it lists, ``balanced`` never.
    """

    n: int = Field(default=5, ge=1, le=16)
    bond: int | None = Field(default=None, ge=1)
    bonds: dict[str, int] = Field(default_factory=dict)
    budget: float | None = Field(default=None, gt=0, le=1)
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    shapes: Literal["paper", "balanced"] = "paper"

    @model_validator(mode="after")
    def _one_limit(self) -> Compression:
        limits = [name for name in ("bond", "budget", "tolerance") if getattr(self, name) is not None]
        if len(limits) > 1:
            raise ValueError(f"{limits[0]} and {limits[1]} exclude each other; give one")
        if self.bonds and (self.budget is not None or self.tolerance is not None):
            raise ValueError("bonds per pattern go with bond or alone, not with budget or tolerance")
        return self


class Arm(ArmConfig):
    """One method: what is decomposed and what is trained.

    Attributes:
        compression: ``None`` leaves the model dense.
        trains: ``auxiliary`` is the paper's lightweight fine-tuning (LFA): all but the central tensors;
            ``central`` all but the auxiliary tensors; ``last-layers`` the last ``layers`` encoder layers and the head.
        layers: for ``last-layers``.
        architecture: for ``study: count``, the model as the keyword arguments of its transformers configuration.
        matrices: for ``study: truncate``, the matrices of the model or random ones.
    """

    compression: Compression | None = None
    trains: Trains = "all"
    layers: int = Field(default=1, ge=1)
    architecture: dict[str, Any] | None = None
    matrices: Literal["model", "random"] = "model"


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        study: ``finetune`` trains on a task; ``count`` counts parameters on meta-device models; ``truncate`` measures
            truncation errors, bounds and entropies.
        model: ``minilm``, a Hugging Face folder or a hub name.
        cases: for ``truncate``, random truncations per arm.
    """

    study: Literal["finetune", "count", "truncate"] = "finetune"
    model: str = "minilm"
    task: TaskConfig | None = None
    training: TrainingConfig = TrainingConfig()
    cases: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _parts_fit_the_study(self) -> Config:
        if self.study == "finetune" and self.task is None:
            raise ValueError("a finetune study needs a task")
        for name, arm in self.arms.items():
            if self.study == "count" and arm.architecture is None:
                raise ValueError(f"arm {name!r} of a count study needs an architecture")
            if self.study == "finetune" and not arm.learning_rates and arm.trains != "nothing":
                raise ValueError(f"arm {name!r} trains {arm.trains}, so it needs learning_rates")
        return self
