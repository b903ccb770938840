"""Summaries as one HTML page that needs nothing else: no network, no package; scripts only for its search box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_STRONG = 0.5
"""Weight from which an instruction is highlighted."""
_HINTS, _LONGEST_HINT = 6, 48
_SAYS_NOTHING = "__stack_chk_fail"


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a report; see `summarize_program`. The same report gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("cp_bcs.summaries"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": _shown, "percent": lambda share: f"{100 * share:.0f} %"}
    named = {function["address"]: function["name"] for function in report["functions"]}
    return environment.get_template("summaries.html.j2").render(
        report=report, counts=report["counts"], named=named, strong=_STRONG, hints=_hints
    )


def _hints(function: Mapping[str, Any]) -> list[str]:
    """What tells functions apart at a glance: the first strings, in quotes, then imported names."""
    strings = [_cut(text) for text in function.get("strings", ()) if any(c.isalpha() for c in text)]
    names = [name for name in function.get("imports", ()) if name != _SAYS_NOTHING]
    kept = strings[: max(_HINTS // 2, _HINTS - len(names))]
    return [f'"{text}"' for text in kept] + names[: _HINTS - len(kept)]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_HINT else text[: _LONGEST_HINT - 1] + "…"


def _shown(text: Any) -> str:
    """A text of the binary: what a terminal or a browser obeys, or shows as nothing, is written as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
