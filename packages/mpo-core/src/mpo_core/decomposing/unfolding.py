"""Products with an unfolding of a tensor, block by block, so that no converted or permuted copy of it is held.

The tensor of a sweep is ``(batch, d_left, I, J, d_right)``: what is left of the matrix between two bonds. Splitting
``I = I_a I_b`` and ``J = J_a J_b`` gives the unfolding with the left side ``(d_left, I_a, J_a)`` and the right side
``(I_b, J_b, d_right)``. It is never formed: blocks of it are copied out of the strided view, which also brings them
into the working dtype, and stay in the cache until they are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Side = Literal["left", "right"]
Block = tuple[tuple[slice, ...], Tensor]

_BLOCK_BYTES = 1 << 21
"""About the share of a cache that one core has: blocks of this size are still there when they are multiplied."""
_DEVICE_BLOCK_BYTES = 1 << 28
"""On an accelerator, which wants few and large operations."""
_HELD_BLOCKS = 4
"""A matrix of at most this many blocks is converted once and held for the second pass over it."""
_STRIPES = 4
"""Block rows of a Gram matrix; only those right of the diagonal are computed (there is no syrk in torch)."""
_LEAST_STRIPE = 32
"""Narrower stripes cost more in calls than they save in products."""


def block_bytes(device: torch.device) -> int:
    """The size of the blocks in which tensors are gone over."""
    return _BLOCK_BYTES if device.type == "cpu" else _DEVICE_BLOCK_BYTES


def split_axis(tensor: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """View one axis as several."""
    return tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


@dataclass(frozen=True)
class Unfolding:
    """A tensor with its rows and columns split in two.

    Attributes:
        view: ``(batch, d_left, I_a, J_a, I_b, J_b, d_right)``, any strides, any floating dtype.
        dtype: what it is multiplied in.
    """

    view: Float[Tensor, "batch dl ia ja ib jb dr"]
    dtype: torch.dtype
    _held: dict[Side, list[Block]] = field(
        default_factory=dict[Side, list[Block]], init=False, compare=False, repr=False
    )

    @classmethod
    def split(cls, tensor: Float[Tensor, "batch dl i j dr"], rows: int, cols: int, dtype: torch.dtype) -> Unfolding:
        """Unfold a tensor so that the left side has `rows` of the rows and `cols` of the columns."""
        view = split_axis(split_axis(tensor, 3, (cols, -1)), 2, (rows, -1))
        return cls(view.permute(0, 1, 2, 4, 3, 5, 6), dtype)

    def size(self, side: Side) -> int:
        """Number of indices of one side."""
        shape = self.view.shape
        return math.prod(shape[1:4] if side == "left" else shape[4:7])

    def element(self, index: int) -> Unfolding:
        """One of the batch, as a batch of one."""
        return Unfolding(self.view[index : index + 1], self.dtype)

    def blocks(self, side: Side) -> Iterable[Block]:
        """Blocks of the matrix of one side, that is, of the unfolding that has this side whole.

        Returns:
            For each block its place in the other side's three axes, and the values in the working dtype, contiguous:
            ``(batch, size, c)`` for the left side and ``(batch, c, size)`` for the right one.
        """
        if self.view.numel() * self.dtype.itemsize > _HELD_BLOCKS * block_bytes(self.view.device):
            return self._copied_blocks(side, keep=False)
        if side not in self._held:
            self._held[side] = list(self._copied_blocks(side, keep=True))
        return self._held[side]

    def _copied_blocks(self, side: Side, keep: bool) -> Iterator[Block]:
        """The blocks; unless they are to be kept, each takes the memory of the one before."""
        first = 4 if side == "left" else 1
        extents = self.view.shape[first : first + 3]
        total, limit = self.view.numel() * self.dtype.itemsize, block_bytes(self.view.device)
        # Cutting an outer axis leaves long runs of neighbouring entries to copy.
        fine = [k for k in range(3) if total <= extents[k] * limit]
        axis = fine[0] if fine else max(range(3), key=lambda k: extents[k])
        step = -(-extents[axis] // min(extents[axis], -(-total // limit)))
        buffer = self.view.new_empty(0, dtype=self.dtype)
        for start in range(0, extents[axis], step):
            place = [slice(None)] * 3
            place[axis] = slice(start, start + step)
            part = self.view.narrow(first + axis, start, min(step, extents[axis] - start))
            if part.dtype == self.dtype and part.is_contiguous():
                block = part
            else:
                if keep or buffer.numel() < part.numel():
                    buffer = self.view.new_empty(part.numel(), dtype=self.dtype)
                block = buffer[: part.numel()].view(part.shape).copy_(part)
            # Sizes of its two sides; one of them is whole.
            yield tuple(place), block.reshape(part.shape[0], part.shape[1:4].numel(), part.shape[4:].numel())

    def gram(self, side: Side) -> Float[Tensor, "batch size size"]:
        """The Gram matrix of one side, ``X X^T`` for the left and ``X^T X`` for the right one."""
        size, count = self.size(side), self.view.shape[0]
        result = torch.zeros(count, size, size, dtype=self.dtype, device=self.view.device)
        stripes = min(_STRIPES, max(1, size // _LEAST_STRIPE))
        edges = [size * k // stripes for k in range(stripes + 1)]
        for _, block in self.blocks(side):
            rows = block if side == "left" else block.mT
            for start, stop in pairwise(edges):
                result[:, start:stop, start:] += rows[:, start:stop] @ rows[:, start:].mT
        upper = result.triu()
        return upper + upper.triu(1).mT

    def triangle(self, side: Side) -> Float[Tensor, "batch q size"]:
        """The triangle ``R`` of a QR decomposition of the matrix of one side, standing upright.

        ``R^T R`` is the Gram matrix, but nothing is squared; ``q = min(size, other size)``. Block after block is put
        below the triangle so far, and the whole is brought to triangular form again.
        """
        size = self.size(side)
        result = torch.empty(self.view.shape[0], 0, size, dtype=self.dtype, device=self.view.device)
        for _, block in self.blocks(side):
            stack = torch.cat([result, block.mT if side == "left" else block], dim=1)
            result = torch.geqrf(stack)[0][:, :size].triu()
        return result

    def project(
        self, side: Side, basis: Float[Tensor, "batch size d"], out_dtype: torch.dtype | None = None
    ) -> Float[Tensor, "batch dl i j dr"]:
        """The tensor with one side expressed in a basis.

        Args:
            side: which.
            basis: orthonormal columns.
            out_dtype: what the result is stored in; the working dtype if left out.

        Returns:
            ``(batch, d, I_b, J_b, d_right)`` for the left side, ``(batch, d_left, I_a, J_a, d)`` for the right one.
        """
        shape, d = self.view.shape, basis.shape[-1]
        sizes = (shape[0], d, *shape[4:7]) if side == "left" else (*shape[:4], d)
        result = torch.empty(sizes, dtype=out_dtype or self.dtype, device=self.view.device)
        for place, block in self.blocks(side):
            if side == "left":
                part = result[:, :, *place]
                part.copy_((basis.mT @ block).reshape(part.shape))
            else:
                part = result[:, *place]
                part.copy_((block @ basis).reshape(part.shape))
        return result
