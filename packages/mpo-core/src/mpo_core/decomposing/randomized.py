"""Bases of a side from a randomised range finder (Halko, Martinsson and Tropp 2011, Algorithms 4.4 and 5.1).

The matrix is multiplied with a few random columns more than the bond keeps, instead of with itself. That saves work
only where the side is several times larger than the bond, and costs accuracy where the spectrum is flat, as those of
weights are; so it is used on request only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.sides import SideLayout
from mpo_core.decomposing.unfolding import Side, Unfolding, split_axis
from mpo_core.linear_algebra import eigh, qr

_SEED = 0


@dataclass(frozen=True)
class RangeFinder:
    """How the range is found.

    Attributes:
        oversampling: random columns beyond the bond, as a share of it, and at least 8.
        power: how many times the range is sharpened by multiplying with the matrix and its transpose.
    """

    oversampling: float = 0.25
    power: int = 1

    def side_core(self, unfolding: Unfolding, layout: SideLayout) -> Float[Tensor, "batch left rows cols right"]:
        """The isometry of the one bond of a side, as `mpo_core.decomposing.isometry.side_basis` gives it, nearly.

        Every call draws the same numbers.
        """
        side: Side = layout.side
        other: Side = "right" if side == "left" else "left"
        bond = layout.bonds[-1]
        width = min(bond + max(8, round(self.oversampling * bond)), unfolding.size(side), unfolding.size(other))
        generator = torch.Generator(unfolding.view.device).manual_seed(_SEED)
        size = (1, unfolding.size(other), width)
        # In float64 always: other dtypes draw other numbers.
        columns = torch.randn(size, generator=generator, dtype=torch.float64, device=unfolding.view.device)
        columns = columns.to(unfolding.dtype).expand(unfolding.view.shape[0], -1, -1)
        found = self._image(unfolding, other, columns)
        for _ in range(self.power):
            found = self._image(unfolding, other, self._image(unfolding, side, found))
        image = unfolding.project(side, found)
        rows = image.flatten(2) if side == "left" else image.flatten(1, 3).mT
        _, vectors = eigh((rows @ rows.mT).double())
        basis = found @ vectors[..., -bond:].flip(-1).to(found.dtype)
        core = split_axis(layout.sorted_digits(basis, 1), 1, (layout.outer, *layout.groups[0]))
        return core if side == "left" else core.permute(0, 4, 2, 3, 1)

    @staticmethod
    def _image(unfolding: Unfolding, side: Side, columns: Tensor) -> Tensor:
        """Orthonormal columns that span what one side's columns are mapped to on the other side."""
        image = unfolding.project(side, columns)
        return qr(image.flatten(2).mT if side == "left" else image.flatten(1, 3))[0]
