"""HyperMR: multi-hop questions over knowledge hypergraphs; what it offers, by name (README.md says how to use it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpo_core._lazy import lazy_namespace

if TYPE_CHECKING:
    from hypermr.answer import Answered, Answerer, Candidate, load_answerer
    from hypermr.config import DataConfig, ModelConfig
    from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
    from hypermr.data.knowledge_base import KnowledgeBase, read_knowledge_base
    from hypermr.data.pathquestion import load_pathquestion
    from hypermr.data.questions import Question, QuestionSet, read_questions
    from hypermr.data.splits import Split, make_split
    from hypermr.distortion import Embedding, embed_graph
    from hypermr.evaluate import Judged, SplitReport, judge, report_split
    from hypermr.hyperbolicity import Hyperbolicity, delta_hyperbolicity
    from hypermr.hypergraph.ngrams import ngrams
    from hypermr.hypergraph.walks import Walk, WalkRules, WalkSample, walks_from
    from hypermr.inspection import Inside, look_inside
    from hypermr.manifold import RangeError, Space, space_of
    from hypermr.method import HyperMR
    from hypermr.training_run import TrainJob, TrainResult, train_into

__all__ = [
    "Answered",
    "Answerer",
    "Candidate",
    "DataConfig",
    "Embedding",
    "HierarchyConfig",
    "HyperMR",
    "Hyperbolicity",
    "Inside",
    "Judged",
    "KnowledgeBase",
    "ModelConfig",
    "Question",
    "QuestionSet",
    "RangeError",
    "Space",
    "Split",
    "SplitReport",
    "TrainJob",
    "TrainResult",
    "Walk",
    "WalkRules",
    "WalkSample",
    "delta_hyperbolicity",
    "embed_graph",
    "generate_hierarchy",
    "judge",
    "load_answerer",
    "load_pathquestion",
    "look_inside",
    "make_split",
    "ngrams",
    "read_knowledge_base",
    "read_questions",
    "report_split",
    "space_of",
    "train_into",
    "walks_from",
]

__getattr__, __dir__ = lazy_namespace(
    __name__,
    {
        "Answered": "answer",
        "Answerer": "answer",
        "Candidate": "answer",
        "DataConfig": "config",
        "Embedding": "distortion",
        "HierarchyConfig": "data.hierarchies",
        "HyperMR": "method",
        "Hyperbolicity": "hyperbolicity",
        "Inside": "inspection",
        "Judged": "evaluate",
        "KnowledgeBase": "data.knowledge_base",
        "ModelConfig": "config",
        "Question": "data.questions",
        "QuestionSet": "data.questions",
        "RangeError": "manifold",
        "Space": "manifold",
        "Split": "data.splits",
        "SplitReport": "evaluate",
        "TrainJob": "training_run",
        "TrainResult": "training_run",
        "Walk": "hypergraph.walks",
        "WalkRules": "hypergraph.walks",
        "WalkSample": "hypergraph.walks",
        "delta_hyperbolicity": "hyperbolicity",
        "embed_graph": "distortion",
        "generate_hierarchy": "data.hierarchies",
        "judge": "evaluate",
        "load_answerer": "answer",
        "load_pathquestion": "data.pathquestion",
        "look_inside": "inspection",
        "make_split": "data.splits",
        "ngrams": "hypergraph.ngrams",
        "read_knowledge_base": "data.knowledge_base",
        "read_questions": "data.questions",
        "report_split": "evaluate",
        "space_of": "manifold",
        "train_into": "training_run",
        "walks_from": "hypergraph.walks",
    },
)
