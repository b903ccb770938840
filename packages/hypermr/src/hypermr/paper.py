"""What the workspace knows of this paper without importing torch."""

from __future__ import annotations

from mpo_core.repro.paper import Paper

PAPER = Paper(
    name="hypermr",
    package="hypermr",
    title="HyperMR",
    citation="Wang, Xu, Liu and Zhu, LREC-COLING 2024, pages 8505-8515",
)
