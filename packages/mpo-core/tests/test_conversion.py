from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import quimb.tensor as qtn
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.tt_matrix import TTMatrix

from mpo_core import MPO, MissingPartError, MPOShape, ShapeError, UsageError

often = settings(deadline=None, max_examples=500)
SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)
SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))
DTYPES = [torch.float64, torch.float32, torch.float16]


def _random(shape: MPOShape = SHAPE, bonds: int | None = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> MPO:
    return MPO.random(shape, bonds, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _shape(factors: list[tuple[int, int]], seed: int) -> MPOShape:
    rows, cols = zip(*factors, strict=True)
    return MPOShape(max(1, math.prod(rows) - seed % 3), max(1, math.prod(cols) - seed // 3 % 3), rows, cols)


def _same(found: MPO, expected: MPO) -> bool:
    same = zip(found.cores, expected.cores, strict=True)
    return found.shape == expected.shape and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in same)


def _padded(mpo: MPO) -> torch.Tensor:
    shape = mpo.shape
    whole = MPOShape(shape.padded_rows, shape.padded_cols, shape.row_factors, shape.col_factors)
    return MPO(mpo.cores, whole).to_matrix()


@often
@given(SHAPES, st.integers(0, 2**16), st.sampled_from(DTYPES))
def test_quimb_there_and_back(factors, seed, dtype):
    """To the bit, for any sizes above and below, one core, and bonds of 1."""
    mpo = _random(_shape(factors, seed), 1 + seed % 5, seed, dtype)
    network = mpo.to_quimb()
    assert isinstance(network, qtn.MatrixProductOperator)
    assert all(isinstance(tensor.data, np.ndarray) for tensor in network.tensors)
    assert _same(MPO.from_quimb(network, mpo.shape.rows, mpo.shape.cols), mpo)


@often
@given(SHAPES, st.integers(0, 2**16), st.sampled_from(DTYPES))
def test_tensorly_there_and_back(factors, seed, dtype):
    mpo = _random(_shape(factors, seed), 1 + seed % 5, seed, dtype)
    operator = mpo.to_tensorly()
    assert isinstance(operator, TTMatrix)
    assert _same(MPO.from_tensorly(operator, mpo.shape.rows, mpo.shape.cols), mpo)


def test_both_libraries_rebuild_the_padded_matrix():
    mpo = _random()
    expected = _padded(mpo)
    dense = torch.from_numpy(np.asarray(mpo.to_quimb().to_dense()))
    torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-12)
    dense = torch.from_numpy(np.asarray(mpo.to_tensorly().to_matrix()))
    torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-12)
    for back in (MPO.from_quimb(mpo.to_quimb()), MPO.from_tensorly(mpo.to_tensorly())):
        assert (back.shape.rows, back.shape.cols) == (24, 18)
        torch.testing.assert_close(back.to_matrix(), expected, rtol=1e-12, atol=1e-12)


def test_quimb_applies_the_same_map():
    """Lower indices are columns: quimb's product with a vector is ours."""
    mpo = _random()
    sites = [torch.randn(size, generator=torch.Generator().manual_seed(k)) for k, size in enumerate([(3,), (3,), (2,)])]
    arrays = [sites[0][None].numpy(), sites[1][None, None].numpy(), sites[2][None].numpy()]
    state = qtn.MatrixProductState([array.astype("float64") for array in arrays], shape="lrp")
    vector = torch.einsum("a,b,c->abc", *sites).double().reshape(-1)
    applied: Any = mpo.to_quimb().apply(state)
    torch.testing.assert_close(torch.from_numpy(applied.to_dense().ravel()), _padded(mpo) @ vector)


def test_quimb_as_an_oracle():
    """Norm, inner product, product, sum, Schmidt values and entropies."""
    square = MPOShape(24, 24, (2, 4, 3), (2, 4, 3))
    a, b = _random(square, 5, 1), _random(square, 3, 2)
    A, B = a.to_quimb(), b.to_quimb()
    close: Any = {"rtol": 1e-12, "atol": 1e-12}
    assert float(A.norm()) == pytest.approx(float(a.norm()), rel=1e-12)
    overlap: Any = A.H @ B
    assert float(overlap) == pytest.approx(float(a.inner(b)), rel=1e-12)
    assert float(A.trace()) == pytest.approx(float(a.trace()), rel=1e-12)
    torch.testing.assert_close(torch.from_numpy(np.asarray(A.apply(B).to_dense())), (a @ b).to_matrix(), **close)
    torch.testing.assert_close(torch.from_numpy(np.asarray((A + B).to_dense())), (a + b).to_matrix(), **close)
    for site in range(3):
        canonical = A.canonicalize(site)
        ours = a.canonicalize(site=site)
        assert [tensor.size for tensor in canonical] == [core.numel() for core in ours.cores]
    entropies = a.entropies(base=2)
    for k, spectrum in enumerate(a.bond_spectra(), start=1):
        left = [name for site in range(k) for name in (f"k{site}", f"b{site}")]
        values: Any = A.contract().singular_values(left)
        expected = torch.from_numpy(values[: len(spectrum)].copy())
        torch.testing.assert_close(spectrum, expected, rtol=1e-10, atol=1e-10)
        shares = (values**2 / (values**2).sum())[values > 1e-12]
        assert entropies[k - 1] == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-10)


def test_torch_tensors_in_quimb_share_values_and_gradients():
    mpo = _random()
    leaves = MPO([core.requires_grad_() for core in mpo.cores], SHAPE)
    network = leaves.to_quimb("torch")
    norm: Any = network.norm()
    (gradient,) = torch.autograd.grad(norm, leaves.cores[1])
    whole = MPO(leaves.cores, MPOShape(24, 18, SHAPE.row_factors, SHAPE.col_factors))
    (expected,) = torch.autograd.grad(whole.norm(), leaves.cores[1])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    assert _same(MPO.from_quimb(network, 22, 17), mpo)
    assert _same(MPO.from_quimb(mpo.to(torch.bfloat16).to_quimb("torch"), 22, 17), mpo.to(torch.bfloat16))


def test_the_backend_of_tensorly_decides():
    mpo = _random()
    library: Any = tensorly
    with library.backend_context("pytorch", local_threadsafe=True):
        operator = mpo.to_tensorly()
        assert all(factor is core for factor, core in zip(operator.factors, mpo.cores, strict=True))
        assert _same(MPO.from_tensorly(operator, 22, 17), mpo)
    assert all(isinstance(factor, np.ndarray) for factor in mpo.to_tensorly().factors)


def test_copies_share_no_memory():
    mpo = _random()
    before = mpo.to_matrix().clone()
    network, operator = mpo.to_quimb(), mpo.to_tensorly()
    back = MPO.from_quimb(network)
    for array in (*(tensor.data for tensor in network.tensors), *operator.factors):
        array[...] = 0
    assert torch.equal(mpo.to_matrix(), before)
    assert back.to_matrix().any()


def test_networks_of_other_makers():
    """What quimb builds or transforms itself: other names, tags and axis orders, several bonds, a plain network."""
    mpo = _random()
    network = mpo.to_quimb()
    renamed = network.reindex({f"k{k}": f"up{k}" for k in range(3)}).reindex({f"b{k}": f"low{k}" for k in range(3)})
    renamed.view_as_(qtn.MatrixProductOperator, upper_ind_id="up{}", lower_ind_id="low{}", inplace=True)
    turned = network.copy()
    for tensor in turned.tensors:
        tensor.transpose_(*reversed(tensor.inds))
    plain = qtn.TensorNetwork(network.tensors)
    for other in (renamed, turned, plain):
        assert _same(MPO.from_quimb(other, 22, 17), mpo)
    a, b = (_random(MPOShape(6, 6, (2, 3), (2, 3)), 2, seed) for seed in (0, 1))
    lazy = qtn.TensorNetwork(
        [*a.to_quimb().reindex({"b0": "m0", "b1": "m1"}), *b.to_quimb().reindex({"k0": "m0", "k1": "m1"})]
    )
    for k in range(2):
        lazy.contract_tags_(f"I{k}", inplace=True)
    double = MPO.from_quimb(lazy)
    assert double.bonds == (4,)
    torch.testing.assert_close(double.to_matrix(), a.to_matrix() @ b.to_matrix(), rtol=1e-12, atol=1e-12)
    random: Any = qtn.MPO_rand(4, 3, phys_dim=2, dtype="float64", seed=0)
    torch.testing.assert_close(MPO.from_quimb(random).to_matrix(), torch.from_numpy(np.asarray(random.to_dense())))


def test_networks_that_are_no_open_chain():
    mpo = _random()
    network = mpo.to_quimb()
    squeezed = _random(MPOShape(6, 3, (2, 3), (1, 3))).to_quimb().squeeze()
    open_bond = network.copy()
    open_bond.tensors[2].new_ind("loose", size=1)
    periodic = qtn.MPO_rand(4, 2, phys_dim=2, cyclic=True, seed=0)
    extra = qtn.TensorNetwork([*network.tensors, qtn.Tensor(1.0)])
    merged = qtn.TensorNetwork([network.contract()])
    for broken in (squeezed, open_bond, periodic, extra, merged):
        with pytest.raises(ShapeError, match="from_quimb: "):
            MPO.from_quimb(broken)
    complex_network = network.astype("complex128")
    apart = network.copy()
    apart.exponent = 2.0
    for broken, reason in (
        (complex_network, r"torch\.complex128; expected a real"),
        (apart, "distribute_exponent"),
        (mpo, "found MPO"),
        ([1], "found list"),
    ):
        with pytest.raises(UsageError, match=reason):
            MPO.from_quimb(broken)


def test_what_is_no_tt_matrix():
    for given_, reason in (
        (_random().cores, "found tuple; expected a tensorly TTMatrix"),
        (TTMatrix([np.ones((1, 2, 2, 1), dtype="complex64")]), r"torch\.complex64"),
        (TTMatrix([np.ones((1, 2, 2, 1), dtype="int64")]), r"torch\.int64"),
    ):
        with pytest.raises(UsageError, match=reason):
            MPO.from_tensorly(given_)


def test_true_sizes_that_do_not_fit():
    for back in (
        lambda **size: MPO.from_quimb(_random().to_quimb(), **size),
        lambda **size: MPO.from_tensorly(_random().to_tensorly(), **size),
    ):
        assert back(rows=20).shape.rows == 20
        for size in ({"rows": 25}, {"cols": 0}, {"cols": 2.5}):
            with pytest.raises(ShapeError):
                back(**size)


def test_dtypes_that_numpy_lacks():
    mpo = _random(dtype=torch.bfloat16)
    for convert in (mpo.to_quimb, mpo.to_tensorly):
        with pytest.raises(UsageError, match=r"numpy cannot hold torch\.bfloat16 cores"):
            convert()
    with pytest.raises(UsageError, match="`backend` is 'jax'"):
        _random().to_quimb("jax")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("package", ["quimb", "tensorly"])
def test_the_error_names_the_missing_extra(package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    mpo = _random()
    to, back = getattr(mpo, f"to_{package}"), getattr(MPO, f"from_{package}")
    for compute in (to, lambda: back(object())):
        with pytest.raises(MissingPartError, match=rf'pip install "mpo-core\[{package}\]"'):
            compute()
