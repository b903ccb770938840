"""Cut the bonds of a chain: a sweep, its first cut again where that is cheap, least-squares sweeps on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.alternating import refine_cores, update_bonds
from mpo_core.decomposing.chain import Chain
from mpo_core.decomposing.randomized import RangeFinder
from mpo_core.decomposing.sweeps import refit_step, sweep_chain
from mpo_core.linear_algebra import qr


@torch.no_grad()
def truncate_chain(
    tensor: Float[Tensor, "batch one rows cols one"],
    chain: Chain,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    finder: RangeFinder | None = None,
    refine: int = 0,
) -> list[Float[Tensor, "batch left rows cols right"]]:
    """Cut all bonds of a chain.

    Args:
        tensor: padded matrices, scaled so that their squares neither over- nor underflow.
        chain: the groups and their bonds.
        dtype: what is computed in.
        out_dtype: what the home core is stored in.
        finder: how bases are found at random, instead of from Gram matrices.
        refine: number of alternating least-squares sweeps.

    Returns:
        One core for each group: left orthonormal before home, right orthonormal after it.
    """
    step = refit_step(chain) if finder is None else None
    # A cut that is done again may be a first guess.
    guess = torch.float32 if step is not None and tensor.dtype != torch.float64 else None
    cores = narrowed_bonds(sweep_chain(tensor, chain, dtype, out_dtype, finder, guess), chain.home)
    chain = replace(chain, bonds=tuple(core.shape[-1] for core in cores[:-1]))
    if step is not None:
        cores = update_bonds(tensor, chain, cores, dtype, [step])
    return refine_cores(tensor, chain, cores, dtype, refine) if refine else cores


def narrowed_bonds(
    cores: Sequence[Float[Tensor, "batch left rows cols right"]], home: int
) -> list[Float[Tensor, "batch left rows cols right"]]:
    """The same operator without bonds that are wider than what the bond on their inner side lets through.

    Cut from the outside in, a bond does not know how far the next one will be cut.

    Args:
        cores: left orthonormal before home, right orthonormal after it; so is the result.
        home: index of the home core.
    """
    result = list(cores)
    for k in range(home, 0, -1):
        core = result[k]
        if core.shape[1] > core.shape[2:].numel():
            basis, rest = qr(core.flatten(2))
            result[k] = rest.reshape(rest.shape[0], -1, *core.shape[2:])
            result[k - 1] = result[k - 1] @ basis[:, None, None].to(result[k - 1].dtype)
    for k in range(home, len(result) - 1):
        core = result[k]
        if core.shape[4] > core.shape[1:4].numel():
            basis, rest = qr(core.flatten(1, 3).mT)
            result[k] = rest.mT.reshape(*core.shape[:4], -1)
            after = result[k + 1]
            turned = basis.mT.to(after.dtype) @ after.flatten(2)
            result[k + 1] = turned.reshape(after.shape[0], -1, *after.shape[2:])
    return result
