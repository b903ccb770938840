"""Factor shapes of a matrix product operator: which integers the rows and columns are split into.

Core ``k`` of an operator has the shape ``(d_{k-1}, i_k, j_k, d_k)``; this module knows ``i``, ``j`` and the
limits of ``d``, and never sees a tensor.
"""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from operator import index
from typing import Any

from mpo_core.errors import BondError, ShapeError

_GOOD_BALANCE = 1.05
"""A factorisation whose sum is within 5 % of the ideal is taken without padding."""


def factorize(size: int, n: int) -> tuple[int, ...]:
    """Split a size into `n` integers whose product it is, as equal as can be, largest in the centre.

    "As equal as can be" means the least sum. From the centre, index ``n // 2``, the factors fall to both
    ends, the right neighbour taking the larger one.

    Args:
        size: a positive integer.
        n: number of factors; some are 1 where the size has too few prime factors.

    Raises:
        ShapeError: `size` or `n` is no positive integer.

    Example:
        >>> factorize(768, 5), factorize(3072, 5), factorize(7, 3)
        ((3, 4, 4, 4, 4), (4, 4, 8, 6, 4), (1, 7, 1))
    """
    size, n = _positive(size, "factorize: size"), _positive(n, "factorize: n")
    ordered = [0] * n
    centre = n // 2
    places = sorted(range(n), key=lambda k: (abs(k - centre), -k))
    for place, factor in zip(places, sorted(_balanced(size, n, 1), reverse=True), strict=True):
        ordered[place] = factor
    return tuple(ordered)


@lru_cache(maxsize=4096, typed=True)  # typed, or True would be answered as 1
def padded_size(size: int, n: int, max_padding: float = 0.05) -> int:
    """The size to pad to, so that it splits into `n` balanced factors.

    Balance is the sum of the factors over that of `n` equal real ones (1 is ideal). A size with a balance of
    at most 1.05 stays as it is. Otherwise the size of the best balance within the padding limit is taken,
    compared in steps of one percent, the smallest of equals: fewer padded rows weigh more than a fraction of
    a percent.

    Args:
        size: a positive integer, for instance a vocabulary of 30522 (30618 = 6 * 9 * 9 * 9 * 7).
        n: number of factors.
        max_padding: largest share of added rows.

    Raises:
        ShapeError: `size` or `n` is no positive integer, or `max_padding` is no finite number of
            at least 0.
    """
    size, n = _positive(size, "padded_size: size"), _positive(n, "padded_size: n")
    if isinstance(max_padding, bool) or not isinstance(max_padding, Real) or not 0 <= max_padding < math.inf:
        raise ShapeError(f"padded_size: max_padding is {max_padding!r}; expected a finite number of at least 0.")
    if _balance(size, n) <= _GOOD_BALANCE:
        return size
    candidates = range(size, math.floor(size * (1 + max_padding)) + 1)
    # A prime above twice the n-th root forces a factor of that size, which limits the balance; nearly all
    # candidates have one, and are looked at only if no other candidate is better than that limit.
    largest = math.floor(2 * candidates[-1] ** (1 / n))
    forced = round((2 + (n - 1) * 2 ** (-1 / (n - 1))) / n, 2)  # n > 1: one factor is always in balance
    smooth = [candidate for candidate in candidates if _is_smooth(candidate, largest)]
    best = min(((round(_balance(candidate, n), 2), candidate) for candidate in smooth), default=None)
    if best is None or best[0] >= forced:
        best = min((round(_balance(candidate, n), 2), candidate) for candidate in candidates)
    return best[1]


@dataclass(frozen=True)
class MPOShape:
    """The factor shape of a matrix of ``rows x cols``; products above the true sizes mean zero padding.

    Attributes:
        rows: true number of rows I (``out_features``, ``num_embeddings``).
        cols: true number of columns J (``in_features``, ``embedding_dim``).
        row_factors: ``i_1 .. i_n``, the most significant digit of the row index first; product >= rows.
        col_factors: ``j_1 .. j_n``, likewise.

    Raises:
        ShapeError: Sizes or factors are no positive integers, the two lists differ in length, or a product is
            smaller than the size it stands for.
    """

    rows: int
    cols: int
    row_factors: tuple[int, ...]
    col_factors: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            object.__setattr__(self, name, _positive(getattr(self, name), f"MPOShape: {name}"))
        for name in ("row_factors", "col_factors"):
            factors = tuple(_positive(f, f"MPOShape: an entry of {name}") for f in getattr(self, name))
            object.__setattr__(self, name, factors)
        if len(self.row_factors) != len(self.col_factors) or not self.row_factors:
            raise ShapeError(
                f"MPOShape: {len(self.row_factors)} row factors and {len(self.col_factors)} column factors;"
                " expected the same number of both, at least one."
            )
        for name, size, padded in (
            ("row", self.rows, self.padded_rows),
            ("column", self.cols, self.padded_cols),
        ):
            if padded < size:
                raise ShapeError(
                    f"MPOShape: the {name} factors multiply to {padded}, but the matrix has {size} {name}s;"
                    " expected a product of at least that."
                )

    @classmethod
    def choose(cls, rows: int, cols: int, n: int = 5, pad: bool = True) -> MPOShape:
        """Factors for a matrix of any size: balanced, largest in the centre.

        The column factors mirror the row factors for odd `n`, which keeps the products of rows and columns at
        both ends equal, as the paper's appendix does (Liu et al. 2021, Table 2): 768 x 768 becomes
        (3,4,4,4,4) x (4,4,4,4,3).

        Args:
            rows: number of rows.
            cols: number of columns.
            n: number of cores.
            pad: allow up to 5 % padding per side where the size splits badly (`padded_size`).

        Raises:
            ShapeError: a size or `n` is no positive integer.
        """
        row_factors = factorize(padded_size(rows, n) if pad else rows, n)
        col_factors = factorize(padded_size(cols, n) if pad else cols, n)
        return cls(rows, cols, row_factors, col_factors[::-1] if n % 2 else col_factors)

    @property
    def n(self) -> int:
        """Number of cores."""
        return len(self.row_factors)

    @property
    def central(self) -> int:
        """Index of the central core, ``n // 2``; all others are auxiliary."""
        return self.n // 2

    @property
    def padded_rows(self) -> int:
        """Product of the row factors."""
        return math.prod(self.row_factors)

    @property
    def padded_cols(self) -> int:
        """Product of the column factors."""
        return math.prod(self.col_factors)

    @property
    def full_bonds(self) -> tuple[int, ...]:
        """The ``n - 1`` bonds of a lossless operator (Liu et al. 2021, Eq. 2).

        d_k = min(prod_{l<=k} i_l j_l, prod_{l>k} i_l j_l).
        """
        sizes = [i * j for i, j in zip(self.row_factors, self.col_factors, strict=True)]
        return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, self.n))

    def clip_bonds(self, bonds: int | Sequence[int] | None = None) -> tuple[int, ...]:
        """The bonds meant by a cap: each at most what is asked for and at most the full bond.

        Args:
            bonds: one cap for all, one for each of the ``n - 1`` bonds, or ``None`` for full bonds.

        Raises:
            BondError: a cap is no positive integer, or there are not ``n - 1`` of them.
        """
        full = self.full_bonds
        if bonds is None:
            return full
        caps = list(bonds) if isinstance(bonds, Sequence) else [bonds] * len(full)
        if isinstance(bonds, str) or len(caps) != len(full):
            raise BondError(
                f"bonds {bonds!r}: expected one integer, or {len(full)} of them for {self.n} cores, found {len(caps)}."
            )
        # A single cap is checked even where no bond is left to cap (n = 1).
        for cap in caps or ([] if isinstance(bonds, Sequence) else [bonds]):
            if not _is_positive(cap):
                raise BondError(f"bonds {bonds!r}: found {cap!r}; expected positive integers.")
        return tuple(min(index(cap), limit) for cap, limit in zip(caps, full, strict=True))

    def core_shapes(self, bonds: int | Sequence[int] | None = None) -> tuple[tuple[int, int, int, int], ...]:
        """The shape ``(d_{k-1}, i_k, j_k, d_k)`` of every core, after `clip_bonds`.

        Raises:
            BondError: as `clip_bonds`.
        """
        ends = (1, *self.clip_bonds(bonds), 1)
        return tuple(zip(ends[:-1], self.row_factors, self.col_factors, ends[1:], strict=True))

    def n_params(self, bonds: int | Sequence[int] | None = None) -> int:
        """Number of entries of all cores, after `clip_bonds`: sum_k d_{k-1} i_k j_k d_k.

        Raises:
            BondError: as `clip_bonds`.
        """
        return sum(math.prod(shape) for shape in self.core_shapes(bonds))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, which `from_dict` reads."""
        return {
            "rows": self.rows,
            "cols": self.cols,
            "row_factors": list(self.row_factors),
            "col_factors": list(self.col_factors),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MPOShape:
        """Read what `to_dict` wrote.

        Raises:
            ShapeError: a key is missing or unknown, or the values make no shape.
        """
        keys = {"rows", "cols", "row_factors", "col_factors"}
        if not isinstance(data, Mapping) or set(data) != keys:
            raise ShapeError(f"MPOShape.from_dict: found {data!r}; expected the keys {', '.join(sorted(keys))}.")
        for name in ("row_factors", "col_factors"):
            if not isinstance(data[name], list | tuple):
                raise ShapeError(f"MPOShape.from_dict: {name} is {data[name]!r}; expected a list of integers.")
        return cls(data["rows"], data["cols"], tuple(data["row_factors"]), tuple(data["col_factors"]))


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of any library; a bool or a tensor of one is not."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return False
    try:
        index(value)
    except (TypeError, ValueError):  # a tensor has `__index__`, whatever it holds
        return False
    return True


def _is_positive(value: Any) -> bool:
    return is_whole(value) and index(value) > 0


def _positive(value: Any, what: str) -> int:
    if not _is_positive(value):
        raise ShapeError(f"{what} is {value!r}; expected a positive integer.")
    return index(value)


def _balance(size: int, n: int) -> float:
    return sum(_balanced(size, n, 1)) / (n * size ** (1 / n))


def _is_smooth(value: int, largest: int) -> bool:
    """Whether no prime factor is above `largest`."""
    for divisor in range(2, largest + 1):
        while value % divisor == 0:
            value //= divisor
    return value == 1


@lru_cache(maxsize=65536)
def _balanced(size: int, n: int, least: int) -> tuple[int, ...]:
    """The `n` ascending factors of at least `least` with the smallest sum; empty if there are none."""
    if n == 1:
        return (size,) if size >= least else ()
    best: tuple[int, ...] = ()
    smallest = least
    # The first factor is the smallest, so it is at most the n-th root. Going up, a tie prefers the later,
    # more even solution.
    while smallest**n <= size:
        if size % smallest == 0:
            rest = _balanced(size // smallest, n - 1, smallest)
            if rest and (not best or smallest + sum(rest) <= sum(best)):
                best = (smallest, *rest)
        smallest += 1
    return best
