"""Documented functions of C sources, found by tree-sitter.

Macros and attributes make tree-sitter see errors in half of all C files; definitions come out all the same, but their
names may be a macro's. So a definition is known by its place, and joined to machine code by DWARF's file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tree_sitter_c
from tree_sitter import Language, Node, Parser

LARGEST = 16 << 20
"""Bytes of a source that is read."""

_NEAR = 2
"""Lines between a comment's end and its function's start at most."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A function definition with a comment above it.

    Args:
        first: line of its first token, from 1.
        body: line on which its body opens.
        name: as tree-sitter reads it; it may be a macro.
        comment: the comment above it, with its delimiters.
    """

    first: int
    body: int
    name: str
    comment: str


def read_definitions(path: Path) -> tuple[int, list[Definition]]:
    """The functions that a C source defines.

    Args:
        path: of the file; bytes that are no UTF-8 are replaced.

    Returns:
        The number of all definitions, and those that have a comment above them.
    """
    data = path.read_bytes()[:LARGEST]
    nodes = list(_functions(_parser().parse(data).root_node))
    documented: list[Definition] = []
    for node in nodes:
        comment = _comment_above(node)
        body = node.child_by_field_name("body")
        if comment is not None and body is not None:
            first, opens = node.start_point[0] + 1, body.start_point[0] + 1
            documented.append(Definition(first, opens, _name(node), comment))
    return len(nodes), documented


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_c.language()))


def _functions(root: Node) -> Iterator[Node]:
    """Definitions, those inside of preprocessor conditionals included."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.type == "function_definition":
            yield node
        else:
            waiting += reversed(node.children)


def _comment_above(node: Node) -> str | None:
    """The comment that ends at most two lines above; ``//`` lines that follow each other are one."""
    before = node.prev_sibling
    if before is None or before.type != "comment":
        return None
    if node.start_point[0] - before.end_point[0] > _NEAR:
        return None
    parts = [_text(before)]
    while parts[0].startswith("//"):
        above = before.prev_sibling
        if above is None or above.type != "comment" or before.start_point[0] - above.end_point[0] > 1:
            break
        if not _text(above).startswith("//"):
            break
        parts.insert(0, _text(above))
        before = above
    previous = before.prev_sibling
    if previous is not None and previous.type != "comment":
        row, column = previous.end_point
        if row == before.start_point[0] and column > 0:
            return None  # it stands behind something on the same line, and speaks of that
    return "\n".join(parts)


def _name(node: Node) -> str:
    """The declared identifier: the innermost declarator's."""
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type not in ("identifier", "field_identifier"):
        inner = declarator.child_by_field_name("declarator")
        if inner is None:
            inner = next((c for c in declarator.children if c.is_named), None)
        declarator = inner
    return _text(declarator) if declarator is not None else ""


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
