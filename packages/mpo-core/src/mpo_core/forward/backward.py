"""What the backward passes of `mpo_core.forward.rebuilt` and `mpo_core.forward.stretches` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def gradients_with_graph(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, as ``create_graph=True`` asks for.

    Args:
        function: computes the output from the inputs, with differentiable operations only.
        inputs: as autograd saved them.
        needed: for which of them a gradient is wanted.
        grad: gradient of the output.

    Returns:
        One gradient for each input, None where it is not wanted.
    """
    # Views, so that an input that was computed from another one takes no share of the other's gradient.
    own = [tensor.view_as(tensor) for tensor in inputs]
    wanted = [tensor for tensor, need in zip(own, needed, strict=True) if need]
    found = iter(torch.autograd.grad(function(*own), wanted, grad, create_graph=True) if wanted else ())
    return [next(found) if need else None for need in needed]


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """No casts in a backward pass that runs inside autocast: its tensors have the dtype of the forward pass."""
    device = like.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


class GradientSum:
    """A gradient that is added up from many products ``first @ second``, in float32 for the half types."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._total: Tensor | None = None

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add one product."""
        total = self._total
        if total is None:
            product = first @ second
            self._total = product.float() if product.dtype.itemsize == 2 else product
        elif total.dtype == first.dtype:
            torch.addmm(total, first, second, out=total)
        else:
            total.add_(first @ second)

    def total(self) -> Tensor | None:
        """The sum so far, in the dtype asked for; None without any product."""
        return None if self._total is None else self._total.to(self._dtype)
