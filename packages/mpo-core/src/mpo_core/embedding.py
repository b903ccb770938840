"""Embedding whose table is a matrix product operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mpo_core.decomposition import decompose
from mpo_core.errors import ShapeError, UsageError
from mpo_core.gauge import Core, Gauge
from mpo_core.layer import MPOLayer, factors_text, merged_weight, stored_weight
from mpo_core.lookup import contract_rows
from mpo_core.shapes import MPOShape


class MPOEmbedding(MPOLayer):
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
        stored = stored_weight(dense)
        mpo = decompose(stored, shape, bonds, n=n, gauge=gauge)
        layer = cls(mpo.cores, mpo.shape, dense.padding_idx)
        layer.cores.requires_grad_(stored.requires_grad)
        return layer.train(dense.training)

    def to_dense(self) -> nn.Embedding:
        """The `nn.Embedding` with the rebuilt table; it requires a gradient if any core does."""
        weight = merged_weight(self.weight.detach(), self.cores)
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
        return f"{sizes}, {factors_text(self.shape)}, bonds={self.bonds}"
