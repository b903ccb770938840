"""MPOP: compress a pre-trained language model with matrix product operators, tune its auxiliary tensors.

Liu et al., ACL 2021. Two lines load a compressed model back::

    import mpop
    model = mpop.load_compressed("out/m")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpo_core._lazy import lazy_namespace

if TYPE_CHECKING:
    from mpop.config import Compression
    from mpop.method import bond_for_parameters, bonds_for_tolerance, paper_shape
    from mpop.model import (
        CompressionReport,
        compress_model,
        load_compressed,
        merge_compressed,
        save_compressed,
    )

__all__ = [
    "Compression",
    "CompressionReport",
    "bond_for_parameters",
    "bonds_for_tolerance",
    "compress_model",
    "load_compressed",
    "merge_compressed",
    "paper_shape",
    "save_compressed",
]

__getattr__, __dir__ = lazy_namespace(
    __name__,
    {
        "Compression": "config",
        "CompressionReport": "model",
        "bond_for_parameters": "method",
        "bonds_for_tolerance": "method",
        "compress_model": "model",
        "load_compressed": "model",
        "merge_compressed": "model",
        "paper_shape": "method",
        "save_compressed": "model",
    },
)
