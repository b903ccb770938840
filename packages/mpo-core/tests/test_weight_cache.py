from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mpo_core.forward.weight_cache import WeightCache


class Counted:
    """Builds the product of two cores, and counts how often."""

    def __init__(self) -> None:
        self.cores = [nn.Parameter(torch.randn(3, 3)) for _ in range(2)]
        self.cache = WeightCache()
        self.built = 0

    def get(self) -> Tensor:
        def build() -> Tensor:
            self.built += 1
            return self.cores[0] @ self.cores[1]

        return self.cache.get(self.cores, build)


@pytest.fixture
def counted() -> Counted:
    torch.manual_seed(0)
    return Counted()


def test_a_matrix_is_built_once_and_without_gradient(counted: Counted):
    first = counted.get()
    assert counted.get() is first
    assert counted.built == 1
    assert not first.requires_grad


def _step(cores: list[nn.Parameter]) -> None:
    cores[0].grad = torch.ones(3, 3)
    torch.optim.SGD(cores).step()


def _write(cores: list[nn.Parameter]) -> None:
    with torch.no_grad():
        cores[1][0, 0] = 7.0


def _exchange(cores: list[nn.Parameter]) -> None:
    cores[0] = nn.Parameter(torch.randn(3, 3))


def _exchange_data(cores: list[nn.Parameter]) -> None:
    cores[0].data = torch.randn(3, 3)


def _exchange_data_twice(cores: list[nn.Parameter]) -> None:
    # The second new memory may be where the first was.
    for _ in range(2):
        cores[0].data = cores[0].data * 2


def _cast(cores: list[nn.Parameter]) -> None:
    for core in cores:
        core.data = core.data.double()


@pytest.mark.parametrize("change", [_step, _write, _exchange, _exchange_data, _exchange_data_twice, _cast])
def test_any_change_of_a_core_is_seen(counted: Counted, change: Callable[[list[nn.Parameter]], None]):
    counted.get()
    change(counted.cores)
    assert torch.equal(counted.get(), counted.cores[0] @ counted.cores[1])
    assert counted.built == 2
    counted.get()
    assert counted.built == 2


def test_a_matrix_that_was_written_to_is_built_again(counted: Counted):
    expected = counted.get().clone()
    counted.get().zero_()
    assert torch.equal(counted.get(), expected)


def test_what_cannot_be_seen_needs_clear(counted: Counted):
    before = counted.get()
    counted.cores[0].data.mul_(2)
    assert counted.get() is before
    assert counted.cache
    counted.cache.clear()
    assert not counted.cache
    assert torch.equal(counted.get(), counted.cores[0] @ counted.cores[1])


def test_copies_are_empty(counted: Counted):
    counted.get()
    assert not copy.deepcopy(counted.cache)
    assert not pickle.loads(pickle.dumps(counted.cache))  # noqa: S301 - made here


def test_a_matrix_from_inference_mode_serves_training_and_one_from_autocast_is_not_rounded(counted: Counted):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        weight = counted.get()
    assert not weight.is_inference()
    assert weight.dtype == torch.float32
    x = torch.randn(2, 3, requires_grad=True)
    (x @ counted.get()).sum().backward()
    assert x.grad is not None
    assert counted.built == 1


def test_cores_that_cannot_be_watched_are_not_kept():
    cache = WeightCache()

    def product(core: Tensor) -> Tensor:
        return cache.get([core], lambda: 2 * core)

    with torch.inference_mode():
        untracked = torch.ones(3)
    product(untracked)
    assert not cache
    torch.func.vmap(product)(torch.ones(2, 3))
    assert not cache
    with FakeTensorMode():
        product(torch.ones(3))
    assert not cache


def test_inside_a_graph_the_matrix_is_part_of_it(counted: Counted):
    compiled = torch.compile(counted.get, fullgraph=True, backend="eager")
    assert torch.equal(compiled(), counted.cores[0] @ counted.cores[1])
    _write(counted.cores)
    assert torch.equal(compiled(), counted.cores[0] @ counted.cores[1])
    assert not counted.cache
