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
    from mpo_core.activation import collect_covariances, decompose_for_outputs
    from mpo_core.adapted_model import MPOModel
    from mpo_core.adoption import get_mpo_model
    from mpo_core.adoption_config import MPOConfig
    from mpo_core.allocation import allocate_bonds, plan_bonds
    from mpo_core.applying import apply_mpo
    from mpo_core.budget import bonds_for_params, bonds_for_tolerance, uniform_bond
    from mpo_core.choices import DecomposeOptions
    from mpo_core.cost import Plan, plan_linear
    from mpo_core.decomposition import decompose, decompose_batch, decompose_with_spectra, schmidt_values
    from mpo_core.embedding import MPOEmbedding
    from mpo_core.gauge import canonical_cores
    from mpo_core.io import load_mpo, read_manifest, save_mpo
    from mpo_core.linear import MPOLinear
    from mpo_core.machine import Machine, use_machine
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
    "DecomposeOptions",
    "DivergedError",
    "InputFileError",
    "MPOConfig",
    "MPOEmbedding",
    "MPOError",
    "MPOLinear",
    "MPOModel",
    "MPOShape",
    "Machine",
    "ManifestError",
    "MissingPartError",
    "NonFiniteError",
    "ParameterCount",
    "Plan",
    "Replacement",
    "ShapeError",
    "Target",
    "UsageError",
    "allocate_bonds",
    "apply_mpo",
    "bonds_for_params",
    "bonds_for_tolerance",
    "canonical_cores",
    "collect_covariances",
    "count_parameters",
    "decompose",
    "decompose_batch",
    "decompose_for_outputs",
    "decompose_with_spectra",
    "entanglement_entropy",
    "error_bound",
    "factorize",
    "find_targets",
    "freeze_cores",
    "freeze_dense",
    "get_mpo_model",
    "load_mpo",
    "merge_modules",
    "mpo_layers",
    "padded_size",
    "plan_bonds",
    "plan_linear",
    "read_manifest",
    "replace_modules",
    "save_mpo",
    "schmidt_values",
    "swap_parameters",
    "truncation_errors",
    "uniform_bond",
    "use_machine",
]

# No submodule may have the name of something public: importing it would put the module in the name's place.
_HOMES = {
    "DecomposeOptions": "choices",
    "MPO": "mpo",
    "MPOConfig": "adoption_config",
    "MPOEmbedding": "embedding",
    "MPOLinear": "linear",
    "MPOModel": "adapted_model",
    "MPOShape": "shapes",
    "Machine": "machine",
    "ParameterCount": "roles",
    "Plan": "cost",
    "Replacement": "surgery",
    "Target": "targets",
    "allocate_bonds": "allocation",
    "apply_mpo": "applying",
    "bonds_for_params": "budget",
    "bonds_for_tolerance": "budget",
    "canonical_cores": "gauge",
    "collect_covariances": "activation",
    "count_parameters": "roles",
    "decompose": "decomposition",
    "decompose_batch": "decomposition",
    "decompose_for_outputs": "activation",
    "decompose_with_spectra": "decomposition",
    "entanglement_entropy": "spectra",
    "error_bound": "spectra",
    "factorize": "shapes",
    "find_targets": "targets",
    "freeze_cores": "roles",
    "freeze_dense": "roles",
    "get_mpo_model": "adoption",
    "load_mpo": "io",
    "merge_modules": "surgery",
    "mpo_layers": "surgery",
    "padded_size": "shapes",
    "plan_bonds": "allocation",
    "plan_linear": "cost",
    "read_manifest": "io",
    "replace_modules": "surgery",
    "save_mpo": "io",
    "schmidt_values": "decomposition",
    "swap_parameters": "optim",
    "truncation_errors": "spectra",
    "uniform_bond": "budget",
    "use_machine": "machine",
}
__getattr__, __dir__ = lazy_namespace(__name__, _HOMES)
