"""HyperMR: multi-hop questions over knowledge hypergraphs; what it offers, by name (README.md says how to use it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpo_core._lazy import lazy_namespace

if TYPE_CHECKING:
    from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
    from hypermr.data.knowledge_base import KnowledgeBase, read_knowledge_base
    from hypermr.data.pathquestion import load_pathquestion
    from hypermr.data.questions import Question, QuestionSet, read_questions
    from hypermr.data.splits import Split, make_split
    from hypermr.evaluate import SplitReport, report_split
    from hypermr.hypergraph.ngrams import ngrams
    from hypermr.hypergraph.walks import Walk, WalkRules, WalkSample, walks_from
    from hypermr.manifold import RangeError, Space, space_of

__all__ = [
    "HierarchyConfig",
    "KnowledgeBase",
    "Question",
    "QuestionSet",
    "RangeError",
    "Space",
    "Split",
    "SplitReport",
    "Walk",
    "WalkRules",
    "WalkSample",
    "generate_hierarchy",
    "load_pathquestion",
    "make_split",
    "ngrams",
    "read_knowledge_base",
    "read_questions",
    "report_split",
    "space_of",
    "walks_from",
]

__getattr__, __dir__ = lazy_namespace(
    __name__,
    {
        "HierarchyConfig": "data.hierarchies",
        "KnowledgeBase": "data.knowledge_base",
        "Question": "data.questions",
        "QuestionSet": "data.questions",
        "RangeError": "manifold",
        "Space": "manifold",
        "Split": "data.splits",
        "SplitReport": "evaluate",
        "Walk": "hypergraph.walks",
        "WalkRules": "hypergraph.walks",
        "WalkSample": "hypergraph.walks",
        "generate_hierarchy": "data.hierarchies",
        "load_pathquestion": "data.pathquestion",
        "make_split": "data.splits",
        "ngrams": "hypergraph.ngrams",
        "read_knowledge_base": "data.knowledge_base",
        "read_questions": "data.questions",
        "report_split": "evaluate",
        "space_of": "manifold",
        "walks_from": "hypergraph.walks",
    },
)
