"""Keep the matrix that a layer's cores stand for, as long as none of the cores changes.

Every change that PyTorch records raises a tensor's version (``_version``): optimizer steps, `load_state_dict`,
anything in place. A core that is exchanged is another object, and ``module.to(...)``, ``param.data = ...`` give it
other memory or another dtype. So object, version, memory address and dtype of the cores tell whether a kept
matrix is still theirs; a hit costs about a microsecond. What PyTorch does not record cannot be seen: writing in
place through ``param.data`` or a NumPy view. `WeightCache.clear` is for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from mpo_core.forward.backward import without_autocast

_state: Callable[[Tensor], tuple[int, torch.dtype]] = attrgetter("_version", "dtype")
_address = Tensor.data_ptr
_WATCHED = (Tensor, nn.Parameter)


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
        # One tuple, exchanged as a whole, so that threads never see half of an update: the cores, their states and
        # addresses, the matrix and its state, and aliases of the cores, which keep an address from being given to
        # new memory.
        self._entry: tuple[list[Tensor], list[Any], list[int], Tensor, Any, list[Tensor]] | None = None

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
        entry = self._entry
        try:
            if (
                entry is not None
                and len(cores) == len(entry[0])
                and all(map(is_, cores, entry[0]))
                and list(map(_state, cores)) == entry[1]
                and list(map(_address, cores)) == entry[2]
                and _state(entry[3]) == entry[4]
            ):
                return entry[3]
            if not all(type(core) in _WATCHED for core in cores):
                return _without_keeping(cores, build)
            kept = list(cores)
            states, addresses = list(map(_state, kept)), list(map(_address, kept))
        except RuntimeError:  # no version, or no memory
            return _without_keeping(cores, build)
        self._entry = None  # frees the old matrix before the new one is built
        # A matrix made in inference mode could not be used for training what comes after it, and one made under
        # autocast would be rounded for all times.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(kept[0]):
            weight = build()
            aliases = [core.detach() for core in kept]
        self._entry = (kept, states, addresses, weight, _state(weight), aliases)
        return weight

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
