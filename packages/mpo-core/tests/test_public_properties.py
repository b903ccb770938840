"""Every public function has a property test of 500 examples; `HOMES` names them all.

It says for each public name where its test is. A new public name without one fails.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mpo_core
from mpo_core import MPO, MPOEmbedding, MPOLinear, MPOShape

_NUMBERS = "test_properties_numbers"
_CORES = "test_properties_decomposition"
_OPERATORS = "test_properties_operators"
_LAYERS = "test_properties_layers"
_MODELS = "test_properties_models"
HOMES = {
    "MPO": f"{_OPERATORS}::test_made_operators",
    "MPO.T": "test_algebra::test_transpose",
    "MPO.__add__": "test_algebra::test_sum",
    "MPO.__matmul__": "test_algebra::test_product",
    "MPO.__mul__": "test_algebra::test_scale",
    "MPO.__neg__": "test_algebra::test_scale",
    "MPO.__radd__": "test_algebra::test_sum",
    "MPO.__rmatmul__": "test_arithmetic::test_apply_and_matmul",
    "MPO.__rmul__": "test_algebra::test_scale",
    "MPO.__sub__": "test_algebra::test_sum",
    "MPO.__truediv__": "test_algebra::test_scale",
    "MPO.apply": "test_arithmetic::test_apply_and_matmul",
    "MPO.bond_spectra": f"{_OPERATORS}::test_canonical_forms",
    "MPO.canonicalize": f"{_OPERATORS}::test_canonical_forms",
    "MPO.entropies": f"{_OPERATORS}::test_canonical_forms",
    "MPO.error_bound": f"{_OPERATORS}::test_truncate_and_what_it_costs",
    "MPO.from_matrix": f"{_CORES}::test_bad_matrices_are_refused",
    "MPO.from_quimb": "test_conversion::test_quimb_there_and_back",
    "MPO.from_tensorly": "test_conversion::test_tensorly_there_and_back",
    "MPO.identity": f"{_OPERATORS}::test_made_operators",
    "MPO.inner": "test_algebra::test_inner_product",
    "MPO.norm": "test_algebra::test_norm",
    "MPO.plot_spectra": "",  # draws what `bond_spectra` gives; a figure takes a tenth of a second
    "MPO.random": f"{_OPERATORS}::test_made_operators",
    "MPO.round": "test_rounding::test_caps_are_kept",
    "MPO.to": f"{_OPERATORS}::test_conversion_and_the_matrix",
    "MPO.to_matrix": f"{_OPERATORS}::test_conversion_and_the_matrix",
    "MPO.to_quimb": "test_conversion::test_quimb_there_and_back",
    "MPO.to_tensorly": "test_conversion::test_tensorly_there_and_back",
    "MPO.trace": "test_algebra::test_trace",
    "MPO.truncate": f"{_OPERATORS}::test_truncate_and_what_it_costs",
    "MPO.truncation_errors": f"{_OPERATORS}::test_truncate_and_what_it_costs",
    "MPO.zeros": f"{_OPERATORS}::test_made_operators",
    "MPOConfig": f"{_MODELS}::test_configurations",
    "MPOEmbedding": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.core_list": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.cost": f"{_LAYERS}::test_cost_of_an_embedding",
    "MPOEmbedding.drop_cache": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.extra_repr": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.forward": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.from_dense": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.from_embedding": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.mpo": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.to_dense": f"{_LAYERS}::test_embedding",
    "MPOEmbedding.train": f"{_LAYERS}::test_embedding",
    "MPOLinear": f"{_LAYERS}::test_linear",
    "MPOLinear.core_list": f"{_LAYERS}::test_linear",
    "MPOLinear.cost": f"{_LAYERS}::test_cost_of_a_linear_layer",
    "MPOLinear.drop_cache": f"{_LAYERS}::test_linear",
    "MPOLinear.extra_repr": f"{_LAYERS}::test_linear",
    "MPOLinear.forward": f"{_LAYERS}::test_linear",
    "MPOLinear.from_dense": f"{_LAYERS}::test_linear",
    "MPOLinear.from_linear": f"{_LAYERS}::test_linear",
    "MPOLinear.mpo": f"{_LAYERS}::test_linear",
    "MPOLinear.to_dense": f"{_LAYERS}::test_linear",
    "MPOLinear.train": f"{_LAYERS}::test_linear",
    "MPOModel": f"{_MODELS}::test_adopt_and_undo",
    "MPOShape": f"{_NUMBERS}::test_shapes",
    "MPOShape.choose": f"{_NUMBERS}::test_chosen_shapes",
    "MPOShape.clip_bonds": f"{_NUMBERS}::test_bonds_of_a_shape",
    "MPOShape.core_shapes": f"{_NUMBERS}::test_bonds_of_a_shape",
    "MPOShape.from_dict": f"{_NUMBERS}::test_shapes",
    "MPOShape.n_params": f"{_NUMBERS}::test_bonds_of_a_shape",
    "MPOShape.to_dict": f"{_NUMBERS}::test_shapes",
    "Machine": f"{_LAYERS}::test_plans",
    "Plan": f"{_LAYERS}::test_plans",
    "ParameterCount": f"{_MODELS}::test_roles",
    "Replacement": f"{_MODELS}::test_replace_and_merge",
    "Target": f"{_MODELS}::test_replace_and_merge",
    "allocate_bonds": f"{_NUMBERS}::test_allocate_bonds",
    "apply_mpo": f"{_LAYERS}::test_apply",
    "bonds_for_params": f"{_NUMBERS}::test_bonds_within_a_number_of_parameters",
    "bonds_for_tolerance": f"{_NUMBERS}::test_bonds_within_a_tolerance",
    "canonical_cores": f"{_OPERATORS}::test_canonical_forms",
    "collect_covariances": f"{_MODELS}::test_covariances",
    "count_parameters": f"{_MODELS}::test_roles",
    "decompose": f"{_CORES}::test_decompose",
    "decompose_batch": f"{_CORES}::test_decompose_batch",
    "decompose_for_outputs": f"{_CORES}::test_decompose_for_outputs",
    "decompose_with_spectra": f"{_CORES}::test_decompose_with_spectra_and_schmidt_values",
    "entanglement_entropy": f"{_NUMBERS}::test_entropy",
    "error_bound": f"{_NUMBERS}::test_truncation_errors",
    "factorize": f"{_NUMBERS}::test_factorize",
    "find_targets": f"{_MODELS}::test_replace_and_merge",
    "freeze_cores": f"{_MODELS}::test_roles",
    "freeze_dense": f"{_MODELS}::test_roles",
    "get_mpo_model": f"{_MODELS}::test_adopt_and_undo",
    "load_mpo": f"{_MODELS}::test_files",
    "merge_modules": f"{_MODELS}::test_replace_and_merge",
    "mpo_layers": f"{_MODELS}::test_replace_and_merge",
    "padded_size": f"{_NUMBERS}::test_padded_size",
    "plan_bonds": f"{_MODELS}::test_plan_bonds",
    "plan_linear": f"{_LAYERS}::test_plans",
    "read_manifest": f"{_MODELS}::test_files",
    "replace_modules": f"{_MODELS}::test_replace_and_merge",
    "save_mpo": f"{_MODELS}::test_files",
    "schmidt_values": f"{_CORES}::test_decompose_with_spectra_and_schmidt_values",
    "swap_parameters": f"{_MODELS}::test_swap_parameters",
    "truncation_errors": f"{_NUMBERS}::test_truncation_errors",
    "uniform_bond": f"{_NUMBERS}::test_bonds_within_a_number_of_parameters",
    "use_machine": f"{_LAYERS}::test_plans",
}
"""Public name -> file and function of its property test. Properties that return a stored number are left out."""
_WITHOUT_LOGIC = {"DecomposeOptions"} | {name for name in mpo_core.__all__ if name.endswith("Error")}


def _methods(owner: type) -> set[str]:
    own = [base for base in owner.__mro__ if base.__module__.startswith("mpo_core")]
    entries = {name: value for base in own for name, value in vars(base).items()}
    public = {name for name, value in entries.items() if not name.startswith("_") and not isinstance(value, property)}
    operators = {"__add__", "__radd__", "__sub__", "__neg__", "__mul__", "__rmul__", "__truediv__"}
    return {
        f"{owner.__name__}.{name}"
        for name in public | (entries.keys() & (operators | {"__matmul__", "__rmatmul__"}))
        if callable(getattr(owner, name, None))
    }


def test_every_public_name_has_a_property_test() -> None:
    methods = {name for owner in (MPO, MPOShape, MPOLinear, MPOEmbedding) for name in _methods(owner)}
    assert set(HOMES) == (set(mpo_core.__all__) - _WITHOUT_LOGIC) | methods | {"MPO.T"}


@pytest.mark.parametrize("file", sorted({home.split("::")[0] for home in HOMES.values() if home}))
def test_the_named_tests_exist_and_draw_500_examples(file: str) -> None:
    """Their decorator is one of 500 examples."""
    tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8"))
    often_is = [
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "often"
    ]
    for name in {home.split("::")[1] for home in HOMES.values() if home.startswith(f"{file}::")}:
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert found, name
        decorators = [ast.unparse(decorator) for decorator in found[0].decorator_list]
        texts = [
            often_is[0] if text == "often" else text for text in decorators if text.startswith(("often", "settings"))
        ]
        assert any("max_examples=500" in text for text in texts), name
