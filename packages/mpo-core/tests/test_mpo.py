from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import quimb.tensor as qtn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import (
    MPO,
    BondError,
    MPOShape,
    NonFiniteError,
    ShapeError,
    UsageError,
    canonical_cores,
    decompose,
    entanglement_entropy,
    error_bound,
    truncation_errors,
)
from mpo_core.embeddings.lookup import contract_rows
from mpo_core.operators.contraction import contraction_tree

GAUGES = ("symmetric", "left", "right", "central")
SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))


def _random_mpo(shape: MPOShape = SHAPE, bonds: tuple[int, ...] = (5, 4), seed: int = 0) -> MPO:
    generator = torch.Generator().manual_seed(seed)
    ends = (1, *bonds, 1)
    sizes = zip(ends[:-1], shape.row_factors, shape.col_factors, ends[1:], strict=True)
    return MPO([torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes], shape)


def _by_definition(mpo: MPO) -> torch.Tensor:
    """Entry by entry, from the digits of row and column."""
    shape = mpo.shape
    matrix = torch.empty(shape.rows, shape.cols, dtype=torch.float64)

    def digits(number: int, factors: tuple[int, ...]) -> list[int]:
        found = []
        for factor in reversed(factors):
            number, digit = divmod(number, factor)
            found.append(digit)
        return found[::-1]

    for row in range(shape.rows):
        for col in range(shape.cols):
            product = torch.ones(1, 1, dtype=torch.float64)
            places = zip(digits(row, shape.row_factors), digits(col, shape.col_factors), strict=True)
            for core, (i, j) in zip(mpo.cores, places, strict=True):
                product = product @ core[:, i, j]
            matrix[row, col] = product.squeeze()
    return matrix


def _trained(mpo: MPO, amount: float = 0.05, seed: int = 3) -> MPO:
    """The cores after steps that know nothing of gauges."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(c.shape, generator=generator, dtype=c.dtype) for c in mpo.cores]
    return MPO([c + amount * c.abs().mean() * x for c, x in zip(mpo.cores, noise, strict=True)], mpo.shape)


def test_to_matrix_is_the_definition():
    mpo = _random_mpo()
    torch.testing.assert_close(mpo.to_matrix(), _by_definition(mpo), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_to_matrix_for_any_number_of_cores(n):
    shape = MPOShape.choose(24, 12, n)
    mpo = _random_mpo(shape, tuple(min(3, d) for d in shape.full_bonds))
    torch.testing.assert_close(mpo.to_matrix(), _by_definition(mpo), rtol=1e-12, atol=1e-12)


def test_rows_are_those_of_the_matrix():
    mpo = _random_mpo()
    ids = torch.tensor([0, 3, 4, 11, 21])
    rows = contract_rows(mpo.cores, mpo.shape, ids)
    torch.testing.assert_close(rows, mpo.to_matrix()[ids], rtol=1e-12, atol=1e-12)


def test_to_matrix_is_differentiable():
    shape = MPOShape(4, 3, (2, 2), (2, 2))
    mpo = _random_mpo(shape, (3,))
    cores = [core.requires_grad_() for core in mpo.cores]
    assert torch.autograd.gradcheck(lambda *c: MPO(c, shape).to_matrix(), cores)


def test_quimb_contracts_to_the_same_matrix_and_spectra():
    """quimb as an outside oracle: a network of named indices, and the singular values of its bipartitions."""
    mpo = decompose(torch.randn(24, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64), n=4)
    n = mpo.shape.n
    arrays: list[Any] = [core.numpy() for core in mpo.cores]
    tensors = [qtn.Tensor(a, (f"b{k}", f"i{k}", f"j{k}", f"b{k + 1}")) for k, a in enumerate(arrays)]
    network = qtn.TensorNetwork(tensors).squeeze()
    rows, cols = [f"i{k}" for k in range(n)], [f"j{k}" for k in range(n)]
    alive = [name for name in (*rows, *cols) if name in network.outer_inds()]
    whole: Any = network.contract(output_inds=alive)
    dense = torch.from_numpy(whole.data.copy())
    dense = dense.reshape(mpo.shape.padded_rows, mpo.shape.padded_cols)
    torch.testing.assert_close(dense[:24, :30], mpo.to_matrix(), rtol=1e-12, atol=1e-12)
    for k, spectrum in enumerate(mpo.bond_spectra(), start=1):
        left = [name for name in (*rows[:k], *cols[:k]) if name in alive]
        expected = torch.from_numpy(whole.singular_values(left).copy())
        torch.testing.assert_close(spectrum, expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.sampled_from(GAUGES),
    st.integers(0, 99),
)
def test_any_gauge_keeps_matrix_and_shapes(factors, bonds, gauge, seed):
    """Also with bonds wider than their rank can be."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    mpo = _random_mpo(shape, tuple(bonds[: shape.n - 1]), seed)
    turned = mpo.canonicalize(gauge)
    assert [c.shape for c in turned.cores] == [c.shape for c in mpo.cores]
    norm = float(mpo.to_matrix().norm())
    assert float((turned.to_matrix() - mpo.to_matrix()).norm()) <= 1e-12 * norm
    for spectrum, again, bond in zip(mpo.bond_spectra(), turned.bond_spectra(), mpo.bonds, strict=True):
        assert len(spectrum) == bond
        assert (spectrum[:-1] >= spectrum[1:]).all()
        assert (spectrum >= 0).all()
        assert float(spectrum.norm()) == pytest.approx(norm)
        torch.testing.assert_close(spectrum, again, rtol=1e-9, atol=1e-12 * norm)


def _left_part(cores, k):
    """All cores up to bond k, as a matrix (digits, d_k)."""
    part = cores[0].flatten(0, 2)
    for core in cores[1:k]:
        part = (part @ core.flatten(1)).reshape(-1, core.shape[-1])
    return part


def _right_part(cores, k):
    part = cores[-1].flatten(1)
    for core in reversed(cores[k:-1]):
        part = (core.flatten(0, 2) @ part).reshape(core.shape[0], -1)
    return part


def test_gauges_are_what_they_are_called():
    mpo = _trained(decompose(torch.randn(24, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64)))
    n, centre = mpo.shape.n, mpo.central
    forms = {gauge: canonical_cores(mpo.cores, gauge) for gauge in GAUGES}

    def close(found, expected):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    for k in range(1, n):
        spectrum = forms["symmetric"][1][k - 1]
        one = torch.eye(len(spectrum), dtype=torch.float64)
        # Symmetric: left part Q L^(1/2), right part L^(1/2) Q'; the Gram matrices are L.
        left, right = _left_part(forms["symmetric"][0], k), _right_part(forms["symmetric"][0], k)
        close(left.T @ left, torch.diag(spectrum))
        close(right @ right.T, torch.diag(spectrum))
        left, right = _left_part(forms["left"][0], k), _right_part(forms["left"][0], k)
        close(left.T @ left, one)
        close(right @ right.T, torch.diag(spectrum**2))
        left, right = _left_part(forms["right"][0], k), _right_part(forms["right"][0], k)
        close(left.T @ left, torch.diag(spectrum**2))
        close(right @ right.T, one)
        cores = forms["central"][0]
        part = _left_part(cores, k).T if k <= centre else _right_part(cores, k)
        close(part @ part.T, one)


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_zero_and_rank_deficient_matrices_give_no_nan(gauge, rank):
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn(24, rank, generator=generator, dtype=torch.float64)
    matrix = left @ torch.randn(rank, 30, generator=generator, dtype=torch.float64)
    mpo = decompose(matrix, n=3, gauge=gauge)
    assert mpo.bonds == mpo.shape.full_bonds
    assert all(core.isfinite().all() for core in mpo.cores)
    torch.testing.assert_close(mpo.to_matrix(), matrix, rtol=1e-12, atol=1e-12)


def test_symmetric_cores_do_not_depend_on_the_gauge_before():
    """Up to one sign per bond index; also where Schmidt values span 12 orders of magnitude."""
    u = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    matrix = u * torch.logspace(0, -12, 32, dtype=torch.float64)
    mpo = decompose(matrix, n=3, gauge="symmetric")
    turned = _insert_gauge(mpo).canonicalize()
    for a, b in zip(mpo.cores, turned.cores, strict=True):
        torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-3, atol=1e-7)


def _insert_gauge(mpo: MPO, seed: int = 5) -> MPO:
    """The same matrix with a random invertible matrix and its inverse put into every bond."""
    generator = torch.Generator().manual_seed(seed)
    cores = list(mpo.cores)
    for k, bond in enumerate(mpo.bonds):
        gauge = torch.eye(bond, dtype=cores[k].dtype)
        gauge = gauge + 0.3 * torch.randn(bond, bond, generator=generator, dtype=cores[k].dtype) / math.sqrt(bond)
        cores[k] = torch.tensordot(cores[k], gauge, dims=1)
        cores[k + 1] = torch.tensordot(torch.linalg.inv(gauge), cores[k + 1], dims=1)
    return MPO(cores, mpo.shape)


def _power_law(seed: int, size: int = 48) -> torch.Tensor:
    """A matrix with singular values 1, 1/2, 1/3 .."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(2))
    values = torch.arange(1, size + 1, dtype=torch.float64).reciprocal()
    return torch.linalg.qr(u)[0] * values @ torch.linalg.qr(v)[0]


def test_truncation_needs_the_gauge_after_training():
    """Cores trained towards another matrix are not canonical any more; `truncate` sees to it."""
    start, goal = _power_law(0), _power_law(1)
    mpo = decompose(start, n=3, gauge="symmetric")
    cores = [core.clone().requires_grad_() for core in mpo.cores]
    optimizer = torch.optim.Adam(cores, lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (MPO(cores, mpo.shape).to_matrix() - goal).square().sum()
        loss.backward()
        optimizer.step()
    trained = MPO([core.detach() for core in cores], mpo.shape)
    assert float((trained.to_matrix() - goal).norm()) < 0.1
    kept = (8, 8)
    ends = (1, *kept, 1)
    sliced = MPO([c[: ends[k], :, :, : ends[k + 1]] for k, c in enumerate(trained.cores)], mpo.shape)
    errors = [float((trained.to_matrix() - m.to_matrix()).norm()) for m in (trained.truncate(kept), sliced)]
    assert errors[0] < 0.85 * errors[1]
    # Before the training, slicing by hand is just what `truncate` does.
    sliced = MPO([c[: ends[k], :, :, : ends[k + 1]] for k, c in enumerate(mpo.cores)], mpo.shape)
    torch.testing.assert_close(sliced.to_matrix(), mpo.truncate(kept).to_matrix(), rtol=1e-9, atol=1e-9)


def test_truncated_results_in_every_gauge_are_the_same_matrix():
    mpo = _random_mpo(MPOShape.choose(24, 24, 4), (4, 9, 6))
    for method in ("slice", "sequential"):
        plain = mpo.truncate(3, method).to_matrix()
        for gauge in GAUGES:
            turned = mpo.truncate(3, method, gauge)
            torch.testing.assert_close(turned.to_matrix(), plain, rtol=1e-10, atol=1e-10)
    left = mpo.truncate(3, "slice", "left").cores[0].flatten(0, 2)
    torch.testing.assert_close(left.T @ left, torch.eye(3, dtype=torch.float64))


def test_sequential_truncation_is_better_on_average():
    gains = []
    for seed in range(20):
        matrix = torch.randn(36, 36, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mpo = decompose(matrix, n=4)
        errors = [float((matrix - mpo.truncate(6, m).to_matrix()).norm()) for m in ("sequential", "slice")]
        gains.append(errors[0] / errors[1])
    assert sum(gains) / len(gains) < 1


def test_truncation_leaves_the_operator_alone_and_never_grows_it():
    mpo = _random_mpo()
    before = [core.clone() for core in mpo.cores]
    same = mpo.truncate(99)
    assert same.bonds == mpo.bonds
    assert mpo.truncate(None).bonds == mpo.bonds
    torch.testing.assert_close(same.to_matrix(), mpo.to_matrix(), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(mpo.cores, before, strict=True))


def test_sequential_bonds_shrink_where_no_rank_is_left():
    mpo = decompose(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)), n=4)
    assert mpo.truncate((1, 16, 4), "slice").bonds == (1, 16, 4)
    assert mpo.truncate((1, 16, 4), "sequential").bonds == (1, 4, 4)


def test_properties():
    mpo = _random_mpo()
    assert (mpo.bonds, mpo.central, mpo.dtype, mpo.device.type) == ((5, 4), 1, torch.float64, "cpu")
    assert mpo.n_params == 2 * 3 * 5 + 5 * 4 * 3 * 4 + 4 * 3 * 2
    assert mpo.to(torch.float32).dtype == torch.float32
    assert mpo.canonicalize().to(torch.bfloat16).truncate(2).dtype == torch.bfloat16
    assert "22x17" in repr(mpo)


def test_contraction_order_is_the_cheapest():
    """Against all orders of six cores, counted one by one."""

    def all_costs(sizes, bonds):
        if len(sizes) == 1:
            return [0]
        costs = []
        for cut in range(1, len(sizes)):
            product = math.prod(sizes) * bonds[0] * bonds[cut] * bonds[-1]
            for a in all_costs(sizes[:cut], bonds[: cut + 1]):
                costs.extend(a + b + product for b in all_costs(sizes[cut:], bonds[cut:]))
        return costs

    for sizes, bonds in [
        ((12, 16, 32, 24, 16), (1, 12, 192, 384, 16, 1)),
        ((9, 2, 5, 7, 3, 4), (1, 3, 6, 2, 8, 4, 1)),
    ]:
        assert contraction_tree(sizes, bonds)[0] == min(all_costs(sizes, bonds))
    # The digest counts 2.8 GFLOP for the rebuild of a 3072 x 768 matrix; a multiplication is two operations.
    assert 2 * contraction_tree((12, 16, 32, 24, 16), (1, 12, 192, 384, 16, 1))[0] < 2.9e9


def test_cores_that_do_not_fit():
    mpo = _random_mpo()
    a, b, c = mpo.cores
    for cores, reason in [
        ([a, b], "2 cores"),
        ([a, c, b], "core 1"),
        ([a, b[:4], c], "core 1"),
        ([a, b, c[..., None]], "core 2"),
        ([a, b, c.float()], "one dtype"),
        ([torch.cat([a, a]), b, c], "core 0"),
        ([a[..., :0], b[:0], c], "core 0"),
    ]:
        with pytest.raises(ShapeError, match=reason):
            MPO(cores, SHAPE)


def test_unknown_names_and_broken_numbers():
    mpo = _random_mpo()
    with pytest.raises(UsageError, match="gauge"):
        mpo.canonicalize("best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="gauge"):
        mpo.truncate(2, gauge="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="method"):
        mpo.truncate(2, "best")  # pyright: ignore[reportArgumentType]
    broken = [core.clone() for core in mpo.cores]
    broken[1][0, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="core 1 of 3"):
        MPO(broken, SHAPE).bond_spectra()
    huge = decompose(torch.full((8, 8), 6e4, dtype=torch.float16), n=2, gauge="identity")
    with pytest.raises(NonFiniteError, match="float16"):
        huge.canonicalize("left")


def test_random_operators():
    """Entries of mean 0 and variance 1, whatever the bonds; the same generator gives the same numbers."""
    shape = MPOShape(60, 62, (4, 4, 4), (4, 4, 4))
    for bonds in (None, 1, (2, 7)):
        mpo = MPO.random(shape, bonds, generator=torch.Generator().manual_seed(0))
        again = MPO.random(shape, bonds, generator=torch.Generator().manual_seed(0))
        assert mpo.bonds == shape.clip_bonds(bonds)
        assert mpo.dtype == torch.get_default_dtype()
        assert torch.equal(mpo.to_matrix(), again.to_matrix())
    squares = [
        float(MPO.random(shape, 6, generator=torch.Generator().manual_seed(k)).norm()) ** 2 / 3720 for k in range(100)
    ]
    assert sum(squares) / 100 == pytest.approx(1.0, abs=0.15)
    assert MPO.random(shape, 2, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert MPO.random(shape, 2, device="meta").device.type == "meta"


def test_identity_and_zero():
    for mpo in (MPO.identity((2, 3, 4)), MPO.identity([5], 4), MPO.identity((2, 2), 3, dtype=torch.float64)):
        assert torch.equal(mpo.to_matrix(), torch.eye(mpo.shape.rows, dtype=mpo.dtype))
        assert set(mpo.bonds) <= {1}
        assert float(mpo.trace()) == mpo.shape.rows
    zero = MPO.zeros(SHAPE, 3, dtype=torch.float64)
    assert zero.bonds == (3, 3)
    assert MPO.zeros(SHAPE).bonds == (1, 1)
    assert torch.equal(zero.to_matrix(), torch.zeros(22, 17, dtype=torch.float64))
    mpo = _random_mpo()
    for same in (mpo @ MPO.identity(SHAPE.col_factors, 17, dtype=torch.float64), mpo + zero):
        torch.testing.assert_close(same.to_matrix(), mpo.to_matrix(), rtol=1e-12, atol=1e-12)


def test_from_matrix_is_decompose():
    matrix = torch.randn(22, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mpo, expected in (
        (MPO.from_matrix(matrix, SHAPE, 3), decompose(matrix, SHAPE, 3)),
        (MPO.from_matrix(matrix, n=3, gauge="left"), decompose(matrix, n=3, gauge="left")),
    ):
        assert mpo.shape == expected.shape
        assert all(torch.equal(a, b) for a, b in zip(mpo.cores, expected.cores, strict=True))


@pytest.mark.parametrize("make", [MPO.random, MPO.zeros, lambda shape, **kw: MPO.identity(shape.row_factors, **kw)])
def test_constructors_refuse(make):
    for dtype in (torch.int64, torch.complex64, torch.bool):
        with pytest.raises(UsageError, match="`dtype` is torch"):
            make(SHAPE, dtype=dtype)
    with pytest.raises(BondError, match="bonds 0"):
        MPO.random(SHAPE, 0)
    with pytest.raises(BondError, match="2 of them"):
        MPO.zeros(SHAPE, (2, 2, 2))
    cases: list[tuple[Any, int | None]] = [((2, 0), None), ((), None), ((2, 3), 7), ((2, 3), 0), ((2, 1.5), None)]
    for factors, rows in cases:
        with pytest.raises(ShapeError):
            MPO.identity(factors, rows)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool], ids=str)
def test_cores_of_no_real_floating_dtype(dtype):
    mpo = _random_mpo()
    with pytest.raises(UsageError, match=f"the cores are {dtype}; expected a real floating dtype"):
        mpo.to(dtype)


def test_entropies_and_truncation_errors_are_those_of_the_spectra():
    mpo = _random_mpo()
    spectra = mpo.bond_spectra()
    assert mpo.entropies() == tuple(entanglement_entropy(spectrum) for spectrum in spectra)
    released = mpo.entropies("released", base=10)
    expected = [entanglement_entropy(spectrum, "released") / math.log(10) for spectrum in spectra]
    assert released == pytest.approx(expected)
    assert mpo.truncation_errors(2) == truncation_errors(spectra, 2)
    assert mpo.error_bound((2, 1)) == error_bound(spectra, (2, 1))
    assert MPO.identity((2, 2, 2)).entropies(base=2) == (0, 0)
    bell = decompose(torch.eye(4, dtype=torch.float64).flip(0)[[1, 0, 3, 2]], MPOShape(4, 4, (2, 2), (2, 2)))
    assert bell.entropies(base=2) == pytest.approx((0.0,), abs=1e-12)
    swap = torch.eye(4, dtype=torch.float64)[[0, 2, 1, 3]]
    assert decompose(swap, MPOShape(4, 4, (2, 2), (2, 2))).entropies(base=2) == pytest.approx((2.0,))
    assert MPO.zeros(SHAPE, 2).entropies() == (0, 0)
    assert MPO.identity((4,)).entropies() == ()
    bases: list[Any] = [1, 0.5, -2, True, "e"]
    for base in bases:
        with pytest.raises(UsageError, match="entropies: `base` is"):
            mpo.entropies(base=base)
    for base in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="`base` is"):
            mpo.entropies(base=base)
    with pytest.raises(UsageError, match="normalization"):
        mpo.entropies("best")  # pyright: ignore[reportArgumentType]


def test_the_canonical_form_at_a_site():
    mpo = _random_mpo()
    for site in range(3):
        turned = mpo.canonicalize(site=site)
        torch.testing.assert_close(turned.to_matrix(), mpo.to_matrix(), rtol=1e-12, atol=1e-12)
        for k, core in enumerate(turned.cores):
            side = core.flatten(0, 2).T if k < site else core.flatten(1)
            if k != site:
                torch.testing.assert_close(side @ side.T, torch.eye(len(side), dtype=torch.float64))
        again = turned.canonicalize(site=site)
        assert again.bonds == turned.bonds
    sites: list[Any] = [-1, 3, True, 1.0, "1"]
    for site in sites:
        with pytest.raises(UsageError, match=r"canonicalize: `site` is .*; expected an integer from 0 to 2"):
            mpo.canonicalize(site=site)
    with pytest.raises(UsageError, match="give one of them"):
        mpo.canonicalize("left", site=1)
    with pytest.raises(UsageError, match="gauge"):
        mpo.canonicalize("")  # pyright: ignore[reportArgumentType]


def test_a_deep_copy_is_independent():
    mpo = _random_mpo()
    twin = copy.deepcopy(mpo)
    assert twin.shape == mpo.shape
    assert torch.equal(twin.to_matrix(), mpo.to_matrix())
    twin.cores[0].zero_()
    assert mpo.to_matrix().any()


def test_spectra_are_there_where_half_precision_cannot_hold_the_canonical_cores():
    mpo = MPO(
        [torch.full((1, 2, 2, 2), 900.0).half(), torch.full((2, 2, 2, 1), 900.0).half()], MPOShape(4, 4, (2, 2), (2, 2))
    )
    with pytest.raises(NonFiniteError, match=r"torch.float16 cannot hold"):
        canonical_cores(mpo.cores, "left")
    (found,) = mpo.bond_spectra()
    torch.testing.assert_close(found, torch.tensor([2 * 900.0**2 * 4, 0.0], dtype=torch.float64))
