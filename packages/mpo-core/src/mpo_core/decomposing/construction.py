"""Operators from checked matrices: at given bonds, at full bonds with their Schmidt values, or without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.chain import Chain, expand, home_site, merge_sites
from mpo_core.decomposing.choices import AnyGauge, Choices
from mpo_core.decomposing.matrices import Batch, prepare
from mpo_core.decomposing.randomized import RangeFinder
from mpo_core.decomposing.schmidt import bond_schmidt_values, schmidt_form, turned_to_schmidt
from mpo_core.decomposing.truncation import narrowed_bonds, truncate_chain
from mpo_core.errors import UsageError
from mpo_core.forward.backward import without_autocast
from mpo_core.operators.algebra import orthonormal_cores
from mpo_core.operators.gauge import Gauge, Spectrum, canonical_cores, sequential_cores, slice_cores
from mpo_core.operators.mpo import MPO
from mpo_core.shapes import MPOShape


def operators(
    matrices: Sequence[Tensor], largest: Sequence[float], shape: MPOShape, kept: tuple[int, ...], choices: Choices
) -> list[tuple[MPO, float]]:
    """The operators at given bonds, and for a sweep the squared norm that each keeps, up to one common factor."""
    gauge, full = choices.gauge, kept == shape.full_bonds
    if gauge == "identity" and not full:
        raise UsageError(
            f"decompose: gauge 'identity' is lossless, but bonds {kept} are below the full {shape.full_bonds};"
            " choose another gauge or leave bonds out."
        )
    if shape.n == 1 or (full and gauge in ("mixed", "identity")):
        return [(mpo, 0.0) for mpo in identity_operators(matrices, shape)]
    if choices.method == "sequential" and not full:
        exact = identity_operators(matrices, shape)
        return [(_regauged(sequential_cores(mpo.cores, kept), shape, gauge), 0.0) for mpo in exact]
    if full:
        return [(mpo, 0.0) for mpo in lossless_operators(matrices, largest, shape, choices)[0]]
    if choices.method == "slice":
        exact = lossless_operators(matrices, largest, shape, replace(choices, gauge="symmetric"))[0]
        sliced = [slice_cores(mpo.cores, kept) for mpo in exact]
        if gauge == "symmetric":
            return [(MPO(cores, shape), 0.0) for cores in sliced]
        return [(_regauged(cores, shape, gauge), 0.0) for cores in sliced]
    return _swept(prepare(matrices, largest, shape), shape, kept, choices)


def _swept(batch: Batch, shape: MPOShape, kept: tuple[int, ...], choices: Choices) -> list[tuple[MPO, float]]:
    """Bonds cut from both ends."""
    chain = merge_sites(batch.shape, kept)
    dtype = choices.dtype(batch.storage_dtype)
    finder = RangeFinder() if choices.method == "randomized" else None
    with without_autocast(batch.tensor):
        cores = truncate_chain(batch.tensor, chain, dtype, batch.storage_dtype, finder, choices.refine)
        energies = [float(energy) for energy in cores[chain.home].double().square().flatten(1).sum(1)]
        sites = [_site_cores([core[element] for core in cores], chain) for element in range(len(energies))]
        if choices.gauge != "mixed" and choices.gauge != "identity":
            sites = _turned(sites, batch.shape, choices.gauge, dtype)
    scaled = _scaled(shape, choices.gauge)
    mpos = [MPO(batch.finish(own, element, scaled), shape) for element, own in enumerate(sites)]
    return list(zip(mpos, energies, strict=True))


def _site_cores(groups: Sequence[Tensor], chain: Chain) -> list[Tensor]:
    """One core for each site, without bonds that their neighbours cannot use."""
    sites = [core[None] for core in expand(groups, chain)]
    return [core[0] for core in narrowed_bonds(sites, chain.site)]


def lossless_operators(
    matrices: Sequence[Tensor], largest: Sequence[float], shape: MPOShape, choices: Choices
) -> tuple[list[MPO], list[Float[Tensor, "batch bond"]]]:
    """The operators at full bonds in Schmidt bases, and the Schmidt values."""
    batch, gauge = prepare(matrices, largest, shape), choices.gauge
    with without_autocast(batch.tensor):
        form = schmidt_form(batch.tensor, batch.shape, choices.dtype(batch.storage_dtype), batch.storage_dtype)
        cores = form.cores if gauge == "mixed" or gauge == "identity" else form.in_gauge(gauge)
    scaled = _scaled(shape, gauge)
    mpos = [
        MPO(batch.finish([core[element] for core in cores], element, scaled), shape)
        for element in range(len(batch.exponents))
    ]
    scale = torch.tensor([2.0**power for power in batch.exponents], dtype=torch.float64, device=batch.tensor.device)
    return mpos, [values * scale[:, None] for values in form.values]


def matrix_schmidt_values(matrix: Tensor, largest: float, shape: MPOShape, choices: Choices) -> list[Spectrum]:
    """The Schmidt values of all bonds of one matrix."""
    if shape.n == 1:
        return []
    batch = prepare([matrix], [largest], shape)
    with without_autocast(batch.tensor):
        values = bond_schmidt_values(batch.tensor, batch.shape, choices.dtype(batch.storage_dtype))
    return [value[0] * 2.0 ** batch.exponents[0] for value in values]


def identity_operators(matrices: Sequence[Tensor], shape: MPOShape) -> list[MPO]:
    """The lossless operators without any arithmetic."""
    batch = prepare(matrices, [1.0] * len(matrices), shape)
    chain = merge_sites(batch.shape, shape.full_bonds)
    return [
        MPO(batch.finish(expand([batch.tensor[element]], chain), element, [chain.site]), shape)
        for element in range(len(matrices))
    ]


def _turned(sites: list[list[Tensor]], shape: MPOShape, gauge: Gauge, dtype: torch.dtype) -> list[list[Tensor]]:
    """Cores that are orthonormal towards home, in a canonical gauge."""
    form = turned_to_schmidt([torch.stack(parts) for parts in zip(*sites, strict=True)], shape, dtype)
    if form is None:
        return [canonical_cores([core.double() for core in cores], gauge)[0] for cores in sites]
    cores = form.in_gauge(gauge)
    return [[core[element] for core in cores] for element in range(len(sites))]


def _regauged(cores: Sequence[Tensor], shape: MPOShape, gauge: AnyGauge) -> MPO:
    """Cut cores of any form in a gauge."""
    if gauge == "mixed" or gauge == "identity":
        return MPO(orthonormal_cores(cores, home_site(shape), "decompose"), shape)
    return MPO(canonical_cores(cores, gauge)[0], shape)


def _scaled(shape: MPOShape, gauge: AnyGauge) -> list[int]:
    """The cores that grow with the matrix: one, or in the symmetric gauge the outermost two."""
    last = shape.n - 1
    places = {"symmetric": [0, last], "left": [last], "right": [0], "central": [shape.central]}
    return places.get(gauge, [home_site(shape)])
