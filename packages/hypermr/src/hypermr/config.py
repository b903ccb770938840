"""The configuration of this paper's experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig, TrainingConfig


class DataConfig(StrictModel):
    """Questions, their knowledge base, and how they are split.

    Attributes:
        name: a set of PathQuestion (``PQ-2H, PQ-3H, PQL-2H, PQL-3H, PQL-3H_more``), ``hierarchy`` for a generated one,
            ``KVQA``, or ``own`` with ``kb`` and ``questions``.
        split: ``random-SEED``, ``topic-disjoint-SEED``, or one that the data brings.
        hops: relations of a walk, at most.
        inverse: every triple can be walked backwards, too.
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
    inverse: bool = False
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


class ModelConfig(StrictModel):
    """A model that is trained to answer.

    Attributes:
        network: ``hypermr``, or what it is compared with: ``path-scorer`` (a recurrent reading of the question held
            against the relations of each hyperedge) and ``hypergraph-conv`` (PyG's HypergraphConv on the same
            hypergraph).
        geometry: ``lorentz`` and ``poincare`` work in hyperbolic space and agree up to rounding, ``euclidean`` is
            their twin in flat space, ``tangent`` the paper's form: flat space, with maps to the hyperbolic one and back
            between the parts.
        attention: ``distance`` with midpoints, or ``dot``: scaled products with means (flat space only).
        curvature: one curvature ``-c`` per stage and one for the head, one for all, or all fixed.
        start_curvature: ``c`` at the start.
        maps: of ``tangent``: exact ones, or those of the released code, which are not inverse to each other.
        head: ``pointer`` names the end of a hyperedge, ``closed`` one of the labels of the training questions.
        hyperedges: ``walks``: each walk is one, as in the paper; ``paths``: walks with the same relations are one.
        entities: what a hyperedge knows of its entities: nothing, or a vector of each (``ids``).
        word_vectors: a language model (``minilm``, a folder or a hub name) whose vectors of words are taken, fixed and
            mapped linearly, as the paper takes GloVe's; questions may use all words that it has one piece for. Without
            one they are drawn and learnt, of the words of the training questions alone.
        names: a hyperedge knows where the question calls its relations by their names.
        positions: of the question's hyperedges: from the ``topic``, or from the start (``absolute``).
        ngram: tokens of a question's hyperedge.
        negatives: hyperedges of other questions that stand among a question's own while it is learnt, at most; for
            the head ``pointer`` and hyperedges that know no entities.
        cap: hyperedges' walks per question, at most.
        d: dimension of states.
        heads: of attention.
        stages: co-attention and self-attention, each stage with its own curvature.
        layers: of each attention.
        widening: of the feed-forward maps.
        dropout: of hyperedges and of what residuals add.
        radius: of normalised states, in units of distance.
        stage_relu: a stage ends with a ReLU of the coordinates, as in the paper.
    """

    network: Literal["hypermr", "path-scorer", "hypergraph-conv"] = "hypermr"
    geometry: Literal["euclidean", "tangent", "lorentz", "poincare"] = "lorentz"
    attention: Literal["distance", "dot"] = "distance"
    curvature: Literal["learned-per-stage", "shared", "fixed"] = "learned-per-stage"
    start_curvature: float = Field(default=1.0, gt=0)
    maps: Literal["exact", "released-hyperboloid", "released-ball"] = "exact"
    head: Literal["pointer", "closed"] = "pointer"
    hyperedges: Literal["paths", "walks"] = "paths"
    entities: Literal["none", "ids"] = "none"
    word_vectors: str | None = None
    names: bool = True
    positions: Literal["topic", "absolute"] = "topic"
    ngram: int = Field(default=3, ge=1)
    negatives: int = Field(default=0, ge=0)
    cap: int | None = Field(default=None, ge=1)
    d: int = Field(default=64, ge=2)
    heads: int = Field(default=4, ge=1)
    stages: int = Field(default=3, ge=1)
    layers: int = Field(default=1, ge=1)
    widening: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    radius: float = Field(default=2.0, gt=0)
    stage_relu: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} is no multiple of heads = {self.heads}")
        if self.attention == "dot" and self.geometry in ("lorentz", "poincare"):
            raise ValueError(f"attention dot is for flat space, not for geometry {self.geometry}")
        if self.maps != "exact" and self.geometry != "tangent":
            raise ValueError("the released maps are for geometry tangent")
        if self.negatives and not self.takes_negatives:
            raise ValueError("negatives are for the head pointer and entities none")
        return self

    @property
    def takes_negatives(self) -> bool:
        """Whether a hyperedge of another question can stand among its own: it is known by its relations alone."""
        return self.head == "pointer" and self.entities == "none"


class EmbeddingConfig(StrictModel):
    """An embedding of a knowledge base's largest component.

    Attributes:
        geometry: of the space.
        d: its dimension.
        of: the graph of the ``component``, or its ``tree`` of shortest ways.
        steps: of the optimiser.
    """

    geometry: Literal["euclidean", "lorentz"]
    d: int = Field(ge=1)
    of: Literal["component", "tree"] = "component"
    steps: int = Field(default=2000, ge=1)


class Arm(ArmConfig):
    """One way to answer, or one embedding.

    Attributes:
        answers: ``answer-topic``, ``copy-nearest`` or ``random-path`` (`hypermr.baselines`), or ``model``.
        model: which one.
        embedding: embed the knowledge base, and ask nothing.
        data: what differs from the study's data.
    """

    answers: Literal["answer-topic", "copy-nearest", "random-path", "model"] = "model"
    model: ModelConfig = ModelConfig()
    embedding: EmbeddingConfig | None = None
    data: dict[str, str | int | float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _models_are_trained(self) -> Arm:
        if (self.answers == "model") != bool(self.learning_rates):
            raise ValueError("a model or an embedding needs learning_rates, and nothing else takes them")
        return self


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        data: what is asked.
        training: how models are trained.
    """

    data: DataConfig
    training: TrainingConfig = TrainingConfig()

    def data_of(self, arm: str) -> DataConfig:
        """What an arm is asked."""
        return DataConfig.model_validate(self.data.model_dump() | self.arms[arm].data)

    @model_validator(mode="after")
    def _data_of_arms_fit(self) -> Config:
        for name in self.arms:
            self.data_of(name)
        return self
