"""CP-BCS: what the functions of a stripped binary do; what the package offers, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpo_core._lazy import lazy_namespace

if TYPE_CHECKING:
    from cp_bcs.binary.facts import FunctionFacts, find_facts
    from cp_bcs.binary.flow_graph import EdgeType, FlowGraph
    from cp_bcs.binary.functions import Function, find_functions
    from cp_bcs.binary.image import Image
    from cp_bcs.binary.instructions import Instruction
    from cp_bcs.binary.normalisation import Normalized, normalize, sequence
    from cp_bcs.binary.program import Call, Program
    from cp_bcs.binary.reading import read_image
    from cp_bcs.binary.references import Reference, find_references

__all__ = [
    "Call",
    "EdgeType",
    "FlowGraph",
    "Function",
    "FunctionFacts",
    "Image",
    "Instruction",
    "Normalized",
    "Program",
    "Reference",
    "find_facts",
    "find_functions",
    "find_references",
    "normalize",
    "read_image",
    "sequence",
]

__getattr__, __dir__ = lazy_namespace(
    __name__,
    {
        "Call": "binary.program",
        "EdgeType": "binary.flow_graph",
        "FlowGraph": "binary.flow_graph",
        "Function": "binary.functions",
        "FunctionFacts": "binary.facts",
        "Image": "binary.image",
        "Instruction": "binary.instructions",
        "Normalized": "binary.normalisation",
        "Program": "binary.program",
        "Reference": "binary.references",
        "find_facts": "binary.facts",
        "find_functions": "binary.functions",
        "find_references": "binary.references",
        "normalize": "binary.normalisation",
        "read_image": "binary.reading",
        "sequence": "binary.normalisation",
    },
)
