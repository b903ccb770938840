"""Alternating least squares after a truncation: bond after bond is cut again, best for what all other cores are now.

A sweep of truncations cuts each bond without knowing what the later ones will drop. Once all cores are there, two
neighbouring groups are taken out at a time: with all other cores orthonormal, the best for their place is the matrix
projected on those, and its best approximation of the bond's rank is a singular value decomposition. The old cores are
one candidate of each such step, so the error never rises (White 1992; Holtz, Rohwedder and Schneider 2012). Groups,
not sites, are taken out: bonds that keep all they can have cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.chain import Chain
from mpo_core.decomposing.isometry import isometry, side_basis
from mpo_core.decomposing.sides import SideLayout, side_layout, unfold
from mpo_core.decomposing.unfolding import Side

Cores = list[Float[Tensor, "batch left rows cols right"]]
Step = tuple[int, Side]

_STOP = 1e-7
"""A sweep that adds less than this share of the kept energy is the last."""


@torch.no_grad()
def refine_cores(
    tensor: Float[Tensor, "batch one rows cols one"],
    chain: Chain,
    cores: Sequence[Float[Tensor, "batch left rows cols right"]],
    dtype: torch.dtype,
    sweeps: int,
) -> Cores:
    """Lower the error of truncated cores at the same bonds.

    Args:
        tensor: the matrices, as `mpo_core.decomposing.sweeps.sweep_chain` takes them.
        chain: groups and bonds.
        cores: one for each group, left orthonormal before home and right orthonormal after it.
        dtype: what is computed in.
        sweeps: how many times all bonds are gone over.

    Returns:
        Cores of the same form; nowhere in the batch is the error above that of the given ones.
    """
    best = list(cores)
    if len(chain.bonds) < 2:
        return best  # one bond alone was cut optimally
    kept = _energy(best[chain.home])
    for _ in range(sweeps):
        found = update_bonds(tensor, chain, best, dtype, bond_order(len(chain.bonds), chain.home))
        energy = _energy(found[chain.home])
        gain = float(((energy - kept) / kept.clamp_min(torch.finfo(kept.dtype).tiny)).max())
        better = (energy > kept).reshape(-1, 1, 1, 1, 1)
        best = [torch.where(better, new, old.to(new.dtype)) for new, old in zip(found, best, strict=True)]
        kept = torch.maximum(energy, kept)
        if gain < _STOP:
            break
    return best


def bond_order(bonds: int, home: int) -> list[Step]:
    """From home to the left end, to the right end, and back home.

    Each step is a bond and the side whose core it makes orthonormal; at the ends, where one would turn around, a bond
    is visited once.

    Example:
        >>> bond_order(2, 1)
        [(0, 'left'), (1, 'right')]
        >>> bond_order(4, 2)
        [(1, 'right'), (0, 'left'), (1, 'left'), (2, 'left'), (3, 'right'), (2, 'right')]
    """
    steps: list[Step] = [(bond, "right") for bond in range(home - 1, 0, -1)]
    outward: list[Step] = [(bond, "left") for bond in range(max(home, bonds - 1))]
    back: list[Step] = [(bond, "right") for bond in range(bonds - 1, home - 1, -1)]
    return [*steps, *outward, *back]


def update_bonds(
    tensor: Tensor, chain: Chain, cores: Sequence[Tensor], dtype: torch.dtype, steps: Sequence[Step]
) -> Cores:
    """Cut the bonds of `steps` again, one after the other; the last step has to leave all but home orthonormal.

    Args:
        tensor: the matrices.
        chain: groups and bonds.
        cores: one for each group; those outside of the first step's two groups orthonormal towards them.
        dtype: what is computed in.
        steps: bonds and sides as of `bond_order`.
    """
    result = list(cores)
    double_data = tensor.dtype == torch.float64
    for bond, side in steps:
        pair = _projected_pair(tensor, chain, result, bond, dtype)
        group = bond if side == "left" else bond + 1
        outer = pair.shape[1] if side == "left" else pair.shape[4]
        layout = SideLayout(side, ((chain.rows[group], chain.cols[group]),), (chain.bonds[bond],), outer)
        unfolding = unfold(pair, layout, dtype)
        basis = side_basis(unfolding, layout, double_data).chain_cores()
        result[group] = basis[0]
        partner = bond + 1 if side == "left" else bond
        result[partner] = unfolding.project(side, isometry(layout, basis).to(dtype), cores[chain.home].dtype)
    return result


def _projected_pair(
    tensor: Tensor, chain: Chain, cores: Sequence[Tensor], bond: int, dtype: torch.dtype
) -> Float[Tensor, "batch left i j right"]:
    """The matrix projected on all cores but the two that meet at a bond."""
    left = side_layout(chain, "left", 0, bond)
    right = side_layout(chain, "right", 0, len(chain.bonds) - bond - 1)
    parts = [(left, list(cores[:bond])), (right, list(cores[bond + 2 :]))]
    parts = [(layout, part) for layout, part in parts if part]
    # Projecting takes as many multiplications as the matrix has entries, times the bond: the smaller bond goes first.
    parts.sort(key=lambda pair: pair[0].bonds[-1])
    for layout, part in parts:
        tensor = unfold(tensor, layout, dtype).project(layout.side, isometry(layout, [core.to(dtype) for core in part]))
    return tensor


def _energy(home: Tensor) -> Float[Tensor, " batch"]:
    """The squared norm of what a chain keeps: that of its home core."""
    return home.double().square().flatten(1).sum(1)
