"""The configuration of this paper's experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cp_bcs.binary.image import Architecture
from cp_bcs.data.compiling import Optimization
from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig


class DataConfig(StrictModel):
    """Which corpus is used, and how it is divided.

    Attributes:
        name: ``embedded``, the package's own C sources, built when they are needed; or ``corpora``, those that
            ``cp-bcs build`` wrote, in the folder ``cp-bcs`` of the data sets.
        architecture: of the functions.
        optimization: of the compiler.
        split: ``random``, ``deduplicated`` or ``files``, divided anew for each seed; or ``project-NAME``.
        projects: only these; all unless given.
    """

    name: Literal["embedded", "corpora"] = "embedded"
    architecture: Architecture = "x64"
    optimization: Optimization = "O2"
    split: str = Field(default="random", pattern=r"^(random|deduplicated|files|project-.+)$")
    projects: tuple[str, ...] = ()


class Arm(ArmConfig):
    """One kind of build, or one way to summarise.

    Attributes:
        architecture: of the machine code (study ``discover``).
        optimization: level of the compiler (study ``discover``).
        flags: further ones, for example ``-mthumb`` or ``-shared`` (study ``discover``).
        summarizer: a baseline (study ``summarize``).
        data: what differs from the study's data.
    """

    architecture: Architecture = "x64"
    optimization: Optimization = "O2"
    flags: tuple[str, ...] = ()
    summarizer: Literal["most-common", "random", "nearest", "nearest-code"] | None = None
    data: dict[str, str] = Field(default_factory=dict)


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        study: ``discover``: the functions found in a stripped build against the symbols of its twin; ``summarize``:
            summaries of held-out functions against their comments.
        data: of the study ``summarize``.
    """

    study: Literal["discover", "summarize"] = "discover"
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _arms_fit_the_study(self) -> Config:
        for name, arm in self.arms.items():
            if (self.study == "summarize") != (arm.summarizer is not None):
                wanted = "needs a summarizer" if self.study == "summarize" else "takes no summarizer"
                raise ValueError(f"arm {name!r}: the study {self.study} {wanted}")
            self.data_of(name)
        return self

    def data_of(self, arm: str) -> DataConfig:
        """The data of an arm."""
        return DataConfig.model_validate({**self.data.model_dump(), **self.arms[arm].data})
