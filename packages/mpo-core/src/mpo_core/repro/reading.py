"""Strict reading of YAML files and one-sentence accounts of what pydantic refuses.

Experiment files, ``paper.yaml`` and records pass through here: the same mistake reads the same everywhere.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Hashable, Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from mpo_core.errors import InputFileError

FOUND_LENGTH = 60
"""Characters of a refused value that a message shows."""


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key given twice and reads ``1e-3`` as a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if key is not None and key_node.tag != "tag:yaml.org,2002:merge":
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document with safe types only.

    Raises:
        ValueError: not YAML, a key given twice, a tag that asks for a Python object; says line and column.
    """
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{place}{error.problem or error.context or 'not YAML'}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_yaml_mapping(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML document whose top is a mapping with text keys.

    Args:
        text: the document.
        where: what the messages call the file.

    Raises:
        InputFileError: not YAML, or not a mapping.
    """
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise InputFileError(f"{where} is not valid YAML: {error}; correct the file there.") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputFileError(
            f"{where} does not hold a mapping of text keys at its top; expected `key: value` lines, "
            f"found {_show(document)}."
        )
    return document


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the known name closest to a mistyped one, and all of them: ``did you mean 'x'? known: …``."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listing = f"known: {', '.join(known) or 'none'}"
    return f"did you mean {close[0]!r}? {listing}" if close else listing


def validation_sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """State what pydantic refuses in one sentence: file, key path, expected, found, nearest valid key.

    Args:
        error: what `model_validate` raised.
        model: the model that was validated, for the names of its valid keys.
        where: what the sentence calls the file.
    """
    # An unknown key is usually the cause of the others (the right key then is missing), so it goes first.
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    location = first["loc"]
    key = ".".join(keys_to(location, model))
    kind = first["type"]
    if kind == "extra_forbidden":
        hint = nearest(str(location[-1]), _keys_at(model, location[:-1]))
        account = f"unknown key {key!r} ({hint})"
    elif kind == "missing":
        account = f"the key {key!r} is missing; add it"
    elif kind == "value_error":
        place = f"{key!r}: " if key else ""
        account = f"{place}{first['msg'].removeprefix('Value error, ')}"
    else:
        expected = first["msg"].removeprefix("Input should be ")
        expected = f"a value {expected}" if expected.startswith(("greater", "less")) else expected
        account = f"{key!r}: expected {expected}, found {_show(first['input'])}"
    others = error.error_count() - 1
    more = f" ({others} further problem{'s' * (others > 1)} there)" if others else ""
    return f"{where}: {account}{more}."


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= FOUND_LENGTH else f"{shown[:FOUND_LENGTH]}…"


def keys_to(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """The keys of a location as the user would write them: without the tags that pydantic adds for members of a union.

    Args:
        location: ``loc`` of an error.
        model: the model that was validated.
    """
    parts: list[str] = []
    candidates: list[Any] = [model]
    for key in location:
        inner = _step(candidates, key)
        if inner is None:
            candidates = _members_named(candidates, str(key))
            if candidates:
                continue
        parts.append(str(key))
        candidates = inner or []
    return parts


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that are valid in the mapping at a location of a model."""
    candidates: list[Any] = [model]
    for key in location:
        candidates = _step(candidates, key) or _members_named(candidates, str(key))
    return sorted({field for kind in _models(candidates) for field in kind.model_fields})


def _step(candidates: Sequence[Any], key: str | int) -> list[Any] | None:
    """The types that may stand under a key of any of these types; ``None`` where none of them has it."""
    found: list[Any] = []
    for kind in candidates:
        arguments = get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if key in kind.model_fields:
                found += _alternatives(kind.model_fields[str(key)].annotation)
        elif get_origin(kind) is dict and len(arguments) == 2:
            found += _alternatives(arguments[1])
        elif get_origin(kind) in (list, tuple, set, frozenset) and isinstance(key, int) and arguments:
            found += _alternatives(arguments[0])
    return found or None


def _alternatives(annotation: Any) -> list[Any]:
    """A union's members; a single type as a list of one."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _alternatives(member)]
    return [annotation]


def _models(candidates: Iterable[Any]) -> list[type[BaseModel]]:
    return [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _members_named(candidates: Sequence[Any], tag: str) -> list[Any]:
    """The union members that pydantic means by a tag: a discriminator's value, or a class name."""

    def answers(kind: type[BaseModel]) -> bool:
        literals = [f.annotation for f in kind.model_fields.values() if get_origin(f.annotation) is Literal]
        return kind.__name__ == tag or any(get_args(literal) == (tag,) for literal in literals)

    return [kind for kind in _models(candidates) if answers(kind)]
