"""Summaries as one HTML page that needs nothing else: no network, no package; scripts only for its search box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_STRONG = 0.5
"""Weight from which an instruction is highlighted."""


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
        report=report, counts=report["counts"], named=named, strong=_STRONG
    )


def _shown(text: Any) -> str:
    """A text of the binary: what a terminal or a browser obeys, or shows as nothing, is written as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
