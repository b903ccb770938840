"""Metrics of truncation: errors against their bounds, and where the entanglement entropy is largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core import MPO, entanglement_entropy, error_bound
from mpo_core.repro.record import Measurement

ROUNDING = 1e-9
"""Relative slack of a bound in float64 arithmetic."""


def random_matrices(count: int, seed: int) -> list[Float[Tensor, "rows cols"]]:
    """Matrices with three kinds of spectrum, in turn: flat (Gaussian), a power law, low rank plus noise.

    Sizes are 32 to 256 per side, float64; the same seed gives the same matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = (32, 48, 64, 96, 128, 256)
    matrices = []
    for case in range(count):
        rows, cols = (sides[int(torch.randint(len(sides), (), generator=generator))] for _ in range(2))
        noise = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
        left, singular, right = torch.linalg.svd(noise, full_matrices=False)
        if case % 3 == 1:
            decay = torch.arange(1, len(singular) + 1, dtype=torch.float64).pow(-0.7)
            noise = left @ torch.diag(decay) @ right
        elif case % 3 == 2:
            rank = max(1, len(singular) // 8)
            noise = left[:, :rank] @ right[:rank] + 0.01 * noise / singular[0]
        matrices.append(noise)
    return matrices


def bound_metrics(mpos: Sequence[MPO], cases: int, seed: int) -> dict[str, Measurement]:
    """Truncate at random caps and hold the error against Eq. 4, and against Eq. 3 as it is printed.

    One integer caps all bonds, as in the authors' code; it is drawn log-uniformly from 1 to the largest bond.

    Args:
        mpos: operators at full bond, float64; taken in turn.
        cases: truncations.
        seed: of the random caps.

    Returns:
        ``bound_violations`` and ``printed_bound_violations`` (counts of ``cases``), ``bound_looseness`` (bound over
        error, mean over the cases with an error above rounding).
    """
    generator = torch.Generator().manual_seed(seed)
    spectra = [mpo.bond_spectra() for mpo in mpos]
    dense = [mpo.to_matrix() for mpo in mpos]
    violations, printed, looseness = 0, 0, []
    for case in range(cases):
        index = case % len(mpos)
        cap = int(max(mpos[index].bonds) ** float(torch.rand((), generator=generator)))
        truncated = mpos[index].truncate(cap)
        slack = ROUNDING * float(dense[index].norm())
        error = float((dense[index] - truncated.to_matrix()).norm())
        bound = error_bound(spectra[index], truncated.bonds)
        violations += error > bound + slack
        printed += error > error_bound(spectra[index], truncated.bonds, variant="printed") + slack
        if error > slack:
            looseness.append(bound / error)
    return {
        "bound_violations": Measurement(value=violations, n=cases),
        "printed_bound_violations": Measurement(value=printed, n=cases),
        "bound_looseness": Measurement(value=sum(looseness) / max(1, len(looseness)), n=len(looseness)),
    }


def central_entropy_share(mpos: Sequence[MPO]) -> Measurement:
    """The share of operators whose largest entropy (Eq. 6) stands at one of the central tensor's two bonds."""
    hits = 0
    for mpo in mpos:
        entropies = [entanglement_entropy(spectrum) for spectrum in mpo.bond_spectra()]
        hits += entropies.index(max(entropies)) in (mpo.shape.central - 1, mpo.shape.central)
    return Measurement(value=hits / len(mpos), n=len(mpos))
