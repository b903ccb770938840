"""Linear layer and embedding whose matrix is a matrix product operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mpo_core.contraction import contract_matrix, contract_rows
from mpo_core.decomposition import decompose
from mpo_core.errors import ShapeError, UsageError
from mpo_core.gauge import Core, Gauge
from mpo_core.mpo import MPO, check_cores
from mpo_core.shapes import MPOShape


class _MPOLayer(nn.Module):
    """What both layers share: the cores and the matrix they stand for."""

    def __init__(self, cores: Sequence[Core], shape: MPOShape) -> None:
        super().__init__()
        check_cores(cores, shape)
        self.shape = shape
        self.cores = nn.ParameterList(_as_parameter(core) for core in cores)

    @property
    def bonds(self) -> tuple[int, ...]:
        """The ``n - 1`` bond dimensions."""
        return tuple(core.shape[-1] for core in list(self.cores)[:-1])

    @property
    def weight(self) -> Float[Tensor, "rows cols"]:
        """The matrix, rebuilt from the cores at every access; differentiable."""
        return contract_matrix(list(self.cores), self.shape)

    def mpo(self) -> MPO:
        """The operator, with the layer's own parameters as cores (no copy)."""
        return MPO(list(self.cores), self.shape)


class MPOLinear(_MPOLayer):
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
        self.register_parameter("bias", None if bias is None else _as_parameter(bias))
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
        transposed = _is_conv1d(dense)
        if not transposed and not isinstance(dense, nn.Linear):
            raise UsageError(
                f"MPOLinear.from_dense: found {type(dense).__name__}; expected nn.Linear or transformers' Conv1D."
            )
        stored = _stored_weight(dense)
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
        dense.weight = _merged(weight, self.cores)
        dense.register_parameter("bias", self.bias)
        return dense.train(self.training)

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Apply the layer to the last axis."""
        return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """One line for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None},"
            f" {_factors(self.shape)}, bonds={self.bonds}"
        )


class MPOEmbedding(_MPOLayer):
    """An embedding whose table is in MPO form; the forward pass never builds the table.

    Args:
        cores: as in `MPOLinear`.
        shape: factors of the table; ``rows`` are the embeddings, ``cols`` their dimension.
        padding_idx: as in `nn.Embedding`, rows looked up under this id pass no gradient on. The row is not a
            constant, though: it is made of the cores it shares with others, so it moves when they are
            trained.

    Raises:
        ShapeError: cores and shape do not fit, or `padding_idx` is out of range.

    Example:
        >>> layer = MPOEmbedding.from_dense(nn.Embedding(30522, 16), bonds=8)
        >>> layer(torch.tensor([[101, 2023], [102, 0]])).shape
        torch.Size([2, 2, 16])
    """

    def __init__(self, cores: Sequence[Core], shape: MPOShape, padding_idx: int | None = None) -> None:
        super().__init__(cores, shape)
        if padding_idx is not None and not -shape.rows <= padding_idx < shape.rows:
            raise ShapeError(f"MPOEmbedding: padding_idx is {padding_idx}; expected it to be within {shape.rows} rows.")
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % shape.rows

    @property
    def num_embeddings(self) -> int:
        """Number of rows of the table."""
        return self.shape.rows

    @property
    def embedding_dim(self) -> int:
        """Size of each embedding."""
        return self.shape.cols

    @classmethod
    def from_dense(
        cls,
        dense: nn.Embedding,
        shape: MPOShape | None = None,
        bonds: int | Sequence[int] | None = None,
        *,
        n: int = 5,
        gauge: Gauge = "symmetric",
    ) -> MPOEmbedding:
        """Decompose the table of an `nn.Embedding`; arguments as in `MPOLinear.from_dense`.

        Raises:
            UsageError: another kind of layer, or one with max_norm, scale_grad_by_freq or sparse gradients,
                which are about rows that the table has no longer.
            MPOError: as `mpo_core.decompose`.
        """
        if not isinstance(dense, nn.Embedding):
            raise UsageError(f"MPOEmbedding.from_dense: found {type(dense).__name__}; expected nn.Embedding.")
        for option in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(dense, option):
                raise UsageError(
                    f"MPOEmbedding.from_dense: the embedding has {option}={getattr(dense, option)}, which"
                    " has no meaning for a table in MPO form; use an embedding without it."
                )
        stored = _stored_weight(dense)
        mpo = decompose(stored, shape, bonds, n=n, gauge=gauge)
        layer = cls(mpo.cores, mpo.shape, dense.padding_idx)
        layer.cores.requires_grad_(stored.requires_grad)
        return layer.train(dense.training)

    def to_dense(self) -> nn.Embedding:
        """The `nn.Embedding` with the rebuilt table; it requires a gradient if any core does."""
        weight = _merged(self.weight.detach(), self.cores)
        dense = nn.Embedding.from_pretrained(weight, freeze=not weight.requires_grad, padding_idx=self.padding_idx)
        return dense.train(self.training)

    def forward(self, input: Int[Tensor, ...]) -> Float[Tensor, "... dim"]:
        """Look up ids; every distinct id is computed once.

        Raises:
            ShapeError: an id is out of range, or the ids are no integers.
        """
        if input.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"MPOEmbedding: the ids are {input.dtype}; expected torch.int64 or torch.int32.")
        ids, places = torch.unique(input, return_inverse=True)
        if len(ids) and not (int(ids[0]) >= 0 and int(ids[-1]) < self.num_embeddings):
            raise ShapeError(
                f"MPOEmbedding: ids from {int(ids[0])} to {int(ids[-1])}; expected 0 to {self.num_embeddings - 1}."
            )
        rows = contract_rows(list(self.cores), self.shape, ids)
        if self.padding_idx is not None:
            rows = torch.where((ids == self.padding_idx).unsqueeze(1), rows.detach(), rows)
        return functional.embedding(places, rows)

    def extra_repr(self) -> str:
        """One line for ``print(model)``."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        sizes = f"{self.num_embeddings}, {self.embedding_dim}{padding}"
        return f"{sizes}, {_factors(self.shape)}, bonds={self.bonds}"


def _as_parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach())


def _merged(weight: Tensor, cores: Iterable[Tensor]) -> nn.Parameter:
    # A copy, as the weight is a view of the padded matrix, or of the only core of an n = 1 operator.
    copy = weight.clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copy, requires_grad=any(core.requires_grad for core in cores))


def _stored_weight(dense: nn.Module) -> Tensor:
    weight: Any = dense.weight
    if not isinstance(weight, Tensor):
        raise UsageError(f"the weight of this {type(dense).__name__} is no tensor; make it a plain layer first.")
    return weight


def _is_conv1d(module: nn.Module) -> bool:
    # By name: transformers is not needed for this, and slow to import.
    return any(
        base.__name__ == "Conv1D" and base.__module__ == "transformers.pytorch_utils" for base in type(module).__mro__
    )


def _factors(shape: MPOShape) -> str:
    return f"row_factors={shape.row_factors}, col_factors={shape.col_factors}"
