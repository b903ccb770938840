"""Keep the matrix that a layer's cores stand for, as long as none of the cores changes.

Every change that PyTorch records raises a tensor's version (``_version``): optimizer steps, `load_state_dict`,
anything in place. A core that is exchanged is another object, and ``module.to(...)``, ``param.data = ...`` give it
other memory. So object, version and memory address of the cores tell whether a kept matrix is still theirs. Fused
optimizers raise no version: after a step of any optimizer every matrix is built again. What PyTorch does not record
cannot be seen: writing in place through ``param.data`` or a NumPy view. `WeightCache.clear` is for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpo_core.forward import optimizer_steps
from mpo_core.forward.backward import without_autocast

_WATCHED = (Tensor, nn.Parameter)


class _Watched(NamedTuple):
    """A core as it was when the matrix was built; the alias keeps its address from being given to new memory."""

    core: Tensor
    version: int
    address: int
    alias: Tensor


class _Kept(NamedTuple):
    """A matrix, the cores it was built from, and how many steps optimizers had taken."""

    matrix: Tensor
    version: int
    cores: list[_Watched]
    steps: int


class WeightCache:
    """The matrix of one set of cores, built again as soon as one of them has changed.

    A copy of the cache, by `copy.deepcopy` or pickle, is empty: it belongs to other cores.

    Example:
        >>> cores, cache = [torch.ones(2)], WeightCache()
        >>> cache.get(cores, lambda: 3 * cores[0]) is cache.get(cores, lambda: 3 * cores[0])
        True
        >>> _ = cores[0].mul_(2)
        >>> cache.get(cores, lambda: 3 * cores[0])
        tensor([6., 6.])
    """

    __slots__ = ("_entry",)

    def __init__(self) -> None:
        # Exchanged as a whole, so that threads never see half of an update.
        self._entry: _Kept | None = None

    def current(self, cores: Sequence[Tensor]) -> Tensor | None:
        """The kept matrix, if there is one and it is still that of these cores.

        Args:
            cores: as for `get`.
        """
        # This runs at every call of a layer, between products that drive all code out of the processor's caches.
        entry = self._entry
        if entry is None:
            return None
        matrix, made, watched, steps = entry
        if steps != optimizer_steps.taken or matrix._version != made or len(cores) != len(watched):
            return None
        try:
            for core, (kept, version, address, _) in zip(cores, watched, strict=True):
                if core is not kept or core._version != version or core.data_ptr() != address:
                    return None
        except RuntimeError:  # no version, or no memory
            return None
        return matrix

    def get(self, cores: Sequence[Tensor], build: Callable[[], Tensor]) -> Tensor:
        """The kept matrix, or the one that `build` returns; it records no gradient.

        One that somebody has written to is built again.

        Nothing is kept where changes cannot be watched: for cores without a version or an address of their own
        (made in inference mode, inside `torch.func`, subclasses of tensors), and under `torch.compile` and
        `torch.export`, where the matrix becomes part of the graph.

        Args:
            cores: the core tensors, as a list or tuple: iterating over an `nn.ParameterList` is the slow part.
            build: computes the matrix from the cores.

        Returns:
            The matrix, of whatever shape `build` gives it.
        """
        if torch.compiler.is_compiling():
            return _without_keeping(cores, build)
        matrix = self.current(cores)
        if matrix is not None:
            return matrix
        if not all(type(core) in _WATCHED for core in cores):
            return _without_keeping(cores, build)
        steps = optimizer_steps.taken
        try:
            states = [(core, core._version, core.data_ptr()) for core in cores]
        except RuntimeError:  # no version, or no memory
            return _without_keeping(cores, build)
        self._entry = None  # frees the old matrix before the new one is built
        # A matrix made in inference mode could not be used for training what comes after it, and one made under
        # autocast would be rounded for all times.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(cores[0]):
            matrix = build()
            watched = [_Watched(*state, state[0].detach()) for state in states]
        self._entry = _Kept(matrix, matrix._version, watched, steps)
        return matrix

    def clear(self) -> None:
        """Let go of the matrix."""
        self._entry = None

    def __bool__(self) -> bool:
        """Whether a matrix is kept, of the present cores or of earlier ones."""
        return self._entry is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightCache:
        return WeightCache()

    def __reduce__(self) -> tuple[type[WeightCache], tuple[()]]:
        return WeightCache, ()


def _without_keeping(cores: Sequence[Tensor], build: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad(), without_autocast(cores[0]):
        return build()
