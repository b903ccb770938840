"""What the workspace knows of this paper without importing torch."""

from mpo_core.repro.paper import Paper

PAPER = Paper(
    name="mpop",
    package="mpop",
    title=(
        "Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression based on Matrix Product Operators"
    ),
    citation="Liu et al., ACL 2021, pages 5388-5398",
)
