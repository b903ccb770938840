"""What every layer in MPO form shares: the cores, and the matrix they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpo_core.errors import UsageError
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.gauge import Core
from mpo_core.operators.mpo import MPO
from mpo_core.operators.operands import check_cores
from mpo_core.shapes import MPOShape


class MPOLayer(nn.Module):
    """What both layers share: the cores and the matrix they stand for."""

    def __init__(self, cores: Sequence[Core], shape: MPOShape) -> None:
        super().__init__()
        check_cores(cores, shape)
        self.shape = shape
        self.cores = nn.ParameterList(as_parameter(core) for core in cores)

    @property
    def bonds(self) -> tuple[int, ...]:
        """The ``n - 1`` bond dimensions."""
        return tuple(core.shape[-1] for core in list(self.cores)[:-1])

    def core_list(self) -> list[Tensor]:
        """The cores; as ``list(layer.cores)``, which takes ten times as long."""
        if torch.compiler.is_compiling():
            return list(self.cores)
        registered = self.__dict__["_modules"]["cores"].__dict__["_parameters"]
        # Some may be elsewhere: parametrized, or sharded.
        return list(registered.values()) if len(registered) == self.shape.n else list(self.cores)

    @property
    def weight(self) -> Float[Tensor, "rows cols"]:
        """The matrix, rebuilt from the cores at every access; differentiable."""
        return contract_matrix(list(self.cores), self.shape)

    def mpo(self) -> MPO:
        """The operator, with the layer's own parameters as cores (no copy)."""
        return MPO(list(self.cores), self.shape)


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """The tensor as a leaf parameter; a parameter stays the very object it is."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach())


def merged_weight(weight: Tensor, cores: Iterable[Tensor]) -> nn.Parameter:
    """The rebuilt weight as a parameter of its own, trained if any core is."""
    # A copy, as the weight is a view of the padded matrix, or of the only core of an n = 1 operator.
    copy = weight.clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copy, requires_grad=any(core.requires_grad for core in cores))


def stored_weight(dense: nn.Module) -> Tensor:
    """The weight of a dense layer.

    Raises:
        UsageError: it is no tensor, as in quantized layers.
    """
    weight: Any = dense.weight
    if not isinstance(weight, Tensor):
        raise UsageError(f"the weight of this {type(dense).__name__} is no tensor; make it a plain layer first.")
    return weight


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is a `transformers` ``Conv1D``, whose weight is stored as (in, out)."""
    # By name: transformers is not needed for this, and slow to import.
    return any(
        base.__name__ == "Conv1D" and base.__module__ == "transformers.pytorch_utils" for base in type(module).__mro__
    )


def factors_text(shape: MPOShape) -> str:
    """The factors, for ``print(model)``."""
    return f"row_factors={shape.row_factors}, col_factors={shape.col_factors}"
