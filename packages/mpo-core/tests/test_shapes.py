from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import BondError, MPOError, MPOShape, ShapeError, factorize, padded_size

sizes, counts = st.integers(1, 40000), st.integers(1, 9)


@given(sizes, counts)
def test_factorize_is_exact_and_falls_from_the_centre(size, n):
    factors = factorize(size, n)
    centre = n // 2
    assert len(factors) == n
    assert math.prod(factors) == size
    assert list(factors[: centre + 1]) == sorted(factors[: centre + 1])
    assert list(factors[centre:]) == sorted(factors[centre:], reverse=True)


@given(st.integers(1, 3000))
def test_two_factors_are_the_closest_pair(size):
    closest = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    assert factorize(size, 2) == (closest, size // closest)


@given(st.integers(1, 600))
def test_three_factors_have_the_least_sum(size):
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    least = min(a + b + size // (a * b) for a in divisors for b in divisors if size % (a * b) == 0)
    assert sum(factorize(size, 3)) == least


@pytest.mark.parametrize(
    ("size", "n", "factors"),
    [
        (1, 3, (1, 1, 1)),
        (2, 5, (1, 1, 2, 1, 1)),
        (768, 5, (3, 4, 4, 4, 4)),
        (3072, 5, (4, 4, 8, 6, 4)),
        (1024, 5, (4, 4, 4, 4, 4)),
        (768, 2, (24, 32)),
        (13, 4, (1, 1, 13, 1)),
    ],
)
def test_known_factors(size, n, factors):
    assert factorize(size, n) == factors


@given(sizes, counts, st.floats(0, 0.2))
def test_padding_stays_within_its_limit(size, n, share):
    assert size <= padded_size(size, n, share) <= max(size, size * (1 + share))


def _imbalance(size, n):
    return sum(factorize(size, n)) / (n * size ** (1 / n))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_padding_finds_the_best_balance_in_reach(n):
    for size in [*range(1, 130), 997, 1523]:
        found = padded_size(size, n)
        if _imbalance(size, n) <= 1.05:
            assert found == size
        else:
            reach = range(size, math.floor(size * 1.05) + 1)
            assert found == min(reach, key=lambda c: (round(_imbalance(c, n), 2), c))


def test_padding_of_a_vocabulary():
    assert padded_size(30522, 5) == 30618
    assert factorize(30618, 5) == (6, 9, 9, 9, 7)
    assert padded_size(30522, 5, 0.0) == 30522
    assert padded_size(768, 5) == 768
    assert padded_size(101, 3) > 101


# Factor shapes, full bonds and core sizes of the digest (from the papers and their code).
TABLE = [
    ((768, 768), (3, 4, 4, 4, 4), (4, 4, 4, 4, 3), (12, 192, 192, 12), (144, 36864, 589824, 36864, 144)),
    ((768, 768), (4, 4, 4, 4, 3), (4, 4, 4, 4, 3), (16, 256, 144, 9), (256, 65536, 589824, 20736, 81)),
    ((3072, 768), (4, 4, 8, 6, 4), (3, 4, 4, 4, 4), (12, 192, 384, 16), (144, 36864, 2359296, 147456, 256)),
    ((3072, 768), (4, 4, 8, 6, 4), (4, 4, 4, 4, 3), (16, 256, 288, 12), (256, 65536, 2359296, 82944, 144)),
    ((1024, 1024), (4,) * 5, (4,) * 5, (16, 256, 256, 16), (256, 65536, 1048576, 65536, 256)),
    ((4096, 1024), (4, 4, 8, 8, 4), (4,) * 5, (16, 256, 512, 16), (256, 65536, 4194304, 262144, 256)),
    (
        (30000, 128),
        (5, 10, 10, 10, 6),
        (2, 2, 4, 4, 2),
        (10, 200, 480, 12),
        (100, 40000, 3840000, 230400, 144),
    ),
]


@pytest.mark.parametrize(("size", "rows", "cols", "bonds", "cores"), TABLE)
def test_full_bonds_and_core_sizes_of_the_papers(size, rows, cols, bonds, cores):
    shape = MPOShape(size[0], size[1], rows, cols)
    assert shape.full_bonds == bonds
    assert tuple(math.prod(core) for core in shape.core_shapes()) == cores
    assert shape.n_params() == sum(cores)


def test_share_of_the_central_core():
    assert round(100 * 589824 / MPOShape.choose(768, 768).n_params(), 2) == 88.85
    ffn = MPOShape(3072, 768, (4, 4, 8, 6, 4), (3, 4, 4, 4, 4))
    assert round(100 * 2359296 / ffn.n_params(), 2) == 92.74
    assert round(ffn.n_params() / (3072 * 768), 3) == 1.078


def test_choose_mirrors_the_columns():
    shape = MPOShape.choose(768, 768)
    assert (shape.row_factors, shape.col_factors) == ((3, 4, 4, 4, 4), (4, 4, 4, 4, 3))
    assert MPOShape.choose(768, 768, n=4).col_factors == MPOShape.choose(768, 768, n=4).row_factors
    padded = MPOShape.choose(30522, 384)
    assert (padded.padded_rows, padded.rows, padded.padded_cols) == (30618, 30522, 384)
    assert MPOShape.choose(101, 7, pad=False).padded_rows == 101


@settings(deadline=None)
@given(sizes, sizes, counts)
def test_choose_fits_any_size(rows, cols, n):
    shape = MPOShape.choose(rows, cols, n)
    assert shape.n == n
    assert rows <= shape.padded_rows <= 1.05 * rows
    assert cols <= shape.padded_cols <= 1.05 * cols
    assert len(shape.full_bonds) == n - 1


def test_one_core():
    shape = MPOShape.choose(6, 4, n=1)
    assert shape.full_bonds == shape.clip_bonds(3) == shape.clip_bonds([]) == ()
    assert shape.core_shapes() == ((1, 6, 4, 1),)
    assert (shape.central, shape.n_params()) == (0, 24)


def test_clip_bonds():
    shape = MPOShape.choose(768, 768)
    assert shape.clip_bonds(None) == (12, 192, 192, 12)
    assert shape.clip_bonds(100) == (12, 100, 100, 12)
    assert shape.clip_bonds([1, 500, 7, 12]) == (1, 192, 7, 12)
    assert shape.n_params(1) == 12 + 16 + 16 + 16 + 12
    assert shape.core_shapes(100)[2] == (100, 4, 4, 100)


@pytest.mark.parametrize("bonds", [0, -1, 2.0, True, "12", [3], [1, 2, 3], [1, 2, 3, 0], [1, 2, 3, "4"], "1234"])
def test_bonds_that_are_none(bonds):
    with pytest.raises(BondError, match="expected"):
        MPOShape.choose(768, 768).clip_bonds(bonds)


def test_a_single_bad_cap_is_refused_without_bonds_to_cap():
    with pytest.raises(BondError):
        MPOShape.choose(6, 4, n=1).clip_bonds(0)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 4, (1,), (4,)),
        (4, 4, (2, 2), (4,)),
        (4, 4, (), ()),
        (5, 4, (2, 2), (2, 2)),
        (4, 5, (2, 2), (2, 2)),
        (4, 4, (2, -2), (2, 2)),
        (4, 4, (2, 2.0), (2, 2)),
        (4.0, 4, (2, 2), (2, 2)),
        (True, 4, (2, 2), (2, 2)),
    ],
)
def test_shapes_that_are_none(arguments):
    with pytest.raises(ShapeError, match="expected"):
        MPOShape(*arguments)


@pytest.mark.parametrize(("size", "n"), [(0, 2), (4, 0), (-4, 1), (2.5, 1), (True, 1)])
def test_sizes_that_are_none(size, n):
    with pytest.raises(ShapeError, match="positive integer"):
        factorize(size, n)
    with pytest.raises(ShapeError, match="positive integer"):
        padded_size(size, n)


def test_negative_padding():
    with pytest.raises(ShapeError, match="max_padding"):
        padded_size(97, 3, -0.1)


def test_dict_round_trip():
    shape = MPOShape.choose(101, 24, n=3)
    assert MPOShape.from_dict(shape.to_dict()) == shape
    assert MPOShape(4, 4, [2, 2], [2, 2]) == MPOShape(4, 4, (2, 2), (2, 2))  # pyright: ignore[reportArgumentType]
    for broken in ({}, {**shape.to_dict(), "n": 3}, {**shape.to_dict(), "row_factors": 101}, [1]):
        with pytest.raises(MPOError):
            MPOShape.from_dict(broken)  # pyright: ignore[reportArgumentType]
