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
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from mpo_core.errors import NonFiniteError, ShapeError
from mpo_core.forward.layer import is_conv1d
from mpo_core.linear_algebra import vector_norm

WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "1x1": lambda: torch.full((1, 1), -2.5, dtype=torch.float64),
    "one-row": lambda: _normal(1, 12),
    "one-column": lambda: _normal(12, 1),
    "primes": lambda: _normal(13, 7),
    "rank-two": lambda: _normal(16, 2) @ _normal(2, 18, seed=1),
    "equal-halves": lambda: _normal(8, 18).repeat(2, 1),
    "identity": lambda: torch.eye(16, dtype=torch.float64),
    "zero": lambda: torch.zeros(12, 10, dtype=torch.float64),
    "tiny": lambda: 1e-15 * _normal(12, 10),
    "huge": lambda: 1e15 * _normal(12, 10),
    "transposed-view": lambda: _normal(10, 12).T,
}
"""Matrices (rows, cols) that every layer has to stand for."""
DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
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

    def layer_type(self) -> Any:
        """The class of the layer."""
        return cast("Any", type(self.make_pair()[0]))

    def make_dense(self, weight: Tensor) -> Any:
        """A dense layer of the twin's kind around another matrix (rows, cols), its bias at zero."""
        dense: Any = copy.deepcopy(self.make_pair()[1])
        rows, cols = weight.shape
        sizes = {"in_features": cols, "out_features": rows, "nx": cols, "nf": rows}
        for name, size in sizes.items() | {("num_embeddings", rows), ("embedding_dim", cols), ("padding_idx", None)}:
            if hasattr(dense, name):
                setattr(dense, name, size)
        dense.weight = nn.Parameter(weight.T if is_conv1d(dense) else weight)
        if getattr(dense, "bias", None) is not None:
            dense.bias = nn.Parameter(torch.zeros(rows, dtype=weight.dtype))
        return dense

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

    @pytest.mark.parametrize("kind", WEIGHTS)
    def test_every_kind_of_weight(self, kind: str) -> None:
        """Forward and gradients are finite and those of the twin, whatever the matrix."""
        dense = self.make_dense(WEIGHTS[kind]())
        layer = self.layer_type().from_dense(dense)
        given = self.make_input(layer, (5,)).requires_grad_(not isinstance(dense, nn.Embedding))
        output, expected = layer(given), dense(given)
        assert torch.isfinite(output).all()
        assert _distance(output, expected) < 1e-12
        assert _distance(dict(layer.to_dense().named_parameters())["weight"], dense.weight) < 1e-12
        output.sum().backward()
        for core in layer.cores:
            assert torch.isfinite(core.grad).all()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
    def test_a_non_finite_weight_is_refused(self, bad: float) -> None:
        """The message names the matrix."""
        weight = _normal(6, 8)
        weight[2, 3] = bad
        with pytest.raises(NonFiniteError, match=r"`matrix` holds NaN or infinity in 1 of 48 entries"):
            self.layer_type().from_dense(self.make_dense(weight))

    def test_an_input_of_another_size_is_refused(self, layer: Any) -> None:
        """Nothing is broadcast: one feature too few, or too many, or an id out of range."""
        if hasattr(layer, "num_embeddings"):
            wrong = [torch.tensor([0, layer.num_embeddings]), torch.tensor([-1])]
        else:
            sizes = {1, layer.in_features - 1, layer.in_features + 1}
            wrong = [torch.ones(3, size, dtype=torch.float64) for size in sizes]
        for given in wrong:
            with pytest.raises(ShapeError):
                layer(given)

    @pytest.mark.parametrize("device", DEVICES)
    def test_moves_to_a_device(self, layer: Any, device: str) -> None:
        """All parameters move, and the output is there, with its shape and dtype."""
        given = self.make_input(layer, (5,))
        expected = layer(given)
        layer.to(device)
        assert {parameter.device.type for parameter in layer.parameters()} == {device}
        if device == "meta" and hasattr(layer, "num_embeddings"):
            return  # which ids are distinct is not known there
        output = layer(given.to(device))
        assert output.device.type == device
        assert (output.shape, output.dtype) == (expected.shape, expected.dtype)
        if device == "cuda":
            assert _distance(output.cpu(), expected) < 1e-12

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
        inputs: list[Tensor | None] = []
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


def _normal(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _distance(found: Tensor | None, expected: Tensor | None) -> float:
    """Relative Frobenius distance in float64; absolute where nothing is expected."""
    assert found is not None
    assert expected is not None
    assert found.shape == expected.shape
    difference = vector_norm(found.detach().double() - expected.detach().double())
    return float(difference / vector_norm(expected.detach().double()).clamp_min(1e-300))
