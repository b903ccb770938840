"""The configuration of this paper's experiments."""

from __future__ import annotations

from typing import Literal

from cp_bcs.binary.image import Architecture
from mpo_core.repro.config import ArmConfig, StudyConfig


class Arm(ArmConfig):
    """One kind of build.

    Attributes:
        architecture: of the machine code.
        optimization: level of the compiler.
        flags: further ones, for example ``-mthumb`` or ``-shared``.
    """

    architecture: Architecture = "x64"
    optimization: Literal["O0", "O1", "O2", "O3", "Os"] = "O2"
    flags: tuple[str, ...] = ()


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        study: ``discover``: the functions found in a stripped build against the symbols of its twin.
    """

    study: Literal["discover"] = "discover"
