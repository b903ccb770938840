from __future__ import annotations

import importlib
import math
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mpo_core
from mpo_core import BondError, MPOShape, NonFiniteError, ShapeError, UsageError, decompose, error_bound
from mpo_core.budgets.budget import reachable_bonds
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.decomposition import decompose_batch, decompose_with_spectra, schmidt_values

GAUGES = ("mixed", "symmetric", "left", "right", "central", "identity")
METHODS = ("sweep", "slice", "sequential", "randomized")


def _random(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from(GAUGES),
    st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_full_bonds_are_lossless(rows, cols, n, gauge, scale):
    matrix = scale * _random(rows, cols)
    mpo = decompose(matrix, n=n, gauge=gauge)
    assert mpo.bonds == mpo.shape.full_bonds
    assert float((mpo.to_matrix() - matrix).norm()) <= 1e-12 * float(matrix.norm())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=5),
    st.lists(st.integers(1, 12), min_size=4, max_size=4),
    st.sampled_from(["sweep", "slice", "sequential"]),
    st.integers(0, 99),
)
def test_the_error_bound_is_never_violated(factors, bonds, method, seed):
    """Liu et al. 2021, Eq. 4, for any factors, balanced or not."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    matrix = _random(shape.rows, shape.cols, seed)
    kept = shape.clip_bonds(bonds[: shape.n - 1])
    spectra = decompose(matrix, shape).bond_spectra()
    error = float((decompose(matrix, shape, kept, method=method).to_matrix() - matrix).norm())
    assert error <= error_bound(spectra, kept) + 1e-12 * float(matrix.norm())


def test_spectra_are_the_singular_values_of_the_unfoldings():
    shape = MPOShape(24, 30, (2, 4, 3), (5, 2, 3))
    matrix = _random(24, 30)
    digits = matrix.reshape(2, 4, 3, 5, 2, 3).permute(0, 3, 1, 4, 2, 5)
    spectra = decompose(matrix, shape).bond_spectra()
    for spectrum, split in zip(spectra, (2, 4), strict=True):
        unfolding = digits.reshape(math.prod(digits.shape[:split]), -1)
        torch.testing.assert_close(spectrum, torch.linalg.svdvals(unfolding), rtol=1e-10, atol=1e-10)


def test_padding_rows_are_zero():
    shape = MPOShape(5, 7, (2, 3), (4, 2))
    mpo = decompose(_random(5, 7), shape, gauge="symmetric")
    whole = type(mpo)(mpo.cores, MPOShape(6, 8, (2, 3), (4, 2))).to_matrix()
    assert float(whole[5:].abs().max()) < 1e-14
    assert float(whole[:, 7:].abs().max()) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [((3, 4, 2), (2, 4, 3)), ((9, 1, 3), (8, 2, 2)), ((1, 2, 12), (2, 2, 6))])
def test_the_identity_gauge_is_exact_to_the_bit(dtype, factors):
    """Also where the full core is not the central one."""
    rows, cols = (math.prod(f) for f in factors)
    matrix = _random(rows, cols).to(dtype)
    mpo = decompose(matrix, MPOShape(rows, cols, *factors), gauge="identity")
    assert mpo.dtype == dtype
    assert mpo.bonds == mpo.shape.full_bonds
    assert torch.equal(mpo.to_matrix(), matrix)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float16, 3e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6), (torch.float64, 1e-14)],
)
def test_dtypes_are_kept(dtype, error):
    matrix = _random(48, 64).to(dtype)
    mpo = decompose(matrix, gauge="symmetric")
    assert {core.dtype for core in mpo.cores} == {dtype}
    assert float((mpo.to_matrix() - matrix).double().norm() / matrix.double().norm()) < error


@pytest.mark.parametrize("gauge", GAUGES)
def test_zero_matrix(gauge):
    mpo = decompose(torch.zeros(12, 10), n=3, gauge=gauge)
    assert all(core.isfinite().all() for core in mpo.cores)
    assert not mpo.to_matrix().any()


def test_strides_gradient_and_input_are_left_alone():
    base = _random(20, 12).requires_grad_()
    view = base.T[::2]
    before = base.detach().clone()
    for gauge in GAUGES:
        mpo = decompose(view, n=3, gauge=gauge)
        assert not any(core.requires_grad for core in mpo.cores)
        torch.testing.assert_close(mpo.to_matrix(), view.detach(), rtol=1e-12, atol=1e-12)
        for core in mpo.cores:
            assert core.is_contiguous()
            core.zero_()
    assert torch.equal(base.detach(), before)
    one = decompose(before, n=1, gauge="identity")
    one.cores[0].zero_()
    assert before.any()


def test_ill_conditioned_matrix():
    u, v = (torch.linalg.qr(_random(64, 64, seed))[0] for seed in (0, 1))
    matrix = u * torch.logspace(0, -14, 64, dtype=torch.float64) @ v
    mpo = decompose(matrix, gauge="symmetric")
    assert float((mpo.to_matrix() - matrix).norm() / matrix.norm()) < 1e-14
    values = decompose(matrix, MPOShape(64, 64, (8, 8), (8, 8))).bond_spectra()[0]
    assert values.isfinite().all()


def test_five_cores_with_full_outer_bonds_are_three():
    """The outermost cores are then square: pure gauge, at no gain."""
    matrix = _random(96, 96)
    five = MPOShape(96, 96, (2, 3, 4, 2, 2), (2, 2, 6, 2, 2))
    three = MPOShape(96, 96, (6, 4, 4), (4, 6, 4))
    assert five.full_bonds == (4, *three.full_bonds, 4)
    for kept in ((10, 7), (3, 12), (1, 1)):
        errors = [
            float((decompose(matrix, shape, bonds).to_matrix() - matrix).norm())
            for shape, bonds in ((five, (4, *kept, 4)), (three, kept))
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-9)


@pytest.mark.parametrize("gauge", ["symmetric", "left", "right", "central"])
@pytest.mark.parametrize("method", ["slice", "sequential"])
def test_papers_and_reference_method_are_those_of_truncate(gauge, method):
    matrix = _random(36, 36)
    mpo = decompose(matrix, n=4, bonds=5, gauge=gauge, method=method)
    expected = decompose(matrix, n=4).truncate(5, method)
    assert mpo.bonds == expected.bonds == (4, 5, 5)
    torch.testing.assert_close(mpo.to_matrix(), expected.to_matrix(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["accurate", "fast"])
@pytest.mark.parametrize("method", METHODS)
def test_gauges_of_a_method_are_one_matrix(method, precision, dtype):
    """And that of float64, up to rounding."""
    matrix = _random(36, 48).to(dtype)
    bonds = MPOShape.choose(36, 48).clip_bonds((6, 9, 9, 5))
    reference = decompose(matrix.double(), bonds=bonds, method=method).to_matrix()
    rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for gauge in ("mixed", "symmetric", "left", "right", "central"):
        mpo = decompose(matrix, bonds=bonds, method=method, precision=precision, gauge=gauge)
        assert mpo.bonds == bonds
        assert {core.dtype for core in mpo.cores} == {dtype}
        assert all(core.is_contiguous() for core in mpo.cores)
        assert float((mpo.to_matrix().double() - reference).norm() / reference.norm()) < rounding


@pytest.mark.parametrize("gauge", ["mixed", "symmetric", "left", "right", "central"])
@pytest.mark.parametrize("bonds", [None, 7])
def test_what_each_gauge_promises(gauge, bonds):
    """Orthonormal cores where they should be, Schmidt values where they should be."""
    shape = MPOShape(48, 60, (2, 4, 6), (3, 5, 4))
    mpo = decompose(_random(48, 60), shape, bonds, gauge=gauge)
    centre = {"left": 2, "right": 0, "central": 1, "mixed": home_site(shape)}.get(gauge)
    for k, core in enumerate(mpo.cores):
        left, right = core.flatten(0, 2), core.flatten(1).T
        if centre is not None and k != centre:
            columns = left if k < centre else right
            torch.testing.assert_close(columns.T @ columns, torch.eye(columns.shape[1]).double(), atol=1e-12, rtol=0)
    if gauge != "mixed":
        spectra = mpo.bond_spectra()
        part = mpo.cores[0].flatten(0, 2)
        gram = (part.T @ part).diagonal()
        power = {"symmetric": 1, "left": 0, "central": 0, "right": 2}[gauge]
        torch.testing.assert_close(gram, spectra[0] ** power, rtol=1e-10, atol=1e-12)


def test_parameter_counts_are_those_of_the_shape():
    for bonds in (None, 7, (2, 9, 9, 3)):
        mpo = decompose(_random(60, 48), bonds=bonds)
        assert mpo.n_params == mpo.shape.n_params(bonds)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.lists(st.integers(1, 20), min_size=4, max_size=4),
    st.sampled_from(["mixed", "symmetric", "right"]),
)
def test_bonds_are_those_asked_for_as_far_as_they_can_be_used(factors, bonds, gauge):
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    asked = bonds[: shape.n - 1]
    mpo = decompose(_random(shape.rows, shape.cols), shape, asked, gauge=gauge)
    assert mpo.bonds == reachable_bonds(shape, asked)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 37), (41, 1), (13, 17), (97, 5)])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_odd_sizes(rows, cols, n):
    """Primes, vectors and single numbers, padded where that helps; with bonds cut and full."""
    matrix = _random(rows, cols)
    for gauge in ("mixed", "symmetric"):
        torch.testing.assert_close(decompose(matrix, n=n, gauge=gauge).to_matrix(), matrix, rtol=1e-12, atol=1e-12)
        cut = decompose(matrix, n=n, bonds=2, gauge=gauge)
        best = decompose(matrix, n=n, bonds=2, method="sequential")
        errors = [float((mpo.to_matrix() - matrix).norm()) for mpo in (cut, best)]
        assert errors[0] <= 1.3 * errors[1] + 1e-12


@pytest.mark.parametrize("precision", ["accurate", "fast"])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e-15),
        (torch.float32, 1e15),
        (torch.float32, 1e-32),
        (torch.float32, 1e36),
        (torch.float64, 1e-150),
        (torch.float64, 1e150),
        (torch.float64, 1e-290),
        (torch.bfloat16, 1e30),
        (torch.float16, 1e-2),
    ],
)
def test_scales(dtype, scale, precision):
    """Squares would leave the range; a power of two does not change a digit."""
    plain = _random(36, 48).to(dtype)
    power = 2.0 ** round(math.log2(scale))
    matrix = plain * power
    for gauge in ("mixed", "symmetric", "left"):
        first = decompose(plain, bonds=6, gauge=gauge, precision=precision)
        second = decompose(matrix, bonds=6, gauge=gauge, precision=precision)
        assert all(core.isfinite().all() for core in second.cores)
        error = (second.to_matrix().double() / power - first.to_matrix().double()).norm() / plain.double().norm()
        assert float(error) < {4: 1e-6, 8: 1e-14}.get(dtype.itemsize, 3e-2)
    expected = schmidt_values(plain, precision=precision)
    for values, other in zip(schmidt_values(matrix, precision=precision), expected, strict=True):
        torch.testing.assert_close(values / power, other, rtol=1e-5 if dtype.itemsize < 8 else 1e-12, atol=0)


def test_a_core_that_does_not_fit_its_dtype_is_refused():
    matrix = torch.full((64, 64), 6e4, dtype=torch.float16)
    assert torch.equal(decompose(matrix).to_matrix(), matrix)
    with pytest.raises(NonFiniteError, match="float16"):
        decompose(matrix, bonds=3)
    assert decompose(matrix.float(), bonds=3).to_matrix().isfinite().all()


@pytest.mark.parametrize("precision", ["accurate", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_matrices(dtype, precision):
    """Identity, low rank, duplicated halves, one entry: spectra with ties and zeros."""
    low = _random(64, 3) @ _random(3, 64, seed=1)
    half = _random(32, 64)
    one = torch.zeros(64, 64, dtype=torch.float64)
    one[17, 5] = 3
    for matrix in (torch.eye(64, dtype=torch.float64), low, torch.cat([half, half]), one):
        given = matrix.to(dtype)
        for gauge in ("mixed", "symmetric", "left", "right", "central"):
            full, spectra = decompose_with_spectra(given, n=3, gauge=gauge, precision=precision)
            error = float((full.to_matrix().double() - given.double()).norm() / given.double().norm())
            assert error <= (1e-14 if dtype == torch.float64 else 2.5e-6 if precision == "fast" else 6e-7)
            assert all(core.isfinite().all() for core in full.cores)
            for bonds in (1, 4, 30):
                cut = decompose(given, n=3, bonds=bonds, gauge=gauge, precision=precision)
                error = float((cut.to_matrix().double() - given.double()).norm())
                assert error <= error_bound(spectra, cut.bonds) + 2e-6 * float(given.double().norm())


@pytest.mark.parametrize("precision", ["accurate", "fast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gauge", GAUGES)
def test_spectra_come_with_the_lossless_operator(gauge, dtype, precision):
    shape = MPOShape(35, 30, (2, 3, 6), (5, 3, 2))
    matrix = _random(35, 30).to(dtype)
    mpo, spectra = decompose_with_spectra(matrix, shape, gauge=gauge, precision=precision)
    assert mpo.bonds == shape.full_bonds
    exact = {torch.bfloat16: 2e-2, torch.float32: 6e-7, torch.float64: 1e-14}[dtype]
    fast = 2.5e-6 if (precision == "fast" and dtype == torch.float32) else exact
    assert float((mpo.to_matrix().double() - matrix.double()).norm() / matrix.double().norm()) <= fast
    if gauge == "identity":
        assert torch.equal(mpo.to_matrix(), matrix)
    padded = torch.nn.functional.pad(matrix.double(), (0, 0, 0, 1)).reshape(2, 3, 6, 5, 3, 2)
    digits = padded.permute(0, 3, 1, 4, 2, 5)
    for values, split in ((spectra, 2), (schmidt_values(matrix, shape, precision=precision), 4)):
        for k, cut in enumerate((2, 4)):
            truth = torch.linalg.svdvals(digits.reshape(math.prod(digits.shape[:cut]), -1))
            assert values[k].dtype == torch.float64
            assert len(values[k]) == shape.full_bonds[k]
            limit = 5e-6 if precision == "fast" and dtype != torch.float64 else 1e-12
            assert float((values[k] - truth).abs().max()) <= limit * float(truth[0])
            assert bool((values[k].diff() <= 0).all())
        assert split in (2, 4)


def test_no_bond_no_spectrum():
    mpo, spectra = decompose_with_spectra(_random(6, 4), n=1)
    assert spectra == schmidt_values(_random(6, 4), n=1) == []
    assert torch.equal(mpo.to_matrix(), _random(6, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bonds", [None, 5])
def test_a_batch_is_its_matrices(method, bonds):
    """Also a steep one among flat ones, and one that has to be scaled."""
    matrices = [_random(24, 30, seed).float() for seed in range(4)]
    matrices[1] = matrices[1] * torch.logspace(0, -9, 30)
    matrices[2] = matrices[2] * 1e20
    refine = 1 if method in ("sweep", "randomized") else 0
    for gauge in ("mixed", "symmetric", "left"):
        for batch in (matrices, torch.stack(matrices)):
            together = decompose_batch(batch, n=3, bonds=bonds, gauge=gauge, method=method, refine=refine)
            for mpo, matrix in zip(together, matrices, strict=True):
                alone = decompose(matrix, n=3, bonds=bonds, gauge=gauge, method=method, refine=refine)
                assert mpo.bonds == alone.bonds
                assert all(core.untyped_storage().nbytes() == core.nbytes for core in mpo.cores)
                difference = (mpo.to_matrix().double() - alone.to_matrix().double()).norm()
                assert float(difference) <= 3e-6 * float(matrix.double().norm())
    assert decompose_batch([]) == []


def test_a_batch_with_a_limit_gives_each_matrix_its_bonds():
    flat, steep = _random(32, 32), _random(32, 1) @ _random(1, 32, 1) + 1e-6 * _random(32, 32, 2)
    results = decompose_batch([flat, steep], n=3, tolerance=0.3)
    assert [mpo.bonds for mpo in results] == [decompose(m, n=3, tolerance=0.3).bonds for m in (flat, steep)]
    assert results[1].n_params < results[0].n_params


@pytest.mark.parametrize("tolerance", [0, 1e-6, 0.1, 0.5, 0.9, 2.0])
def test_tolerance_is_kept(tolerance):
    matrix = _random(48, 60) * torch.logspace(0, -3, 60, dtype=torch.float64)
    mpo = decompose(matrix, tolerance=tolerance)
    assert float((mpo.to_matrix() - matrix).norm()) <= tolerance * float(matrix.norm()) + 1e-13


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.5])
def test_budgets_are_used_and_not_exceeded(ratio):
    matrix = _random(190, 250).float()
    entries = matrix.numel()
    mpo = decompose(matrix, ratio=ratio)
    assert 0.98 * ratio * entries <= mpo.n_params <= ratio * entries
    assert decompose(matrix, max_params=int(ratio * entries)).bonds == mpo.bonds
    assert decompose(matrix, max_bytes=int(ratio * entries) * 4).bonds == mpo.bonds
    half = decompose(matrix.bfloat16(), max_bytes=int(ratio * entries) * 2)
    assert half.n_params <= ratio * entries
    errors = []
    for bond in range(1, 400):
        cut = mpo.shape.clip_bonds(bond)
        if mpo.shape.n_params(cut) > ratio * entries:
            uniform = decompose(matrix, mpo.shape, bond - 1)
            errors = [float((each.to_matrix() - matrix).norm()) for each in (mpo, uniform)]
            break
    assert errors[0] <= errors[1] * (1 + 1e-6)


def test_column_major_matrices_are_not_copied_into_shape():
    """The transpose of a matrix is decomposed like the matrix, with rows and columns exchanged."""
    matrix = _random(48, 60)
    shape = MPOShape.choose(48, 60)
    turned = MPOShape(60, 48, shape.col_factors, shape.row_factors)
    for bonds in (None, 6):
        for gauge in ("mixed", "symmetric", "left"):
            first = decompose(matrix, shape, bonds, gauge=gauge)
            second = decompose(matrix.T, turned, bonds, gauge=gauge)
            torch.testing.assert_close(first.to_matrix(), second.to_matrix().T, rtol=1e-12, atol=1e-12)
    assert torch.equal(decompose(matrix.T, turned).to_matrix(), matrix.T)


def test_bad_input_is_named():
    for value in (math.nan, math.inf, -math.inf):
        matrix = _random(6, 6)
        matrix[2, 3] = value
        with pytest.raises(NonFiniteError, match="`matrix` holds NaN or infinity in 1 of 36"):
            decompose(matrix)
    for size in ((6,), (2, 3, 4), (0, 4), (4, 0)):
        with pytest.raises(ShapeError, match="two dimensions"):
            decompose(torch.ones(size))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(UsageError, match="floating"):
            decompose(torch.ones(4, 4, dtype=dtype))
    with pytest.raises(ShapeError, match="`shape` is for 6x4"):
        decompose(torch.ones(4, 6), MPOShape.choose(6, 4, 2))
    with pytest.raises(BondError):
        decompose(torch.ones(4, 6), bonds=0)
    with pytest.raises(UsageError, match="gauge"):
        decompose(torch.ones(4, 6), gauge="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="method"):
        decompose(torch.ones(4, 6), method="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="lossless"):
        decompose(torch.ones(4, 6), bonds=1, gauge="identity")
    with pytest.raises(UsageError, match="torch tensor"):
        decompose([[1.0]])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bonds": 3, "ratio": 0.5}, "bonds and ratio"),
        ({"tolerance": 0.1, "max_params": 100}, "at most one limit"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"tolerance": True}, "tolerance is True"),
        ({"tolerance": "small"}, "tolerance is 'small'"),
        ({"ratio": 0}, "ratio is 0"),
        ({"ratio": 0.0}, "ratio is 0"),
        ({"ratio": -1.0}, "ratio is -1.0"),
        ({"ratio": math.inf}, "ratio is inf"),
        ({"ratio": True}, "ratio is True"),
        ({"ratio": 1e-9}, "limit"),
        ({"max_params": 0}, "max_params is 0"),
        ({"max_params": 2.5}, "max_params is 2.5"),
        ({"max_params": True}, "max_params is True"),
        ({"max_bytes": -8}, "max_bytes is -8"),
        ({"refine": -1}, "refine is -1"),
        ({"refine": True}, "refine is True"),
        ({"refine": 1.5}, "refine is 1.5"),
        ({"refine": 1, "method": "slice"}, "refine is 1 with method 'slice'"),
        ({"precision": "half"}, "precision is 'half'"),
    ],
)
def test_bad_options_are_named(options, message):
    for call in (decompose, lambda matrix, **rest: decompose_batch([matrix], **rest)):
        with pytest.raises(UsageError, match=message):
            call(torch.ones(6, 6), **options)


def test_bad_batches_are_named():
    with pytest.raises(ShapeError, match="matrix 1 has the shape"):
        decompose_batch([torch.ones(2, 3), torch.ones(3, 2)])
    with pytest.raises(UsageError, match=r"matrix 1 is torch.float64"):
        decompose_batch([torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64)])
    with pytest.raises(NonFiniteError, match="matrix 1: `matrix` holds NaN"):
        decompose_batch(torch.tensor([[[1.0]], [[math.nan]]]))
    with pytest.raises(ShapeError, match="decompose_with_spectra"):
        decompose_with_spectra(torch.ones(3))
    with pytest.raises(ShapeError, match="schmidt_values"):
        schmidt_values(torch.ones(3, 3), MPOShape(2, 2, (2,), (2,)))


def test_no_submodule_hides_a_public_name():
    """Importing a submodule sets it as an attribute of the package, over a function of the same name."""
    submodules = {module.name for module in pkgutil.iter_modules(mpo_core.__path__)}
    assert not submodules & set(mpo_core.__all__)
    for name in mpo_core.__all__:
        home = getattr(mpo_core, name)
        assert getattr(importlib.import_module(home.__module__), name) is home
    assert set(dir(mpo_core)) <= set(mpo_core.__all__)


def test_autocast_does_not_reach_the_arithmetic():
    matrix = _random(48, 60).float()
    expected = decompose(matrix, bonds=6, precision="fast", gauge="symmetric").to_matrix()
    exact = decompose_with_spectra(matrix, precision="fast")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cut = decompose(matrix, bonds=6, precision="fast", gauge="symmetric")
        mpo, spectra = decompose_with_spectra(matrix, precision="fast")
        values = schmidt_values(matrix, precision="fast")
    torch.testing.assert_close(cut.to_matrix(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mpo.to_matrix(), matrix, rtol=1e-5, atol=1e-5)
    for found, other, truth in zip(spectra, values, exact[1], strict=True):
        torch.testing.assert_close(found, truth)
        torch.testing.assert_close(other, truth, rtol=1e-5, atol=1e-5)
