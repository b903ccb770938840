"""Linear layer whose matrix is a matrix product operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpo_core.decomposing.choices import AnyGauge, DecomposeOptions
from mpo_core.decomposing.decomposition import decompose
from mpo_core.errors import ShapeError, UsageError
from mpo_core.forward.applying import apply_mpo, check_dtype, check_features
from mpo_core.forward.cost import STRATEGIES, Strategy
from mpo_core.forward.cost_table import Cost, linear_cost
from mpo_core.forward.layer import MPOLayer, as_parameter, factors_text, is_conv1d, merged_weight, stored_weight
from mpo_core.forward.machine import machine_for
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape


class MPOLinear(MPOLayer):
    """A linear layer ``y = x W^T + b`` with ``W`` in MPO form; drop-in for `nn.Linear` and `Conv1D`.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``; an `nn.Parameter` becomes the layer's own as it is, so
            layers can share cores and any core can be frozen by itself.
        shape: factors of the matrix; ``rows`` are the output features.
        bias: of shape (out_features,), kept as it is when it is an `nn.Parameter`.
        transposed: the layer stands for a `transformers` `Conv1D`, whose weight is stored as (in, out);
            matters for `to_dense` only.
        strategy: how the product is computed. ``auto`` takes what is estimated to be fastest for the number of tokens;
            ``rebuild`` multiplies the cores to ``W``, as the papers' code does; ``chain`` lets the tokens meet core
            after core; ``mixed`` multiplies some neighbouring cores first. See `cost`.
        cache: keep ``W`` in eval mode while no gradient reaches the cores. Then the layer takes the time and memory of
            `nn.Linear`. ``W`` is built again as soon as a core changes: by an optimizer, `load_state_dict`, `to`, in
            place, or exchanged. Only what PyTorch does not record goes unnoticed (``core.data.add_(1)``, a NumPy
            view): call `drop_cache` after that. It is no part of the state, of copies, or of a compiled graph.

    Raises:
        ShapeError: cores, shape and bias do not fit.
        UsageError: unknown strategy, or `cache` is no bool.

    Example:
        >>> layer = MPOLinear.from_dense(nn.Linear(48, 64), bonds=8)
        >>> layer(torch.randn(2, 3, 48)).shape
        torch.Size([2, 3, 64])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        cores: Sequence[Core],
        shape: MPOShape,
        bias: Float[Tensor, " out"] | None = None,
        transposed: bool = False,
        *,
        strategy: Strategy = "auto",
        cache: bool = False,
    ) -> None:
        super().__init__(cores, shape, cache)
        if bias is not None and tuple(bias.shape) != (shape.rows,):
            raise ShapeError(f"MPOLinear: bias has the shape {tuple(bias.shape)}; expected ({shape.rows},).")
        self.register_parameter("bias", None if bias is None else as_parameter(bias))
        self.transposed = transposed
        self.strategy = strategy

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return self.shape.cols

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return self.shape.rows

    @property
    def strategy(self) -> Strategy:
        """How the product is computed."""
        return self._strategy

    @strategy.setter
    def strategy(self, value: Strategy) -> None:
        if value not in STRATEGIES:
            raise UsageError(f"MPOLinear: strategy is {value!r}; expected one of {', '.join(STRATEGIES)}.")
        self._strategy: Strategy = value

    @classmethod
    def from_dense(
        cls,
        dense: nn.Module,
        shape: MPOShape | None = None,
        bonds: int | Sequence[int] | None = None,
        *,
        n: int = 5,
        gauge: AnyGauge = "symmetric",
        strategy: Strategy = "auto",
        cache: bool = False,
        **options: Unpack[DecomposeOptions],
    ) -> MPOLinear:
        """Decompose a dense layer.

        Device, dtype and the training flag are kept, the cores require a gradient if the weight does, and the
        bias is the very same parameter, so that an optimizer goes on with it.

        Args:
            dense: an `nn.Linear` or a `transformers` `Conv1D`; it is not changed.
            shape: factors of the (out, in) matrix; balanced ones if left out.
            bonds: as in `mpo_core.decompose`.
            n: number of cores where `shape` is left out.
            gauge: as in `mpo_core.decompose`.
            strategy: as for the class.
            cache: as for the class.
            **options: further keywords of `mpo_core.decompose`, among them the other ways to say how far bonds are
                cut: ``tolerance``, ``ratio``, ``max_params``, ``max_bytes``.

        Raises:
            UsageError: another kind of layer.
            MPOError: as `mpo_core.decompose`.
        """
        transposed = is_conv1d(dense)
        if not transposed and not isinstance(dense, nn.Linear):
            raise UsageError(
                f"MPOLinear.from_dense: found {type(dense).__name__}; expected nn.Linear or transformers' Conv1D."
            )
        stored = stored_weight(dense)
        mpo = decompose(stored.T if transposed else stored, shape, bonds, n=n, gauge=gauge, **options)
        bias = dense.bias if isinstance(dense.bias, Tensor) else None
        layer = cls(mpo.cores, mpo.shape, bias, transposed, strategy=strategy, cache=cache)
        layer.cores.requires_grad_(stored.requires_grad)
        return layer.train(dense.training)

    from_linear = from_dense

    def to_dense(self) -> nn.Module:
        """The plain layer with the rebuilt weight and the same bias parameter: `nn.Linear`, or `Conv1D`.

        The weight requires a gradient if any core does.

        Raises:
            ImportError: a layer that came from a `Conv1D`, without transformers installed.
        """
        weight = self.weight.detach()
        if self.transposed:
            from transformers.pytorch_utils import Conv1D

            # Its initialisation cannot be left out, and must not cost the caller random numbers.
            with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
                dense = Conv1D(self.out_features, self.in_features)
            weight = weight.T
        else:
            dense = nn.Linear(self.in_features, self.out_features, device="meta")
        dense.weight = merged_weight(weight, self.cores)
        dense.register_parameter("bias", self.bias)
        return dense.train(self.training)

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Apply the layer to the last axis.

        Raises:
            ShapeError: the last axis is not of `in_features`.
            UsageError: the input has another dtype than the cores, outside autocast.
        """
        kept = self._kept_weight()
        if kept is None:
            return apply_mpo(input, self.core_list(), self.shape, self.bias, strategy=self._strategy, where="MPOLinear")
        try:
            return functional.linear(input, kept, self.bias)
        except RuntimeError:  # in our words, if it is the input
            check_features(input, self.shape, "MPOLinear")
            check_dtype(input, kept, "MPOLinear")
            raise

    def cost(self, tokens: int, training: bool = False) -> Cost:
        """What this layer costs with each plan, and `nn.Linear` beside it; print it for a table.

        Args:
            tokens: rows of the input, all axes but the last multiplied.
            training: with the backward pass, to the input and to all cores.

        Raises:
            UsageError: `tokens` is no positive integer.

        Example:
            >>> shape = MPOShape.choose(3072, 768)
            >>> layer = MPOLinear([torch.empty(size) for size in shape.core_shapes(96)], shape)
            >>> layer.cost(512).chosen
            'rebuild'
        """
        core = self.cores[0]
        machine = machine_for(core.device.type, core.dtype)
        return linear_cost(
            self.shape, self.bonds, tokens, training, machine, strategy=self._strategy, cache=self._cache
        )

    def extra_repr(self) -> str:
        """One line for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None},"
            f" {factors_text(self.shape)}, bonds={self.bonds}"
        )
