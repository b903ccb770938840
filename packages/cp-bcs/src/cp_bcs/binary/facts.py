"""All that is known of one function, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cp_bcs.binary.flow_graph import EdgeType, FlowGraph
from cp_bcs.binary.functions import Function
from cp_bcs.binary.normalisation import Normalized, normalize
from cp_bcs.binary.program import Call, Program
from cp_bcs.binary.references import Reference, find_references


@dataclass(frozen=True)
class FunctionFacts:
    """What a function's code tells.

    Args:
        function: which one.
        graph: its control flow.
        calls: its calls and tail calls, by address of the instruction.
        references: what its other instructions point at, by address of the instruction.
    """

    function: Function
    graph: FlowGraph
    calls: Mapping[int, Call]
    references: Mapping[int, Reference]

    @cached_property
    def normalized(self) -> list[Normalized]:
        """Its normalised instructions, one for each node of the graph."""
        nodes = self.graph.instructions
        local = {nodes[source].address for source, _, why in self.graph.edges if why is EdgeType.JUMP}
        return normalize(nodes, self.calls, self.references, local)

    @cached_property
    def called(self) -> tuple[tuple[int, int], ...]:
        """Nodes that call or tail-call a function of the file, each with its address; imported ones are left out."""
        calls = ((node, self.calls.get(each.address)) for node, each in enumerate(self.graph.instructions))
        return tuple((node, c.target) for node, c in calls if c and c.target is not None and c.name is None)

    @cached_property
    def strings(self) -> list[str]:
        """The strings that it uses, in the order of their first use."""
        used = [reference for _, reference in sorted(self.references.items()) if reference.kind == "string"]
        return list(dict.fromkeys(reference.text for reference in used if reference.text is not None))


def find_facts(program: Program, function: Function) -> FunctionFacts:
    """Analyse one function of a binary."""
    graph = program.flow_graph(function)
    calls = {call.site: call for call in program.calls(graph)}
    return FunctionFacts(function, graph, calls, find_references(program, function, graph.instructions))
