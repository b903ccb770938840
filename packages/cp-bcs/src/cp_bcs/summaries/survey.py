"""A binary as a summarizer sees it: what every function's code tells, and who calls whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cp_bcs.binary.description import describe_facts
from cp_bcs.binary.exact_code import ExactCode
from cp_bcs.binary.facts import FunctionFacts, find_facts
from cp_bcs.binary.program import Program
from cp_bcs.data.pairs import Pair, code_of

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Surveyed:
    """One function.

    Args:
        told: what its code tells, as plain data; of a function that could not be analysed also ``error``.
        asked: what a summarizer reads of it; None where it could not be analysed.
        called: function of the file that is called -> nodes of the calls.
    """

    told: dict[str, Any]
    asked: Pair | None
    called: dict[int, list[int]] = field(default_factory=dict)


def survey(program: Program, on_progress: OnProgress | None = None) -> dict[int, Surveyed]:
    """Analyse every function of a binary, by address; none is left out.

    Args:
        program: the binary.
        on_progress: called with functions done and functions in all.
    """
    found: dict[int, Surveyed] = {}
    exact = ExactCode(program)
    for number, function in enumerate(program.functions, start=1):
        try:
            facts = find_facts(program, function)
            surveyed = Surveyed(_told(facts), function_input(program, facts, exact), _called(program, facts))
        except Exception as error:  # one function that cannot be read must not cost the others
            told = {
                "address": f"{function.address:#x}",
                "size": function.size,
                "source": function.source,
                "exact": function.exact,
                "name": function.name,
                "error": f"{type(error).__name__}: {error}",
            }
            surveyed = Surveyed(told, None)
        found[function.address] = surveyed
        if on_progress is not None:
            on_progress(number, len(program.functions), "reading")
    return found


def function_input(program: Program, facts: FunctionFacts, exact: ExactCode) -> Pair:
    """What a summarizer reads of a user's function; its own name, where the file exports it, is hidden in strings."""
    function = facts.function
    return Pair(
        project=program.image.name,
        file="",
        line=0,
        name=function.name or "",
        architecture=program.image.architecture,
        optimization="",
        address=function.address,
        sentence="",
        **code_of(facts, exact, (function.name,) if function.name else ()),  # pyright: ignore[reportArgumentType]
    )


def _told(facts: FunctionFacts) -> dict[str, Any]:
    told = describe_facts(facts, code=True)
    del told["edges"]
    told["imports"] = sorted({call.name for call in facts.calls.values() if call.name is not None})
    told["calls"] = sorted({f"{call.target:#x}" for call in facts.calls.values() if call.target is not None})
    return told


def _called(program: Program, facts: FunctionFacts) -> dict[int, list[int]]:
    called: dict[int, list[int]] = {}
    for node, target in facts.called:
        if target in program.by_address:
            called.setdefault(target, []).append(node)
    return called
