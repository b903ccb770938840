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
    from mpo_core.adapters.adapted_model import MPOModel
    from mpo_core.adapters.adoption import get_mpo_model
    from mpo_core.adapters.adoption_config import MPOConfig
    from mpo_core.budgets.activation import collect_covariances, decompose_for_outputs
    from mpo_core.budgets.allocation import allocate_bonds, plan_bonds
    from mpo_core.budgets.budget import bonds_for_params, bonds_for_tolerance, uniform_bond
    from mpo_core.decomposing.choices import DecomposeOptions
    from mpo_core.decomposing.decomposition import decompose, decompose_batch, decompose_with_spectra, schmidt_values
    from mpo_core.embeddings.embedding import MPOEmbedding
    from mpo_core.forward.applying import apply_mpo
    from mpo_core.forward.cost import Plan, plan_linear
    from mpo_core.forward.linear import MPOLinear
    from mpo_core.forward.machine import Machine, use_machine
    from mpo_core.models.io import load_mpo, read_manifest, save_mpo
    from mpo_core.models.optim import swap_parameters
    from mpo_core.models.roles import ParameterCount, count_parameters, freeze_cores, freeze_dense
    from mpo_core.models.surgery import Replacement, merge_modules, mpo_layers, replace_modules
    from mpo_core.models.targets import Target, find_targets
    from mpo_core.operators.gauge import canonical_cores
    from mpo_core.operators.mpo import MPO
    from mpo_core.operators.spectra import entanglement_entropy, error_bound, truncation_errors
    from mpo_core.shapes import MPOShape, factorize, padded_size

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
    "DecomposeOptions": "decomposing.choices",
    "MPO": "operators.mpo",
    "MPOConfig": "adapters.adoption_config",
    "MPOEmbedding": "embeddings.embedding",
    "MPOLinear": "forward.linear",
    "MPOModel": "adapters.adapted_model",
    "MPOShape": "shapes",
    "Machine": "forward.machine",
    "ParameterCount": "models.roles",
    "Plan": "forward.cost",
    "Replacement": "models.surgery",
    "Target": "models.targets",
    "allocate_bonds": "budgets.allocation",
    "apply_mpo": "forward.applying",
    "bonds_for_params": "budgets.budget",
    "bonds_for_tolerance": "budgets.budget",
    "canonical_cores": "operators.gauge",
    "collect_covariances": "budgets.activation",
    "count_parameters": "models.roles",
    "decompose": "decomposing.decomposition",
    "decompose_batch": "decomposing.decomposition",
    "decompose_for_outputs": "budgets.activation",
    "decompose_with_spectra": "decomposing.decomposition",
    "entanglement_entropy": "operators.spectra",
    "error_bound": "operators.spectra",
    "factorize": "shapes",
    "find_targets": "models.targets",
    "freeze_cores": "models.roles",
    "freeze_dense": "models.roles",
    "get_mpo_model": "adapters.adoption",
    "load_mpo": "models.io",
    "merge_modules": "models.surgery",
    "mpo_layers": "models.surgery",
    "padded_size": "shapes",
    "plan_bonds": "budgets.allocation",
    "plan_linear": "forward.cost",
    "read_manifest": "models.io",
    "replace_modules": "models.surgery",
    "save_mpo": "models.io",
    "schmidt_values": "decomposing.decomposition",
    "swap_parameters": "models.optim",
    "truncation_errors": "operators.spectra",
    "uniform_bond": "budgets.budget",
    "use_machine": "forward.machine",
}
__getattr__, __dir__ = lazy_namespace(__name__, _HOMES)
