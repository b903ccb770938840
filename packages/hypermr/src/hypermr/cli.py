"""The command line: the verbs that every paper shares. Practical verbs of this paper are added to `app`."""

from __future__ import annotations

from hypermr.paper import PAPER
from mpo_core.repro.cli import paper_app, run_app

app = paper_app(PAPER)


def main() -> None:
    """Entry point of ``hypermr``."""
    run_app(app)
