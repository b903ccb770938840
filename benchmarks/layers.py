"""The linear layers that `linear.py` measures: ours, tensorly-torch's, and one pass through any of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from interleaved import installed
from torch import Tensor, nn

from mpo_core import MPOLinear, MPOShape
from mpo_core.forward.cost import Strategy

PEERS = ("tensorly", "tensorly-torch")
PEER_BONDS = (8, 96)


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        rows: output features.
        cols: input features.
        tokens: numbers of tokens.
        bonds: caps of all bonds.
        rounds: samples of each candidate.
    """

    rows: int
    cols: int
    tokens: tuple[int, ...]
    bonds: tuple[int, ...]
    rounds: int

    @property
    def shape(self) -> MPOShape:
        """The factors that the layer chooses itself."""
        return MPOShape.choose(self.rows, self.cols)


FULL = Size(3072, 768, (1, 8, 32, 128, 512, 4096), (8, 32, 96, 128), 9)
SMOKE = Size(96, 48, (1, 32), (4, 16), 1)


def make_cores(shape: MPOShape, bond: int | None) -> list[Tensor]:
    """Random cores of about unit variance of the matrix; the time does not depend on the values."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) / size[0] ** 0.5 for size in shape.core_shapes(bond)]


def make_layer(size: Size, bond: int | None, strategy: Strategy = "auto", cache: bool = False) -> MPOLinear:
    """The layer to be measured."""
    return MPOLinear(make_cores(size.shape, bond), size.shape, torch.zeros(size.rows), strategy=strategy, cache=cache)


def make_peers(size: Size, bond: int) -> dict[str, nn.Module]:
    """Layers of tensorly-torch with the same factors and bonds; none where it is not installed."""
    if installed("tensorly-torch") is None or bond not in PEER_BONDS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tltorch  # pyright: ignore[reportMissingImports]
    shape = size.shape
    layers: dict[str, nn.Module] = {}
    for implementation in ("factorized", "reconstructed"):
        layer: Any = tltorch.FactorizedLinear(
            shape.col_factors,
            shape.row_factors,
            factorization="BlockTT",
            rank=(1, *shape.clip_bonds(bond), 1),  # pyright: ignore[reportArgumentType]
            implementation=implementation,
        )
        with torch.no_grad():
            for core, own in zip(layer.weight.parameters(), make_cores(shape, bond), strict=True):
                core.copy_(own)
        layers[f"tltorch-{implementation}"] = layer
    return layers


def runner(layer: nn.Module, x: Tensor, training: bool) -> Callable[[], object]:
    """One pass of a layer, as a function without arguments."""
    if not training:

        def forward() -> None:
            with torch.no_grad():
                layer(x)

        return forward
    x = x.clone().requires_grad_()
    parameters = [x, *layer.parameters()]
    probe = torch.randn(len(x), layer(x[:1]).shape[-1], dtype=x.dtype)

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        layer(x).backward(probe)

    return step
