"""The control-flow graph of a function: one node for each instruction (CP-BCS, BI-CFG), or one for each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from cp_bcs.binary.instructions import Disassembler, Flow, Instruction
from cp_bcs.binary.jump_tables import JumpTable


class EdgeType(IntEnum):
    """Why control goes along an edge."""

    NEXT = 0
    JUMP = 1
    TABLE = 2


@dataclass(frozen=True)
class FlowGraph:
    """Control flow inside one function.

    Args:
        instructions: the nodes, by address.
        edges: (from, to, why), forward only; both ends are indices of nodes. A call goes on behind itself.
        leaves: (node, address) of jumps to other functions.
        unresolved: nodes of computed jumps whose targets are not known.
    """

    instructions: tuple[Instruction, ...]
    edges: tuple[tuple[int, int, EdgeType], ...]
    leaves: tuple[tuple[int, int], ...]
    unresolved: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Its basic blocks, see `basic_blocks`."""
        return basic_blocks(len(self.instructions), self.edges)


def basic_blocks(count: int, edges: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, ...], ...]:
    """The longest runs of nodes that control enters at the first and leaves at the last only.

    Args:
        count: nodes of a graph.
        edges: (from, to, why), forward only.
    """
    entries, exits = [0] * count, [0] * count
    follows = [False] * count
    for source, target, why in edges:
        exits[source] += 1
        entries[target] += 1
        if why == EdgeType.NEXT and target == source + 1:
            follows[target] = True
    blocks: list[list[int]] = []
    for node in range(count):
        joined = node > 0 and follows[node] and entries[node] == 1 and exits[node - 1] == 1
        if joined:
            blocks[-1].append(node)
        else:
            blocks.append([node])
    return tuple(tuple(block) for block in blocks)


def block_edges(
    blocks: Sequence[Sequence[int]], edges: Sequence[tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...]:
    """The edges between blocks; both ends are indices of `blocks`.

    Args:
        blocks: of `basic_blocks`.
        edges: of the graph's nodes.
    """
    home = {node: number for number, block in enumerate(blocks) for node in block}
    ends = {block[-1] for block in blocks}
    return tuple((home[a], home[b], int(why)) for a, b, why in edges if a in ends)


def build_flow_graph(
    disassembler: Disassembler, instructions: Sequence[Instruction], tables: Mapping[int, JumpTable]
) -> FlowGraph:
    """Connect the instructions of one function.

    Args:
        disassembler: of the image.
        instructions: by address.
        tables: resolved computed jumps, by the jump's address.
    """
    index = {instruction.address: node for node, instruction in enumerate(instructions)}
    edges: list[tuple[int, int, EdgeType]] = []
    leaves: list[tuple[int, int]] = []
    unresolved: list[int] = []
    for node, instruction in enumerate(instructions):
        flow, target = disassembler.step(instruction)
        if flow is Flow.JUMP or flow is Flow.BRANCH:
            if target is None:
                table = tables.get(instruction.address)
                if table is None:
                    unresolved.append(node)
                else:
                    goals = dict.fromkeys(index[t] for t in table.targets if t in index)
                    edges += [(node, goal, EdgeType.TABLE) for goal in goals]
            elif target in index:
                edges.append((node, index[target], EdgeType.JUMP))
            else:
                leaves.append((node, target))
        if flow is not Flow.JUMP and flow is not Flow.RETURN and flow is not Flow.STOP:
            following = index.get(instruction.address + instruction.size)
            if following is not None:
                edges.append((node, following, EdgeType.NEXT))
    return FlowGraph(tuple(instructions), tuple(edges), tuple(leaves), tuple(unresolved))
