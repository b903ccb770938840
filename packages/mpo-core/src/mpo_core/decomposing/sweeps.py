"""The two-sided sweep: isometries from both ends, in the order that costs least, and what is left at home.

Sweeping from both ends splits every bond on its small side: for n = 5 and 768 x 3072 the largest matrix to
diagonalise is 288 x 288, where a sweep from the left would decompose one of 8192 x 288. A side that is projected
first makes the work of the other one smaller; which side, and how many of its bonds share one Gram matrix, is
decided by counting operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.chain import Chain
from mpo_core.decomposing.isometry import isometry, side_basis
from mpo_core.decomposing.randomized import RangeFinder
from mpo_core.decomposing.sides import side_layout, unfold
from mpo_core.decomposing.unfolding import Side

_GRAM_COST = 1.25
"""Operations of a Gram matrix in stripes, over ``size^2``; a whole product would take 2."""
_EIGH_COST = 16.0
"""An eigendecomposition takes about as long as this many times ``size^3`` operations of a matrix product."""
_COPY_COST = 20.0
"""Converting an entry twice, as many operations."""

_REFIT_SHARE = 0.2
"""Share of the cost of a sweep up to which its first cut is done again."""


@dataclass(frozen=True)
class Stage:
    """Some groups of one side whose bonds are cut from one Gram matrix; then the tensor is projected.

    Attributes:
        side: left or right.
        first: how many groups of the side are done before.
        last: how many are done after.
    """

    side: Side
    first: int
    last: int


@torch.no_grad()
def sweep_chain(
    tensor: Float[Tensor, "batch one rows cols one"],
    chain: Chain,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    finder: RangeFinder | None = None,
    first_dtype: torch.dtype | None = None,
) -> list[Float[Tensor, "batch left rows cols right"]]:
    """Cut all bonds of a chain, from both ends to the home group.

    Args:
        tensor: padded matrices, scaled so that their squares neither over- nor underflow.
        chain: the groups and their bonds.
        dtype: what is computed in.
        out_dtype: what the home core is stored in.
        finder: how bases are found at random, instead of from Gram matrices.
        first_dtype: what the first stage is computed in, if not `dtype`.

    Returns:
        One core for each group: left orthonormal before home, right orthonormal after it.
    """
    double_data = tensor.dtype == torch.float64
    left: list[Tensor] = []
    right: list[Tensor] = []
    stages = plan_stages(chain, one_bond=finder is not None)
    for index, stage in enumerate(stages):
        layout = side_layout(chain, stage.side, stage.first, stage.last)
        # A bond may have become narrower than planned, where the other side was cut to less.
        layout = replace(layout, outer=tensor.shape[1 if stage.side == "left" else 4])
        working = first_dtype if index == 0 and first_dtype is not None else dtype
        unfolding = unfold(tensor, layout, working)
        if finder is None:
            cores = side_basis(unfolding, layout, double_data).chain_cores()
        else:
            cores = [finder.side_core(unfolding, layout)]
        store = out_dtype if index == len(stages) - 1 else working
        tensor = unfolding.project(stage.side, isometry(layout, cores).to(working), store)
        left, right = ([*left, *cores], right) if stage.side == "left" else (left, [*cores, *right])
    return [*left, tensor.to(out_dtype), *right]


@lru_cache(maxsize=1024)
def plan_stages(chain: Chain, one_bond: bool = False) -> tuple[Stage, ...]:
    """The stages of the cheapest sweep, by dynamic programming over how many groups of either side are done.

    Args:
        chain: groups and bonds.
        one_bond: let every stage cut one bond.

    Example:
        >>> from mpo_core.decomposing.chain import merge_sites
        >>> from mpo_core.shapes import MPOShape
        >>> shape = MPOShape(768, 3072, (4, 4, 4, 4, 3), (4, 4, 8, 6, 4))
        >>> [stage.side for stage in plan_stages(merge_sites(shape, (16, 64, 64, 12)))]
        ['left', 'right']
    """
    lefts, rights = chain.home, len(chain.bonds) - chain.home
    best: dict[tuple[int, int], tuple[float, tuple[Stage, ...]]] = {(0, 0): (0.0, ())}
    for done in ((a, b) for a in range(lefts + 1) for b in range(rights + 1)):
        cost, stages = best[done]
        for stage in _next_stages(done, (lefts, rights), one_bond):
            after = (stage.last, done[1]) if stage.side == "left" else (done[0], stage.last)
            total = cost + stage_cost(chain, stage, done)
            if after not in best or total < best[after][0]:
                best[after] = (total, (*stages, stage))
    return best[lefts, rights][1]


def refit_step(chain: Chain) -> tuple[int, Side] | None:
    """The first cut of a sweep, if doing it again costs little.

    The side that goes first is cut without knowing what the other one will drop. Where each side has one bond to cut,
    and finding the first basis again, for the matrix projected on the second one, costs at most a fifth of the sweep,
    it is worth it: the error falls by more than any choice of the order could gain.

    Returns:
        The bond and the side, as `mpo_core.decomposing.alternating.update_bonds` takes them, or None.
    """
    if len(chain.bonds) != 2 or chain.home != 1:
        return None
    first, second = plan_stages(chain)
    sweep = stage_cost(chain, first, (0, 0))
    after = (1, 0) if first.side == "left" else (0, 1)
    sweep += stage_cost(chain, second, after)
    projection = (2.0 * chain.bonds[after[0]] + _COPY_COST) * math.prod(chain.sizes)
    again = projection + stage_cost(chain, first, (after[1], after[0]))
    return (after[1], first.side) if again <= _REFIT_SHARE * sweep else None


def stage_cost(chain: Chain, stage: Stage, done: tuple[int, int]) -> float:
    """About how many operations a stage takes: Gram matrix, eigenvectors, projection, and what is copied for both.

    Args:
        chain: groups and bonds.
        stage: the stage.
        done: how many groups of either side are done before.
    """
    sizes, ends = chain.sizes, (1, *chain.bonds, 1)
    stop = len(sizes) - done[1]
    entries = ends[done[0]] * math.prod(sizes[done[0] : stop]) * ends[stop]
    layout = side_layout(chain, stage.side, stage.first, stage.last)
    size, bond = layout.size, layout.bonds[-1]
    other = entries // size
    small = min(size, other) if len(layout.groups) == 1 else size
    gram = _GRAM_COST * small * entries
    detour = 2.0 * bond * size * (other + bond) if small < size else 0.0
    return gram + detour + _EIGH_COST * small**3 + (2.0 * bond + _COPY_COST) * entries


def _next_stages(done: tuple[int, int], ends: tuple[int, int], one_bond: bool) -> Iterator[Stage]:
    sides: tuple[Side, Side] = ("left", "right")
    for side, first, end in zip(sides, done, ends, strict=True):
        for last in range(first + 1, min(end, first + 1) + 1 if one_bond else end + 1):
            yield Stage(side, first, last)
