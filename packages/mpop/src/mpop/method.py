"""MPOP's choices as pure functions: which factors a matrix gets, and how far each bond is cut.

Liu et al., ACL 2021. Algorithm 2 (dimension squeezing) builds on `truncation_errors` of mpo-core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from mpo_core import MPOShape, UsageError

Value = TypeVar("Value")

PAPER_FACTORS: dict[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]] = {
    (768, 768): ((3, 4, 4, 4, 4), (4, 4, 4, 4, 3)),
    (3072, 768): ((4, 4, 8, 6, 4), (3, 4, 4, 4, 4)),
    (768, 3072): ((3, 4, 4, 4, 4), (4, 4, 8, 6, 4)),
    (30000, 128): ((5, 10, 10, 10, 6), (2, 2, 4, 4, 2)),
    (30522, 768): ((6, 8, 10, 8, 8), (4, 4, 4, 4, 3)),
}
"""(rows, columns) -> (row factors, column factors) at n = 5, from the paper's appendix (Table 2).

The appendix prints ALBERT's 30000 x 128 factors in the line of BERT's embedding, a misprint (docs/errata.md); the
30522 x 768 factors (padded to 30720 rows) are those of the authors' later code.
"""


def paper_shape(rows: int, cols: int, n: int) -> MPOShape:
    """The factors that the paper prints for this size, else balanced ones.

    Args:
        rows: output features, or entries of an embedding table.
        cols: input features, or the embedding size.
        n: number of core tensors; the paper's table is for 5.
    """
    if n == 5 and (rows, cols) in PAPER_FACTORS:
        return MPOShape(rows, cols, *PAPER_FACTORS[rows, cols])
    return MPOShape.choose(rows, cols, n=n)


def low_rank_shape(rows: int, cols: int, n: int) -> MPOShape:
    """The factors under which two cores are those of a singular value decomposition: the one bond is the rank.

    Args:
        rows: as in `paper_shape`.
        cols: likewise.
        n: not used; there are two cores.
    """
    del n
    return MPOShape(rows, cols, (rows, 1), (1, cols))


def value_for(name: str, rules: Mapping[str, int], otherwise: Value) -> int | Value:
    """What the first pattern that fits the matrix ``name`` says, for example the cap on its bonds."""
    return next((value for pattern, value in rules.items() if fnmatchcase(name, pattern)), otherwise)


def bond_for_parameters(shapes: Sequence[MPOShape], limit: int) -> int:
    """The largest single cap under which the cores of all matrices together hold at most ``limit`` numbers.

    One integer caps every bond, as in the authors' code (``truncate_num``).

    Raises:
        UsageError: when even bonds of 1 hold more; names the least that can be had.
    """

    def parameters(cap: int) -> int:
        return sum(shape.n_params(shape.clip_bonds(cap)) for shape in shapes)

    if parameters(1) > limit:
        raise UsageError(
            f"the budget leaves {limit:,} numbers for the {len(shapes)} matrices, but bonds of 1 need "
            f"{parameters(1):,}; raise the budget or decompose fewer matrices."
        )
    low, high = 1, max((bond for shape in shapes for bond in shape.full_bonds), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if parameters(middle) <= limit else (low, middle - 1)
    return low


def bonds_for_tolerance(spectra: Sequence[Float[Tensor, " bond"]], tolerance: float) -> tuple[int, ...]:
    """The least bonds whose error bound is within ``tolerance`` times the norm of the matrix.

    Each of the n - 1 bonds gets the same share of the squared error, so that the bound of Eq. 4 holds:
    eps_k^2 <= tolerance^2 ||W||^2 / (n - 1).

    Args:
        spectra: the Schmidt values of each bond, descending.
        tolerance: relative Frobenius error.
    """
    if not spectra:
        return ()
    share = tolerance / math.sqrt(len(spectra))
    bonds = []
    for spectrum in spectra:
        squares = spectrum.double().square()
        tails = squares.flip(0).cumsum(0).flip(0)  # tails[d] = what is lost when d values are kept
        kept = int((tails > share**2 * squares.sum()).sum())
        bonds.append(max(1, kept))
    return tuple(bonds)
