"""Embedding whose table is a matrix product operator.

Rows are looked up by the digits of their numbers, without the table, or picked from the rebuilt table, whichever is
faster for the ids at hand (`mpo_core.embeddings.embedding_rows`, `mpo_core.embeddings.lookup_cost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mpo_core.decomposing.choices import AnyGauge, DecomposeOptions
from mpo_core.decomposing.decomposition import decompose
from mpo_core.embeddings.embedding_rows import embed_tokens, pick_from_table
from mpo_core.embeddings.lookup_cost import EMBEDDING_STRATEGIES, EmbeddingCost, EmbeddingStrategy, embedding_cost
from mpo_core.embeddings.token_ids import distinct_ids
from mpo_core.errors import ShapeError, UsageError
from mpo_core.forward.layer import MPOLayer, factors_text, merged_weight, stored_weight
from mpo_core.forward.machine import machine_for
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape, is_whole


class MPOEmbedding(MPOLayer):
    """An embedding whose table is in MPO form; drop-in for `nn.Embedding`.

    As `nn.Embedding`, it does not take part in autocast: the output has the dtype of the cores.

    Args:
        cores: as in `MPOLinear`.
        shape: factors of the table; ``rows`` are the embeddings, ``cols`` their dimension.
        padding_idx: as in `nn.Embedding`, rows looked up under this id pass no gradient on. The row is not a
            constant, though: it is made of the cores it shares with others, so it moves when they are
            trained.
        strategy: ``lookup`` computes every distinct row once and never the table; ``rebuild`` makes the table from
            the cores in every pass; ``auto`` does what is estimated to be faster for the ids at hand, see `cost`.
        cache: keep the table in eval mode while no gradient is recorded, and until a core changes. Then rows cost
            what they cost `nn.Embedding`, and as much memory. Inside a compiled graph nothing is kept.

    Raises:
        ShapeError: cores and shape do not fit, or `padding_idx` is out of range.
        UsageError: the strategy is unknown.

    Example:
        >>> layer = MPOEmbedding.from_dense(nn.Embedding(30522, 16), bonds=8)
        >>> layer(torch.tensor([[101, 2023], [102, 0]])).shape
        torch.Size([2, 2, 16])
    """

    def __init__(
        self,
        cores: Sequence[Core],
        shape: MPOShape,
        padding_idx: int | None = None,
        *,
        strategy: EmbeddingStrategy = "auto",
        cache: bool = False,
    ) -> None:
        super().__init__(cores, shape, cache)
        if padding_idx is not None and not (is_whole(padding_idx) and -shape.rows <= padding_idx < shape.rows):
            raise ShapeError(f"MPOEmbedding: padding_idx is {padding_idx}; expected it to be within {shape.rows} rows.")
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % shape.rows
        self.strategy = strategy

    @property
    def num_embeddings(self) -> int:
        """Number of rows of the table."""
        return self.shape.rows

    @property
    def embedding_dim(self) -> int:
        """Size of each embedding."""
        return self.shape.cols

    @property
    def strategy(self) -> EmbeddingStrategy:
        """How rows are computed."""
        return self._strategy

    @strategy.setter
    def strategy(self, value: EmbeddingStrategy) -> None:
        if value not in EMBEDDING_STRATEGIES:
            raise UsageError(f"MPOEmbedding: strategy is {value!r}; expected one of {', '.join(EMBEDDING_STRATEGIES)}.")
        self._strategy: EmbeddingStrategy = value

    @classmethod
    def from_dense(
        cls,
        dense: nn.Module,
        shape: MPOShape | None = None,
        bonds: int | Sequence[int] | None = None,
        *,
        n: int = 5,
        gauge: AnyGauge = "symmetric",
        strategy: EmbeddingStrategy = "auto",
        cache: bool = False,
        **options: Unpack[DecomposeOptions],
    ) -> MPOEmbedding:
        """Decompose the table of an `nn.Embedding`.

        Device, dtype and the training flag are kept, and the cores require a gradient if the table does.

        Args:
            dense: an `nn.Embedding`; it is not changed.
            shape: factors of the table; balanced ones if left out.
            bonds: as in `mpo_core.decompose`.
            n: number of cores where `shape` is left out.
            gauge: as in `mpo_core.decompose`.
            strategy: as for the class.
            cache: as for the class.
            **options: further keywords of `mpo_core.decompose`.

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
        mpo = decompose(stored, shape, bonds, n=n, gauge=gauge, **options)
        layer = cls(mpo.cores, mpo.shape, dense.padding_idx, strategy=strategy, cache=cache)
        layer.cores.requires_grad_(stored.requires_grad)
        return layer.train(dense.training)

    from_embedding = from_dense

    def to_dense(self) -> nn.Embedding:
        """The `nn.Embedding` with the rebuilt table; it requires a gradient if any core does."""
        dense = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        dense.weight = merged_weight(self.weight.detach(), self.cores)
        return dense.train(self.training)

    def forward(self, input: Int[Tensor, ...]) -> Float[Tensor, "... dim"]:
        """The rows of the ids.

        Raises:
            ShapeError: an id is out of range, or the ids are no integers. Ids on a GPU are brought to the host once
                for a lookup, and not at all for a table that is rebuilt or kept: an id out of its range is then the
                error of `nn.Embedding`.
            UsageError: the ids are on another device than the cores.
        """
        cores = self.core_list()
        if input.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"MPOEmbedding: the ids are {input.dtype}; expected torch.int64 or torch.int32.")
        if input.device != cores[0].device:
            raise UsageError(
                f"MPOEmbedding: the ids are on {input.device}, the cores on {cores[0].device}; move one of them."
            )
        kept = self._kept_weight()
        if kept is not None:
            return pick_from_table(input, kept, None)
        return embed_tokens(input, cores, self.shape, strategy=self._strategy, padding_idx=self.padding_idx)

    def cost(self, ids: Int[Tensor, ...] | int, training: bool = False) -> EmbeddingCost:
        """What it costs to look rows up and to rebuild the table; print it for a table.

        Args:
            ids: as `forward` gets them; or a number of distinct ids, which are then drawn evenly, always the same.
            training: with the backward pass, to all cores.

        Raises:
            ShapeError: an id is out of range, or there is none.

        Example:
            >>> shape = MPOShape.choose(30522, 384)
            >>> layer = MPOEmbedding([torch.empty(size) for size in shape.core_shapes(16)], shape)
            >>> layer.cost(512).chosen
            'lookup'
        """
        rows = self.num_embeddings
        if not (ids.dtype in (torch.int64, torch.int32) if isinstance(ids, Tensor) else is_whole(ids)):
            raise ShapeError(f"MPOEmbedding.cost: found {ids!r} for ids; expected integers or their number.")
        if isinstance(ids, Tensor):
            distinct, _ = distinct_ids(ids, rows, "MPOEmbedding.cost")
        else:
            distinct = np.sort(np.random.default_rng(0).permutation(rows)[: max(ids, 0)])
        if not len(distinct) or (isinstance(ids, int) and ids > rows):
            raise ShapeError(f"MPOEmbedding.cost: found {ids} for ids; expected between 1 and {rows} distinct ones.")
        core = self.cores[0]
        machine = machine_for(core.device.type, core.dtype)
        return embedding_cost(
            distinct, self.shape, self.bonds, machine, training, strategy=self._strategy, cache=self._cache
        )

    def extra_repr(self) -> str:
        """One line for ``print(model)``."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        sizes = f"{self.num_embeddings}, {self.embedding_dim}{padding}"
        return f"{sizes}, {factors_text(self.shape)}, bonds={self.bonds}"
