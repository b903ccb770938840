# ruff: noqa: S101 - this module is tests that others inherit
"""The contract that every layer in MPO form keeps, as a test class to inherit.

A layer's tests take three lines::

    class TestMyLayer(LayerContract):
        def make_pair(self):
            dense = nn.Linear(12, 20, dtype=torch.float64)
            return MPOLinear.from_dense(dense), dense

This module needs pytest, which is no requirement of mpo-core.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BATCHES = [(), (1,), (7,), (2, 3), (2, 1, 4)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Relative error allowed per dtype: about 4 roundings of the dtype, as the cores are rounded one by one."""


class LayerContract:
    """Tests of a layer against its dense twin; pytest collects the subclasses.

    A subclass gives `make_pair`, and `make_input` where the layer takes neither features nor ids. The layer
    offers ``cores``, ``shape``, ``weight``, ``mpo()`` and ``to_dense()`` as `mpo_core.MPOLinear` does.
    """

    def make_pair(self) -> tuple[Any, nn.Module]:
        """A fresh layer in float64 on the CPU, and the dense layer that computes the same."""
        raise NotImplementedError

    def make_input(self, layer: Any, batch: tuple[int, ...]) -> Tensor:
        """An input with the given batch axes: ids for an embedding, features for a linear layer."""
        generator = torch.Generator().manual_seed(len(batch))
        if hasattr(layer, "num_embeddings"):
            return torch.randint(layer.num_embeddings, batch, generator=generator)
        return torch.randn(*batch, layer.in_features, generator=generator, dtype=torch.float64)

    @pytest.fixture
    def layer(self) -> Any:
        """The layer of a fresh pair."""
        return self.make_pair()[0]

    def test_to_dense_gives_the_twin(self) -> None:
        """Same kind, same parameters, same values."""
        layer, twin = self.make_pair()
        dense = layer.to_dense()
        assert type(dense) is type(twin)
        parameters, expected = dict(dense.named_parameters()), dict(twin.named_parameters())
        assert parameters.keys() == expected.keys()
        for name, value in expected.items():
            assert _distance(parameters[name], value) < 1e-12, name
        assert _distance(layer.weight, layer.mpo().to_matrix()) == 0

    @pytest.mark.parametrize("batch", BATCHES, ids=str)
    def test_forward_is_that_of_the_twin(self, batch: tuple[int, ...]) -> None:
        """For every number of batch axes."""
        layer, twin = self.make_pair()
        given = self.make_input(layer, batch)
        output, expected = layer(given), twin(given)
        assert output.shape == expected.shape
        assert _distance(output, expected) < 1e-12

    def test_empty_batch(self) -> None:
        """No rows in, no rows out, and zero gradients."""
        layer, twin = self.make_pair()
        given = self.make_input(layer, (0, 3))
        output = layer(given)
        assert output.shape == twin(given).shape
        output.sum().backward()
        for core in layer.cores:
            assert core.grad is None or not core.grad.any()

    def test_non_contiguous_input(self, layer: Any) -> None:
        """Strides do not matter."""
        given = self.make_input(layer, (6, 4)).transpose(0, 1)
        assert not given.is_contiguous()
        assert _distance(layer(given), layer(given.contiguous())) < 1e-13

    def test_gradients_are_those_of_the_twin(self) -> None:
        """Of input, bias and cores; of the cores by the chain rule from the twin's weight gradient."""
        layer, twin = self.make_pair()
        given = self.make_input(layer, (3, 5))
        probe = torch.randn(layer(given).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        inputs = []
        for module in (layer, twin):
            leaf = given.clone().requires_grad_(given.is_floating_point())
            (module(leaf) * probe).sum().backward()
            inputs.append(leaf.grad)
            if module is layer and getattr(layer, "bias", None) is not None:
                bias_gradient = layer.bias.grad
                layer.bias.grad = None  # the twin may share the parameter, and would add to it
                expected_bias = probe.flatten(0, -2).sum(0)
                assert _distance(bias_gradient, expected_bias) < 1e-12
        if given.is_floating_point():
            assert _distance(inputs[0], inputs[1]) < 1e-11
        weight_gradient = dict(twin.named_parameters())["weight"].grad
        assert weight_gradient is not None
        if getattr(layer, "transposed", False):
            weight_gradient = weight_gradient.T
        expected = torch.autograd.grad((layer.mpo().to_matrix() * weight_gradient).sum(), list(layer.cores))
        for k, (core, gradient) in enumerate(zip(layer.cores, expected, strict=True)):
            assert gradient.any(), f"core {k} gets no gradient, so the test shows nothing"
            assert _distance(core.grad, gradient) < 1e-10, f"core {k}"

    def test_cores_freeze_one_by_one(self, layer: Any) -> None:
        """A frozen central core gets no gradient, the others do."""
        central = layer.shape.central
        layer.cores[central].requires_grad_(False)
        output = layer(self.make_input(layer, (4,)))
        if output.requires_grad:  # not where the central core is the only parameter
            output.sum().backward()
        assert [core.grad is None for core in layer.cores] == [k == central for k in range(layer.shape.n)]

    def test_state_goes_through_safetensors(self, tmp_path: Path) -> None:
        """Another layer of the same shape, loaded with the state, computes the same to the bit."""
        layer, other = self.make_pair()[0], copy.deepcopy(self.make_pair()[0])
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        given = self.make_input(layer, (5,))
        assert not torch.equal(layer(given), other(given))
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
        assert torch.equal(layer(given), other(given))

    def test_deepcopy_is_independent(self, layer: Any) -> None:
        """A copy computes the same, and training it leaves the original alone."""
        given = self.make_input(layer, (5,))
        before = layer(given).detach().clone()
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(given), before)
        with torch.no_grad():
            for core in twin.cores:
                core.mul_(2.0)
        assert torch.equal(layer(given), before)
        assert not torch.equal(twin(given), before)

    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_dtypes(self, layer: Any, dtype: torch.dtype) -> None:
        """Output and dense layer have the dtype of the cores, and the values of float64 up to rounding."""
        given = self.make_input(layer, (5,))
        expected = layer(given)
        layer.to(dtype)
        cast = given.to(dtype) if given.is_floating_point() else given
        output = layer(cast)
        assert output.dtype == layer.weight.dtype == dtype
        assert {parameter.dtype for parameter in layer.to_dense().parameters()} == {dtype}
        assert _distance(output, expected) < TOLERANCE[dtype]


def _distance(found: Tensor | None, expected: Tensor | None) -> float:
    """Relative Frobenius distance in float64; absolute where nothing is expected."""
    assert found is not None
    assert expected is not None
    assert found.shape == expected.shape
    difference = torch.linalg.vector_norm(found.detach().double() - expected.detach().double())
    return float(difference / torch.linalg.vector_norm(expected.detach().double()).clamp_min(1e-300))
