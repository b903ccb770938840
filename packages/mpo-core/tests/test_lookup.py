from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mpo_core.embeddings.lookup import contract_rows, planned_rows
from mpo_core.embeddings.lookup_cost import embedding_cost, rebuild_way, singles_way
from mpo_core.embeddings.lookup_plan import Factors, plan_rows
from mpo_core.forward.machine import Machine
from mpo_core.forward.operations import Layout
from mpo_core.operators.contraction import contract_matrix
from mpo_core.shapes import MPOShape

BERT = MPOShape.choose(30522, 384)


def make_cores(shape: MPOShape, bonds: int | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    cores = [torch.randn(size, generator=generator, dtype=dtype) for size in shape.core_shapes(bonds)]
    return [(core / math.sqrt(core.shape[0])).requires_grad_() for core in cores]


def distance(found: Tensor, expected: Tensor) -> float:
    scale = torch.linalg.vector_norm(expected.detach()).clamp_min(1e-300)
    return float(torch.linalg.vector_norm(found.detach() - expected.detach()) / scale)


@st.composite
def shapes(draw: st.DrawFn) -> MPOShape:
    """Any factors, with and without padding."""
    n = draw(st.integers(1, 6))
    rows = tuple(draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)))
    cols = tuple(draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    true_rows = draw(st.integers(max(1, math.prod(rows) // 2), math.prod(rows)))
    true_cols = draw(st.integers(max(1, math.prod(cols) // 2), math.prod(cols)))
    return MPOShape(true_rows, true_cols, rows, cols)


@settings(max_examples=150, deadline=None)
@given(shape=shapes(), bonds=st.sampled_from([None, 1, 2, 5]), data=st.data())
def test_rows_and_gradients_are_those_of_the_matrix(shape: MPOShape, bonds: int | None, data: st.DataObject):
    cores = make_cores(shape, bonds)
    frozen = data.draw(st.sets(st.integers(0, shape.n), max_size=shape.n))
    for k, core in enumerate(cores):
        core.requires_grad_(k not in frozen)
    ids = torch.tensor(sorted(data.draw(st.sets(st.integers(0, shape.rows - 1), min_size=1, max_size=60))))
    found, expected = contract_rows(cores, shape, ids), contract_matrix(cores, shape)[ids]
    assert found.shape == expected.shape
    assert distance(found, expected) < 1e-12
    with torch.no_grad():
        assert torch.equal(contract_rows(cores, shape, ids), found)
    trained = [core for core in cores if core.requires_grad]
    assert found.requires_grad == bool(trained)
    if trained:
        probe = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        wanted = torch.autograd.grad(expected, trained, probe)
        for gradient, right in zip(torch.autograd.grad(found, trained, probe), wanted, strict=True):
            assert distance(gradient, right) < 1e-11


@settings(max_examples=60, deadline=None)
@given(shape=shapes(), call=st.sampled_from([1e-12, 1.0]), data=st.data())
def test_both_arrangements_of_the_stems_give_the_rows(shape: MPOShape, call: float, data: st.DataObject):
    """Cheap calls: a block for each digit; dear ones: one for all digits."""
    cores = make_cores(shape, 3)
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, shape.rows - 1), min_size=1, max_size=60))))
    plan = plan_rows(ids, shape, shape.clip_bonds(3), Machine(call=call))
    rows = planned_rows(cores, plan)
    expected = contract_matrix(cores, shape)[torch.from_numpy(ids[plan.order])]
    assert distance(rows, expected) < 1e-12
    probe = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, cores, probe)
    for gradient, right in zip(torch.autograd.grad(rows, cores, probe), wanted, strict=True):
        assert distance(gradient, right) < 1e-11


def test_all_arrangements_occur():
    """Left and right, together and apart, with digits left out and without, for ids as they come."""
    seen: set[tuple[str, bool, bool]] = set()
    for bonds, number in ((4, 400), (4, 3), (None, 40), (None, 3)):
        for ids in (np.arange(2000, 2000 + number), np.arange(number) * 61):
            plan = plan_rows(ids, BERT, BERT.clip_bonds(bonds), Machine())
            seen.add((plan.factors.side, plan.stem_order is None, any(used is not None for used in plan.used)))
    assert {(side, apart) for side, apart, _ in seen} == {(s, a) for s in ("left", "right") for a in (True, False)}
    assert {reduced for *_, reduced in seen} == {True, False}


@settings(max_examples=100, deadline=None)
@given(shape=shapes(), data=st.data())
def test_a_plan_is_complete(shape: MPOShape, data: st.DataObject):
    """Every id stands in one group, under the head that its digits name, and the operations are those counted."""
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, shape.rows - 1), min_size=1, max_size=80))))
    plan = plan_rows(ids, shape, shape.clip_bonds(2), Machine(), reduce=False)
    f = plan.factors
    assert sorted(plan.order.tolist()) == list(range(len(ids)))
    assert (plan.ids == ids[plan.order]).all()
    covered = np.zeros(len(ids), int)
    stems = 0
    for block in plan.blocks:
        digit_of = {head: digit for digit, start, stop in block.digits for head in range(start, stop)}
        stems += len(digit_of)
        order = plan.stem_order
        if order is not None and f.side == "right":  # rows of stems: take the head of each first one
            order = order.reshape(-1, f.near[1] * f.own[1])[:, 0] // (f.near[1] * f.own[1])
        for group in block.groups:
            members = (group.ids[1] - group.ids[0]) // (group.heads[1] - group.heads[0])
            for k, place in enumerate(range(*group.ids)):
                covered[place] += 1
                head = group.heads[0] + k // members
                head = head if order is None else int(order[head])
                near, far = int(plan.near[block.heads[0] + head]), int(plan.far[place])
                digits = (near, digit_of[head], far) if f.side == "left" else (far, digit_of[head], near)
                sizes = (f.near[0], f.own[0], f.far[0]) if f.side == "left" else (f.far[0], f.own[0], f.near[0])
                assert np.ravel_multi_index(digits, sizes) == plan.ids[place]
    assert (covered == 1).all()
    assert plan.flops == f.flops(stems, len(ids))


def test_the_side_with_fewer_stems_is_near():
    layout = Layout(BERT, BERT.full_bonds)
    left, right = Factors.of(layout, "left"), Factors.of(layout, "right")
    block = np.arange(3 * right.own[0] * right.near[0])  # three prefixes with all their suffixes
    assert plan_rows(block, BERT, BERT.full_bonds, Machine()).factors == left
    comb = np.arange(0, 30000, right.near[0])  # one suffix
    assert plan_rows(comb, BERT, BERT.full_bonds, Machine()).factors == right


@pytest.mark.parametrize("bonds", [4, 32])
@pytest.mark.parametrize("number", [1, 3, 5, 300])
@pytest.mark.parametrize("training", [False, True])
def test_operations_are_counted_exactly(bonds: int, number: int, training: bool):
    shape = MPOShape.choose(3000, 96)
    cores = make_cores(shape, bonds, torch.float32)
    ids = np.sort(np.random.default_rng(0).permutation(3000)[:number])
    cost = embedding_cost(ids, shape, shape.clip_bonds(bonds), Machine(), training)

    def count(rows: Tensor) -> None:
        if training:
            rows.sum().backward()

    with torch.set_grad_enabled(training):
        with FlopCounterMode(display=False) as counter:
            count(contract_rows(cores, shape, torch.from_numpy(ids)))
        assert counter.get_total_flops() == cost.ways["lookup"].flops
        with FlopCounterMode(display=False) as counter:
            count(contract_matrix(cores, shape))
        assert counter.get_total_flops() == cost.ways["rebuild"].flops


def test_a_single_row_is_the_cheapest_lookup():
    """`auto` relies on it: where one row is no faster than the table, no number of rows is."""
    machine = Machine()
    for shape in (BERT, MPOShape.choose(1000, 64), MPOShape.choose(50, 12, 3), MPOShape.choose(90, 16, 2)):
        for bonds in (2, 16, None):
            clipped = shape.clip_bonds(bonds)
            for training in (False, True):
                least = singles_way(1, shape, clipped, machine, training)
                for number in (2, 4, 5, 10, 17, 40):
                    ids = np.sort(np.random.default_rng(number).permutation(shape.rows)[:number])
                    way = embedding_cost(ids, shape, clipped, machine, training).ways["lookup"]
                    assert way.seconds >= least.seconds


def test_the_estimate_prefers_what_is_much_faster():
    """A few rows of a large table are looked up, many rows of a small one are not."""
    ids = np.arange(64)
    few = embedding_cost(ids, BERT, BERT.full_bonds, Machine())
    assert few.chosen == "lookup"
    assert few.ways["rebuild"].seconds > 5 * few.ways["lookup"].seconds
    small = MPOShape.choose(100, 24)
    assert embedding_cost(ids, small, small.clip_bonds(4), Machine()).chosen == "rebuild"
    assert rebuild_way(MPOShape.choose(9, 4, 1), (), Machine(), training=False).flops == 0


@pytest.mark.parametrize("number", [3, 500])
def test_the_same_bits_every_time(number: int):
    cores = make_cores(BERT, 24, torch.float32)
    ids = torch.from_numpy(np.sort(np.random.default_rng(1).permutation(30522)[:number]))
    probe = torch.randn(number, 384, generator=torch.Generator().manual_seed(1))

    def once() -> list[Tensor]:
        rows = contract_rows(cores, BERT, ids)
        return [rows.detach(), *torch.autograd.grad(rows, cores, probe)]

    first = once()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(once(), first, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_second_derivatives(n: int):
    shape = MPOShape.choose(20, 6, n)
    cores = make_cores(shape, 2)
    ids = torch.tensor([0, 3, 7, 11, 19])

    def rows(*own: Tensor) -> Tensor:
        return contract_rows(own, shape, ids)

    assert torch.autograd.gradcheck(rows, cores)
    assert torch.autograd.gradgradcheck(rows, cores)


def test_what_is_kept_for_training_is_small():
    """One pivot slice per id would be 600 MB, the table 47 MB."""
    cores = make_cores(BERT, 64, torch.float32)
    ids = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(30522)[:512]))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        rows = contract_rows(cores, BERT, ids)
    own = {core.untyped_storage().data_ptr() for core in cores}
    total = sum(size for address, size in kept.items() if address not in own)
    way = embedding_cost(ids.numpy(), BERT, BERT.clip_bonds(64), Machine(), training=True).ways["lookup"]
    assert total <= way.extra_bytes < 4 * 2**20
    assert rows.shape == (512, 384)


def test_gradients_of_the_half_types_are_added_in_float32():
    """In bfloat16, a sum of equal numbers stops growing at 256 times the first one."""
    shape = MPOShape(4096, 8, (16, 16, 16), (2, 2, 2))
    cores = [torch.ones(size, dtype=torch.bfloat16).requires_grad_() for size in shape.core_shapes(1)]
    contract_rows(cores, shape, torch.arange(4096)).sum().backward()
    for core in cores:
        assert core.grad is not None
        assert torch.equal(core.grad, torch.full_like(core, 4096 * 8 / core.numel()))


def test_no_ids():
    cores = make_cores(BERT, 4)
    rows = contract_rows(cores, BERT, torch.empty(0, dtype=torch.int64))
    assert rows.shape == (0, 384)
    rows.sum().backward()
    assert all(core.grad is not None and not core.grad.any() for core in cores)
