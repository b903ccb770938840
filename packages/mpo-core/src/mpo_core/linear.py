"""Linear layer whose matrix is a matrix product operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mpo_core.decomposition import decompose
from mpo_core.errors import ShapeError, UsageError
from mpo_core.gauge import Core, Gauge
from mpo_core.layer import MPOLayer, as_parameter, factors_text, is_conv1d, merged_weight, stored_weight
from mpo_core.shapes import MPOShape


class MPOLinear(MPOLayer):
    """A linear layer ``y = x W^T + b`` with ``W`` in MPO form; drop-in for `nn.Linear` and `Conv1D`.

    The forward pass multiplies the cores to ``W`` and applies it, as the papers' code does.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``; an `nn.Parameter` becomes the layer's own as it is, so
            layers can share cores and any core can be frozen by itself.
        shape: factors of the matrix; ``rows`` are the output features.
        bias: of shape (out_features,), kept as it is when it is an `nn.Parameter`.
        transposed: the layer stands for a `transformers` `Conv1D`, whose weight is stored as (in, out);
            matters for `to_dense` only.

    Raises:
        ShapeError: cores, shape and bias do not fit.

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
    ) -> None:
        super().__init__(cores, shape)
        if bias is not None and tuple(bias.shape) != (shape.rows,):
            raise ShapeError(f"MPOLinear: bias has the shape {tuple(bias.shape)}; expected ({shape.rows},).")
        self.register_parameter("bias", None if bias is None else as_parameter(bias))
        self.transposed = transposed

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return self.shape.cols

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return self.shape.rows

    @classmethod
    def from_dense(
        cls,
        dense: nn.Module,
        shape: MPOShape | None = None,
        bonds: int | Sequence[int] | None = None,
        *,
        n: int = 5,
        gauge: Gauge = "symmetric",
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
        mpo = decompose(stored.T if transposed else stored, shape, bonds, n=n, gauge=gauge)
        bias = dense.bias
        layer = cls(mpo.cores, mpo.shape, bias if isinstance(bias, Tensor) else None, transposed)
        layer.cores.requires_grad_(stored.requires_grad)
        return layer.train(dense.training)

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
            with torch.random.fork_rng(devices=[]):
                dense = Conv1D(self.out_features, self.in_features)
            weight = weight.T
        else:
            dense = nn.Linear(self.in_features, self.out_features, device="meta")
        dense.weight = merged_weight(weight, self.cores)
        dense.register_parameter("bias", self.bias)
        return dense.train(self.training)

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Apply the layer to the last axis."""
        return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """One line for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None},"
            f" {factors_text(self.shape)}, bonds={self.bonds}"
        )
