"""Functions as plain data, for JSON and for tables."""

from __future__ import annotations

from typing import Any

from cp_bcs.binary.facts import FunctionFacts, find_facts
from cp_bcs.binary.functions import Function
from cp_bcs.binary.program import Call, Program


def describe(program: Program, function: Function, code: bool = False) -> dict[str, Any]:
    """What is known of one function.

    Args:
        program: the binary.
        function: of it.
        code: with every instruction, as it stands and normalised, and the edges of the control-flow graph.

    Returns:
        ``address`` (hexadecimal), ``size`` in bytes, ``source``, ``name``, ``exact``, numbers of ``instructions``,
        ``blocks`` and ``unresolved`` computed jumps, ``calls`` (imported names, addresses of functions of the file, or
        None for computed ones), ``strings`` in the order of use; with ``code`` also ``code`` and ``edges``.
    """
    return describe_facts(find_facts(program, function), code)


def describe_facts(facts: FunctionFacts, code: bool = False) -> dict[str, Any]:
    """The same of a function that was analysed already; see `describe`."""
    function, graph = facts.function, facts.graph
    told: dict[str, Any] = {
        "address": f"{function.address:#x}",
        "size": function.size,
        "source": function.source,
        "exact": function.exact,
        "name": function.name,
        "instructions": len(graph.instructions),
        "blocks": len(graph.blocks),
        "unresolved": len(graph.unresolved),
        "calls": [_called(call) for _, call in sorted(facts.calls.items())],
        "strings": facts.strings,
    }
    if code:
        told["code"] = [
            {
                "address": f"{instruction.address:#x}",
                "instruction": f"{instruction.mnemonic} {instruction.operands}".strip(),
                "normalized": normalized.key,
                "text": normalized.text,
            }
            for instruction, normalized in zip(graph.instructions, facts.normalized, strict=True)
        ]
        told["edges"] = [[source, target, why.name.lower()] for source, target, why in graph.edges]
    return told


def _called(call: Call) -> str | None:
    """The imported name, or the address of a function of the file; None for a computed call."""
    return call.name or (None if call.target is None else f"{call.target:#x}")


def describe_all(program: Program) -> dict[str, Any]:
    """What is known of a binary: of the file, and of each function with its code."""
    image = program.image
    return {
        "schema_version": 1,
        "file": image.name,
        "sha256": image.sha256,
        "architecture": image.architecture,
        "entry": f"{image.entry:#x}",
        "notes": list(image.notes),
        "imports": sorted(set(image.imports.values())),
        "functions": [describe(program, function, code=True) for function in program.functions],
    }
