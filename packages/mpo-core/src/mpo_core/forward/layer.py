"""What every layer in MPO form shares: the cores, and the matrix they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpo_core.errors import UsageError
from mpo_core.forward.applying import any_requires_grad
from mpo_core.forward.weight_cache import WeightCache
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.gauge import Core
from mpo_core.operators.mpo import MPO
from mpo_core.operators.operands import check_cores
from mpo_core.shapes import MPOShape


class MPOLayer(nn.Module):
    """What both layers share: the cores, the matrix they stand for, and whether it is kept."""

    def __init__(self, cores: Sequence[Core], shape: MPOShape, cache: bool = False) -> None:
        super().__init__()
        check_cores(cores, shape)
        self.shape = shape
        self.cores = nn.ParameterList(as_parameter(core) for core in cores)
        self._kept = WeightCache()
        self.cache = cache

    @property
    def bonds(self) -> tuple[int, ...]:
        """The ``n - 1`` bond dimensions."""
        return tuple(core.shape[-1] for core in list(self.cores)[:-1])

    @property
    def cache(self) -> bool:
        """Whether the matrix is kept in eval mode."""
        return self._cache

    @cache.setter
    def cache(self, value: bool) -> None:
        if value is not True and value is not False:
            raise UsageError(f"{type(self).__name__}: cache is {value!r}; expected True or False.")
        self._cache = value
        self.drop_cache()

    def drop_cache(self) -> None:
        """Let go of the kept matrix; the next call in eval mode builds it again."""
        self._kept.clear()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; the kept matrix is let go."""
        if mode:
            self.drop_cache()
        return super().train(mode)

    def core_list(self) -> list[Tensor]:
        """The cores; as ``list(layer.cores)``, which takes ten times as long."""
        return list(self.cores) if torch.compiler.is_compiling() else self._registered_cores()

    def _registered_cores(self) -> list[Tensor]:
        registered = self.__dict__["_modules"]["cores"].__dict__["_parameters"]
        # Some may be elsewhere: parametrized, or sharded.
        return list(registered.values()) if len(registered) == self.shape.n else list(self.cores)

    @property
    def weight(self) -> Float[Tensor, "rows cols"]:
        """The matrix: the kept one where it may be used, else rebuilt from the cores, differentiable."""
        kept = self._kept_weight()
        return contract_matrix(self.core_list(), self.shape) if kept is None else kept

    def _kept_weight(self) -> Float[Tensor, "rows cols"] | None:
        """The kept matrix, built first if need be; None where none may be used now.

        It may be in eval mode with `cache`, while no gradient reaches the cores, and not in a graph that is compiled.
        """
        # `is_compiling` takes 4 us more where its code is in no cache; `WeightCache.get` asks it.
        if not self._cache or self.training or torch.compiler.is_dynamo_compiling():
            return None
        cores = self._registered_cores()
        if torch.is_grad_enabled() and any_requires_grad(cores):
            return None
        kept = self._kept.current(cores)
        return self._kept.get(cores, lambda: self._built(cores)) if kept is None else kept

    def _built(self, cores: Sequence[Tensor]) -> Tensor:
        """The matrix, in memory of its own."""
        matrix = contract_matrix(cores, self.shape)
        # One core is the matrix itself.
        return matrix.clone() if self.shape.n == 1 else matrix.contiguous()

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
