"""The configuration of this paper's experiments."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cp_bcs.binary.image import Architecture
from cp_bcs.data.compiling import Optimization
from cp_bcs.minimum_risk import Weighting
from mpo_core.repro.config import ArmConfig, StrictModel, StudyConfig, TrainingConfig


class DataConfig(StrictModel):
    """Which corpus is used, and how it is divided.

    Attributes:
        name: ``embedded``, the package's own C sources, built when they are needed; or ``corpora``, those that
            ``cp-bcs build`` wrote, in the folder ``cp-bcs`` of the data sets.
        architecture: of the functions.
        optimization: of the compiler.
        split: ``random``, ``deduplicated`` or ``files``, divided anew for each seed; ``project-NAME``; or ``project``,
            which holds out another one of `held_out` for each seed.
        held_out: projects, for the split ``project``.
        projects: only these; all unless given.
    """

    name: Literal["embedded", "corpora"] = "embedded"
    architecture: Architecture = "x64"
    optimization: Optimization = "O2"
    split: str = Field(default="random", pattern=r"^(random|deduplicated|files|project|project-.+)$")
    held_out: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_projects(self) -> DataConfig:
        if self.split == "project" and not self.held_out:
            raise ValueError("the split project needs held_out, the projects to hold out")
        return self


Source = Literal["code", "graph", "pseudo", "neighbours"]
"""What a network looks at."""


class ModelConfig(StrictModel):
    """The network, and what it reads.

    Attributes:
        sources: what it looks at: ``code``, the instructions in a row; ``graph``, the BI-CFG; ``pseudo`` code; and,
            ours, ``neighbours``, the sentences of the nearest known functions.
        variant: ``paper``, or ``released``: what the released code does otherwise: the order of the cross-attentions is
            graph, code, pseudo (the paper draws pseudo, code, graph), runs of four hexadecimal digits are cut out of
            all texts, and the vocabularies are of the dev functions, too.
        d: dimension of all states.
        heads: of attention.
        layers: of each Transformer encoder and of the decoder.
        inner: dimension inside the feed-forward parts.
        graph_layers: of graph attention.
        dropout: of all parts.
        attention_dropout: of the weights of attention; None for that of all parts.
        reach: of relative positions.
        code_length: pieces of code that are read, at most.
        pseudo_length: pieces of pseudo code that are read, at most.
        graph_length: nodes that are read, at most; None for all.
        summary_length: words of a sentence, at most, its end included.
        pieces: of code and pseudo code, at most, in the vocabulary.
        least_count: how often the training sentences hold a word of the vocabulary, at least.
        nodes: what describes a node: the whole of its ``instruction``, as in the released code, or its ``pieces``; with
            ``block`` nodes are basic blocks, described by the pieces of their instructions.
        edges: of the graph: ``both`` ways, only with the flow (``forward``) or only against it (``backward``).
        edge_types: whether the graph attention sees what an edge is: to the next instruction, a jump, through a table.
        graph_backend: ``pyg`` or ``dgl``.
        texts: whether strings and imported names are read.
        neighbours: how many, at most.
        contrast: weight of a further loss, ours, by which functions and sentences become vectors of one space, where
            what is known can be looked for; 0 for none.
        refined: whether pseudo code is read as a refiner rewrites it, a network that learns from the training functions
            what their pseudo code would be, had the binary not been stripped.
        refiner: folder of a seq2seq checkpoint that becomes the refiner, in place of a network of the same sizes; the
            paper's is CodeT5.
        encoder: folder of a checkpoint whose encoder reads pseudo code, as it is, in place of one that is learned (a
            variant in the released code, with CodeT5).
        writes: ``sentence``, or ``pseudo`` code, which is what a refiner writes.
    """

    sources: tuple[Source, ...] = ("code", "graph", "pseudo")
    variant: Literal["paper", "released"] = "paper"
    d: int = Field(default=512, ge=8)
    heads: int = Field(default=8, ge=1)
    layers: int = Field(default=6, ge=1)
    inner: int = Field(default=2048, ge=8)
    graph_layers: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    reach: int = Field(default=32, ge=1)
    code_length: int = Field(default=400, ge=8)
    pseudo_length: int = Field(default=400, ge=8)
    graph_length: int | None = Field(default=None, ge=1)
    summary_length: int = Field(default=40, ge=2)
    pieces: int = Field(default=8000, ge=300)
    least_count: int = Field(default=1, ge=1)
    nodes: Literal["instruction", "pieces", "block"] = "instruction"
    edges: Literal["both", "forward", "backward"] = "both"
    edge_types: bool = False
    graph_backend: Literal["pyg", "dgl"] = "pyg"
    texts: bool = True
    neighbours: int = Field(default=4, ge=1)
    contrast: float = Field(default=0.0, ge=0)
    refined: bool = False
    refiner: str | None = None
    encoder: str | None = None
    writes: Literal["sentence", "pseudo"] = "sentence"

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise ValueError("sources: at least one, each once")
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} cannot be divided over {self.heads} heads")
        if self.edge_types and self.graph_backend == "dgl":
            raise ValueError("dgl's graph attention has no edge types; take graph_backend: pyg")
        if self.contrast and not set(self.sources) - {"neighbours"}:
            raise ValueError("contrast needs a source that describes the function itself")
        if self.encoder is not None and "pseudo" not in self.sources:
            raise ValueError("encoder reads pseudo code, which is none of the sources")
        if self.refiner is not None and not self.refined:
            raise ValueError("a refiner is given, and refined is off")
        return self

    @property
    def order(self) -> tuple[Source, ...]:
        """The sources in the order of the decoder's cross-attentions."""
        published = ("pseudo", "code", "graph") if self.variant == "paper" else ("graph", "code", "pseudo")
        orders: tuple[Source, ...] = (*published, "neighbours")
        return tuple(source for source in orders if source in self.sources)


class DecodingConfig(StrictModel):
    """How a network's sentences are chosen.

    Attributes:
        beams: sentences that are followed side by side; 1 takes the likeliest word each time.
        consensus: ours: of the beams' sentences and those of the nearest known functions, the one that agrees best with
            all of them; each counts as much as its share of the chances of its kind.
        neighbours: known functions that are heard: so many by the index and, where the network has a shared space, by
            the function's distance and by the sentence's.
        power: of the similarities of the index.
        trust: what the network's sentences weigh together; the neighbours of the index weigh 1 together.
        shared: what the neighbours of each kind of the shared space weigh together.
        tuned: power, trust and share are chosen on the dev part (`cp_bcs.minimum_risk.weightings`).
    """

    beams: int = Field(default=4, ge=1)
    consensus: bool = False
    neighbours: int = Field(default=20, ge=1)
    power: float = Field(default=4.0, ge=0)
    trust: float = Field(default=1.0, gt=0)
    shared: float = Field(default=1.0, ge=0)
    tuned: bool = False

    @property
    def weighting(self) -> Weighting:
        """How much the voices count."""
        return Weighting(self.power, self.trust, self.shared)


Summarizer = Literal["most-common", "random", "nearest", "nearest-code", "consensus", "network", "seq2seq"]


class Arm(ArmConfig):
    """One kind of build, or one way to summarise.

    Attributes:
        architecture: of the machine code (study ``discover``).
        optimization: level of the compiler (study ``discover``).
        flags: further ones, for example ``-mthumb`` or ``-shared`` (study ``discover``).
        backend: who looks for functions: ``elf``, this package, or ``angr`` (study ``discover``).
        summarizer: a baseline, ``network``, or ``seq2seq``, a checkpoint that is fine-tuned (study ``summarize``).
        checkpoint: folder of the latter; it reads pseudo code where that is among the network's sources, else code.
        data: what differs from the study's data.
        model: what differs from the study's network.
        decoding: what differs from the study's way to choose sentences.
    """

    architecture: Architecture = "x64"
    optimization: Optimization = "O2"
    flags: tuple[str, ...] = ()
    backend: Literal["elf", "angr"] = "elf"
    summarizer: Summarizer | None = None
    checkpoint: str | None = None
    data: dict[str, str] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    decoding: dict[str, Any] = Field(default_factory=dict)


class Config(StudyConfig[Arm]):
    """One experiment.

    Attributes:
        study: ``discover``: the functions found in a stripped build against the symbols of its twin; ``summarize``:
            summaries of held-out functions against their comments; ``calibrate``: which of them are shown, and how many
            of those are right.
        data: of the studies ``summarize`` and ``calibrate``.
        model: the network of its arms ``network``.
        decoding: how sentences are chosen.
        training: of the networks.
        meteor: whether summaries are judged by METEOR 1.5 as well (extra ``cp-bcs[meteor]``, and Java).
    """

    study: Literal["discover", "summarize", "calibrate"] = "discover"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    decoding: DecodingConfig = DecodingConfig()
    training: TrainingConfig = TrainingConfig(weight_decay=0.0, max_grad_norm=5.0)
    meteor: bool = False

    @model_validator(mode="after")
    def _arms_fit_the_study(self) -> Config:
        for name, arm in self.arms.items():
            if (self.study == "summarize") != (arm.summarizer is not None):
                wanted = "needs a summarizer" if self.study == "summarize" else "takes no summarizer"
                raise ValueError(f"arm {name!r}: the study {self.study} {wanted}")
            if (arm.summarizer in ("network", "seq2seq")) != bool(arm.learning_rates):
                raise ValueError(f"arm {name!r}: a network needs learning_rates, and nothing else takes them")
            if (arm.summarizer == "seq2seq") != bool(arm.checkpoint):
                raise ValueError(f"arm {name!r}: seq2seq needs a checkpoint, and nothing else takes one")
            for settings in (self.data_of, self.model_of, self.decoding_of):
                settings(name)
        return self

    def data_of(self, arm: str) -> DataConfig:
        """The data of an arm."""
        return DataConfig.model_validate({**self.data.model_dump(), **self.arms[arm].data})

    def model_of(self, arm: str) -> ModelConfig:
        """The network of an arm."""
        return ModelConfig.model_validate({**self.model.model_dump(), **self.arms[arm].model})

    def decoding_of(self, arm: str) -> DecodingConfig:
        """How an arm chooses sentences."""
        return DecodingConfig.model_validate({**self.decoding.model_dump(), **self.arms[arm].decoding})
