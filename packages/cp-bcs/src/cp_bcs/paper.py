"""What the workspace knows of this paper without importing torch."""

from __future__ import annotations

from mpo_core.repro.paper import Paper

PAPER = Paper(
    name="cp-bcs",
    package="cp_bcs",
    title="CP-BCS: Binary Code Summarization Guided by Control Flow Graph and Pseudo Code",
    citation="Ye, Wu, Ma, Zhang, Du, Liu, Ji and Wang, EMNLP 2023, pages 14740-14752",
)
