"""Every operation on operators against the same operation on their matrices: values, gradients, dtypes, kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mpo_core import MPO, MPOShape, decompose

DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2}
SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))
INNER = MPOShape(17, 13, (3, 3, 2), (2, 3, 3))
SQUARE = MPOShape(11, 11, (3, 2, 2), (3, 2, 2))


class Operation(NamedTuple):
    """An operation, with operators and with matrices, and the shapes of its two operands."""

    lazy: Callable[[Any, Any], Any]
    dense: Callable[[Tensor, Tensor], Tensor]
    first: MPOShape = SHAPE
    second: MPOShape = SHAPE


def _vectors(matrix: Any, *sizes: int) -> Tensor:
    """Fixed numbers in the dtype and on the device of the operand."""
    count = torch.Size(sizes).numel()
    return torch.linspace(-1, 1, count, dtype=torch.float64).reshape(sizes).to(matrix.dtype).to(matrix.device)


OPERATIONS = {
    "add": Operation(lambda a, b: a + b, lambda a, b: a + b),
    "add-itself": Operation(lambda a, b: a + a, lambda a, b: a + a),
    "subtract": Operation(lambda a, b: a - b, lambda a, b: a - b),
    "negate": Operation(lambda a, b: -a, lambda a, b: -a),
    "sum": Operation(lambda a, b: sum([a, b, a]), lambda a, b: a + b + a),
    "times-number": Operation(lambda a, b: a * 2.5, lambda a, b: a * 2.5),
    "number-times": Operation(lambda a, b: -3 * a, lambda a, b: -3 * a),
    "times-zero": Operation(lambda a, b: 0 * a, lambda a, b: 0 * a),
    "over-number": Operation(lambda a, b: a / 3, lambda a, b: a / 3),
    "mixed": Operation(lambda a, b: 2 * (a - b / 4) + a, lambda a, b: 2 * (a - b / 4) + a),
    "transpose": Operation(lambda a, b: a.T, lambda a, b: a.T),
    "product": Operation(lambda a, b: a @ b, lambda a, b: a @ b, SHAPE, INNER),
    "product-with-transpose": Operation(lambda a, b: a @ b.T, lambda a, b: a @ b.T),
    "product-of-squares": Operation(lambda a, b: a @ b, lambda a, b: a @ b, SQUARE, SQUARE),
    "matrix-times-vector": Operation(lambda a, b: a @ _vectors(a, 17), lambda a, b: a @ _vectors(a, 17)),
    "matrix-times-columns": Operation(lambda a, b: a @ _vectors(a, 17, 4), lambda a, b: a @ _vectors(a, 17, 4)),
    "vector-times-matrix": Operation(lambda a, b: _vectors(a, 22) @ a, lambda a, b: _vectors(a, 22) @ a),
    "rows-times-matrix": Operation(lambda a, b: _vectors(a, 2, 3, 22) @ a, lambda a, b: _vectors(a, 2, 3, 22) @ a),
    "apply": Operation(lambda a, b: a.apply(_vectors(a, 2, 3, 17)), lambda a, b: _vectors(a, 2, 3, 17) @ a.T),
    "apply-to-one": Operation(lambda a, b: a.apply(_vectors(a, 17)), lambda a, b: _vectors(a, 17) @ a.T),
    "apply-to-none": Operation(lambda a, b: a.apply(_vectors(a, 0, 17)), lambda a, b: _vectors(a, 0, 17) @ a.T),
    "inner": Operation(lambda a, b: a.inner(b), lambda a, b: (a * b).sum()),
    "inner-with-itself": Operation(lambda a, b: a.inner(a), lambda a, b: (a * a).sum()),
    "norm": Operation(lambda a, b: a.norm(), lambda a, b: torch.linalg.vector_norm(a)),
    "norm-of-difference": Operation(lambda a, b: (a - b).norm(), lambda a, b: torch.linalg.vector_norm(a - b)),
    "trace": Operation(lambda a, b: a.trace(), lambda a, b: a.trace(), SQUARE, SQUARE),
    "trace-of-product": Operation(lambda a, b: (a @ b).trace(), lambda a, b: (a @ b).trace(), SQUARE, SQUARE),
    "matrix": Operation(lambda a, b: a, lambda a, b: a),
}
WITHOUT_GRADIENT = {
    "canonicalize": Operation(lambda a, b: a.canonicalize(), lambda a, b: a),
    "canonicalize-at-a-site": Operation(lambda a, b: a.canonicalize(site=a.shape.n // 2), lambda a, b: a),
    "round": Operation(lambda a, b: (a + b - b).round(), lambda a, b: a),
    "round-to-full-bonds": Operation(lambda a, b: (a + b).round(bonds=99), lambda a, b: a + b),
}
KINDS: dict[str, Callable[[MPOShape, int], MPO]] = {
    "random": lambda shape, seed: _random(shape, 5, seed),
    "bonds-of-one": lambda shape, seed: _random(shape, 1, seed),
    "bonds-beyond-the-full": lambda shape, seed: _random(shape, None, seed) + _random(shape, None, seed + 7),
    "full-without-padding": lambda shape, seed: decompose(_matrix(shape, seed), shape, gauge="left"),
    "rank-deficient": lambda shape, seed: decompose(_matrix(shape, seed, rank=2), shape, gauge="left"),
    "zero": lambda shape, seed: MPO.zeros(shape, 2, dtype=torch.float64),
    "views": lambda shape, seed: _strided(_random(shape, 4, seed)),
}


def _random(shape: MPOShape, bonds: int | None, seed: int) -> MPO:
    return MPO.random(shape, bonds, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _matrix(shape: MPOShape, seed: int, rank: int = 99) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(shape.rows, rank, generator=generator, dtype=torch.float64)
    return left @ torch.randn(rank, shape.cols, generator=generator, dtype=torch.float64)


def _strided(mpo: MPO) -> MPO:
    """The same operator with cores that are no contiguous tensors."""
    cores = [core.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for core in mpo.cores]
    assert not any(core.is_contiguous() for core in cores[:-1])
    return MPO(cores, mpo.shape)


def _dense(value: Any) -> Tensor:
    return value.to_matrix() if isinstance(value, MPO) else value


def _close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.detach().double().norm()))
    assert float((found.detach().double() - expected.detach().double()).norm()) <= tolerance * scale


def _leaves(mpo: MPO) -> MPO:
    """The operator with cores that require a gradient."""
    return MPO([core.detach().requires_grad_() for core in mpo.cores], mpo.shape)


ALL = OPERATIONS | WITHOUT_GRADIENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_values(name: str, kind: str) -> None:
    operation = ALL[name]
    a, b = KINDS[kind](operation.first, 0), KINDS[kind](operation.second, 1)
    before = [core.clone() for core in (*a.cores, *b.cores)]
    found, expected = operation.lazy(a, b), operation.dense(a.to_matrix(), b.to_matrix())
    _close(_dense(found), expected, 1e-12)
    assert found.dtype == torch.float64
    # Nothing is modified in place.
    assert all(torch.equal(x, y) for x, y in zip(before, (*a.cores, *b.cores), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients(name: str, kind: str) -> None:
    """With respect to the cores of both operands; of the zero matrix they are zero, never NaN."""
    operation = OPERATIONS[name]
    a, b = _leaves(KINDS[kind](operation.first, 0)), _leaves(KINDS[kind](operation.second, 1))
    leaves = [*a.cores, *b.cores]
    gradients: list[tuple[Tensor, ...]] = []
    for value in (_dense(operation.lazy(a, b)), operation.dense(a.to_matrix(), b.to_matrix())):
        probe = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        found = torch.autograd.grad((value * probe).sum(), leaves, allow_unused=True, materialize_grads=True)
        gradients.append(found)
    for found, expected in zip(*gradients, strict=True):
        assert found.isfinite().all()
        _close(found, expected, 1e-11 if "norm" in name else 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """The result has the dtype of the operands, and the values of float64 up to rounding."""
    operation = ALL[name]
    a, b = _random(operation.first, 4, 0).to(dtype), _random(operation.second, 3, 1).to(dtype)
    found = operation.lazy(a, b)
    assert found.dtype == dtype
    expected = operation.dense(a.to(torch.float64).to_matrix(), b.to(torch.float64).to_matrix())
    if isinstance(found, MPO):
        found = found.to(torch.float64)  # so that the rounding is that of the operation, not of the rebuild
    _close(_dense(found), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_on_a_device(name: str, device: str) -> None:
    """On the meta device only shapes are computed, and nothing waits for a value."""
    operation = OPERATIONS[name]
    a, b = _random(operation.first, 4, 0), _random(operation.second, 3, 1)
    expected = _dense(operation.lazy(a, b))
    found = _dense(operation.lazy(a.to(device), b.to(device)))
    assert (found.device.type, found.shape, found.dtype) == (device, expected.shape, expected.dtype)
    if device != "meta":
        _close(found.cpu(), expected, 1e-12)


@pytest.mark.parametrize("name", ALL)
def test_of_a_deep_copy(name: str) -> None:
    """A copy computes the same to the bit and shares no memory."""
    operation = ALL[name]
    a, b = _leaves(_random(operation.first, 4, 0)), _leaves(_random(operation.second, 3, 1))
    twins = copy.deepcopy((a, b))
    expected = _dense(operation.lazy(a, b)).detach().clone()
    assert torch.equal(_dense(operation.lazy(*twins)), expected)
    with torch.no_grad():
        for core in (*a.cores, *b.cores):
            core.fill_(0.5)
    assert torch.equal(_dense(operation.lazy(*twins)), expected)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(("matrix-", "vector", "rows", "apply"))])
@pytest.mark.parametrize("factors", [(1, 1), (1,), (8,)], ids=str)
def test_of_the_smallest_and_of_one_core(name: str, factors: tuple[int, ...]) -> None:
    """1 x 1, and a single core with and without padding."""
    size = 7 if factors == (8,) else 1
    shape, operation = MPOShape(size, size, factors, factors), ALL[name]
    a, b = _random(shape, 2, 0), _random(shape, 2, 1)
    _close(_dense(operation.lazy(a, b)), operation.dense(a.to_matrix(), b.to_matrix()), 1e-12)


def test_a_number_with_a_gradient() -> None:
    """A 0-d tensor as factor or divisor is differentiated, too, and keeps the dtype of the cores."""
    mpo = _random(SHAPE, 3, 0).to(torch.float32)
    for lazy, derivative in (
        (lambda t: mpo * t, lambda t: mpo.to_matrix().double().sum()),
        (lambda t: mpo / t, lambda t: -mpo.to_matrix().double().sum() / t**2),
    ):
        number = torch.tensor(-1.7, dtype=torch.float64, requires_grad=True)
        result = lazy(number)
        assert result.dtype == torch.float32
        (gradient,) = torch.autograd.grad(result.to_matrix().double().sum(), number)
        assert float(gradient) == pytest.approx(float(derivative(-1.7)), rel=1e-4)


def test_second_derivatives() -> None:
    """Of inner product, norm and product; torch checks them against differences."""
    shape = MPOShape(3, 5, (2, 2), (2, 3))

    def scalars(*cores: Tensor) -> Tensor:
        a, b = MPO(cores[:2], shape), MPO(cores[2:], shape)
        return torch.stack([a.inner(b), a.norm(), (a @ b.T).trace(), (3 * a - b).norm()])

    cores = [core.requires_grad_() for seed in (0, 1) for core in _random(shape, 2, seed).cores]
    assert torch.autograd.gradcheck(scalars, cores)
    assert torch.autograd.gradgradcheck(scalars, cores)


def test_what_records_no_gradient() -> None:
    mpo = _leaves(_random(SHAPE, 4, 0))
    for result in (mpo.canonicalize(), mpo.canonicalize(site=0), mpo.round(2), mpo.truncate(2)):
        assert not any(core.requires_grad for core in result.cores)
    with torch.no_grad():
        assert not mpo.norm().requires_grad
        assert not mpo.inner(mpo).requires_grad
