"""The configuration of this paper's experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig


class DataConfig(StrictModel):
    """Questions, their knowledge base, and how they are split.

    Attributes:
        name: a set of PathQuestion (``PQ-2H, PQ-3H, PQL-2H, PQL-3H, PQL-3H_more``), ``hierarchy`` for a generated one,
            or ``own`` with ``kb`` and ``questions``.
        split: ``random-SEED``, ``topic-disjoint-SEED``, or one that the data brings.
        hops: relations of a walk, at most.
        kb: the user's triples.
        questions: the user's questions.
        depth: of a hierarchy, levels below the root.
        branching: of a hierarchy, what each entity contains.
        noise: of a hierarchy, cross links as a share of the tree's edges.
        count: of a hierarchy, questions.
        seed: of a hierarchy.
    """

    name: str
    split: str = "random-1234"
    hops: int = Field(default=3, ge=1)
    kb: str | None = None
    questions: str | None = None
    depth: int = Field(default=4, ge=1)
    branching: int = Field(default=3, ge=1)
    noise: float = Field(default=0.0, ge=0, le=1)
    count: int = Field(default=1000, ge=30)
    seed: int = 0

    @model_validator(mode="after")
    def _own_data_has_files(self) -> DataConfig:
        if (self.name == "own") != (self.kb is not None and self.questions is not None):
            raise ValueError("the data 'own' needs kb and questions, and no other data takes them")
        return self


class Arm(ArmConfig):
    """One way to answer.

    Attributes:
        answers: ``answer-topic``, ``copy-nearest`` or ``random-path`` (`hypermr.baselines`).
    """

    answers: Literal["answer-topic", "copy-nearest", "random-path"]


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        data: what is asked.
    """

    data: DataConfig
