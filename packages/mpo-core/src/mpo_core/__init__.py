"""Matrix product operators for PyTorch: decompose matrices, train them as layers, put them into models.

The names below are loaded when they are first used, so that ``import mpo_core`` stays free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpo_core._lazy import lazy_namespace
from mpo_core.errors import (
    BondError,
    DivergedError,
    InputFileError,
    ManifestError,
    MissingPartError,
    MPOError,
    NonFiniteError,
    ShapeError,
    UsageError,
)

if TYPE_CHECKING:
    from mpo_core.decomposition import decompose
    from mpo_core.embedding import MPOEmbedding
    from mpo_core.gauge import canonical_cores
    from mpo_core.io import load_mpo, read_manifest, save_mpo
    from mpo_core.linear import MPOLinear
    from mpo_core.mpo import MPO
    from mpo_core.optim import swap_parameters
    from mpo_core.roles import ParameterCount, count_parameters, freeze_cores, freeze_dense
    from mpo_core.shapes import MPOShape, factorize, padded_size
    from mpo_core.spectra import entanglement_entropy, error_bound, truncation_errors
    from mpo_core.surgery import Replacement, merge_modules, mpo_layers, replace_modules
    from mpo_core.targets import Target, find_targets

__all__ = [
    "MPO",
    "BondError",
    "DivergedError",
    "InputFileError",
    "MPOEmbedding",
    "MPOError",
    "MPOLinear",
    "MPOShape",
    "ManifestError",
    "MissingPartError",
    "NonFiniteError",
    "ParameterCount",
    "Replacement",
    "ShapeError",
    "Target",
    "UsageError",
    "canonical_cores",
    "count_parameters",
    "decompose",
    "entanglement_entropy",
    "error_bound",
    "factorize",
    "find_targets",
    "freeze_cores",
    "freeze_dense",
    "load_mpo",
    "merge_modules",
    "mpo_layers",
    "padded_size",
    "read_manifest",
    "replace_modules",
    "save_mpo",
    "swap_parameters",
    "truncation_errors",
]

# No submodule may have the name of something public: importing it would put the module in the name's place.
_HOMES = {
    "MPO": "mpo",
    "MPOEmbedding": "embedding",
    "MPOLinear": "linear",
    "MPOShape": "shapes",
    "ParameterCount": "roles",
    "Replacement": "surgery",
    "Target": "targets",
    "canonical_cores": "gauge",
    "count_parameters": "roles",
    "decompose": "decomposition",
    "entanglement_entropy": "spectra",
    "error_bound": "spectra",
    "factorize": "shapes",
    "find_targets": "targets",
    "freeze_cores": "roles",
    "freeze_dense": "roles",
    "load_mpo": "io",
    "merge_modules": "surgery",
    "mpo_layers": "surgery",
    "padded_size": "shapes",
    "read_manifest": "io",
    "replace_modules": "surgery",
    "save_mpo": "io",
    "swap_parameters": "optim",
    "truncation_errors": "spectra",
}
__getattr__, __dir__ = lazy_namespace(__name__, _HOMES)
