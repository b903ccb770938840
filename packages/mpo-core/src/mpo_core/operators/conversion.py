"""Operators to and from quimb and tensorly, which keep the very same core tensors under other conventions.

- quimb's `MatrixProductOperator` names axes: the upper index of a site (``k0``, ``k1``, ..) is our row digit, the lower
  one (``b0``, ..) our column digit, so that its ``to_dense()`` is the matrix, and its ``apply`` the product with a
  vector. Upper and lower sizes may differ. The two end tensors lack the outer bond of size 1.
- tensorly's `TTMatrix` has the axes of our cores: (bond, row digit, column digit, bond).

Neither knows padding: both see the padded matrix, and the way back takes the true size.
"""

# Neither library has types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mpo_core.errors import MissingPartError, ShapeError, UsageError
from mpo_core.operators.gauge import Core

Backend = Literal["numpy", "torch"]


def cores_to_quimb(cores: Sequence[Core], backend: Backend = "numpy") -> Any:
    """The cores as a `quimb.tensor.MatrixProductOperator`, with the values to the bit.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        backend: ``numpy`` for copies on the CPU, which all of quimb can work with; ``torch`` for the tensors
            themselves, with device and gradients.

    Raises:
        MissingPartError: quimb is not installed.
        UsageError: unknown backend, or a dtype that numpy lacks.
    """
    try:
        import quimb.tensor as qtn
    except ImportError as error:
        raise _missing("quimb", "to_quimb", error) from error
    if backend not in ("numpy", "torch"):
        raise UsageError(f"to_quimb: `backend` is {backend!r}; expected 'numpy' or 'torch'.")
    arrays: list[Any] = [core if backend == "torch" else _as_numpy(core, "to_quimb") for core in cores]
    if len(arrays) == 1:
        return qtn.MatrixProductOperator([arrays[0][0, :, :, 0]], shape="ud")
    # The ends lack the bond that they would not share: 'udr', 'ludr' .., 'lud'.
    return qtn.MatrixProductOperator([arrays[0][0], *arrays[1:-1], arrays[-1][..., 0]], shape="ludr")


def cores_from_quimb(network: Any) -> list[Core]:
    """The cores of an open chain of quimb tensors, one per site, each with an upper and a lower index.

    Args:
        network: a `MatrixProductOperator`, or a `TensorNetwork` of sites 0, 1, .. with indices ``k0, b0, k1, ..``;
            numpy or torch data. Several bonds between two neighbours become one.

    Returns:
        Of shapes ``(d_{k-1}, i_k, j_k, d_k)``; of numpy data, copies.

    Raises:
        MissingPartError: quimb is not installed.
        UsageError: no tensor network, complex numbers, or an exponent kept apart.
        ShapeError: the tensors are not such a chain, as of a periodic operator.
    """
    try:
        import quimb.tensor as qtn
    except ImportError as error:
        raise _missing("quimb", "from_quimb", error) from error
    if not isinstance(network, qtn.TensorNetwork):
        raise UsageError(f"from_quimb: found {type(network).__name__}; expected a quimb TensorNetwork.")
    if network.exponent:
        raise UsageError("from_quimb: the network keeps an exponent apart; call its distribute_exponent() first.")
    sites: list[Any] = list(getattr(network, "sites", range(network.num_tensors)))
    names: list[tuple[str, str]] = [
        (getattr(network, "upper_ind_id", "k{}").format(site), getattr(network, "lower_ind_id", "b{}").format(site))
        for site in sites
    ]
    tensors = [_site_tensor(network, pair) for pair in names]
    if len(tensors) != network.num_tensors or len({id(tensor) for tensor in tensors}) != len(tensors):
        raise ShapeError(f"from_quimb: found {network.num_tensors} tensors for {len(sites)} sites; expected one each.")
    cores: list[Tensor] = []
    before: list[str] = []
    for k, (tensor, pair) in enumerate(zip(tensors, names, strict=True)):
        after = [name for name in tensor.inds if k + 1 < len(tensors) and name in tensors[k + 1].inds]
        if set(tensor.inds) != {*before, *pair, *after} or len(tensor.inds) != len(before) + 2 + len(after):
            raise ShapeError(
                f"from_quimb: site {k} has the indices {tensor.inds}; expected {pair} and bonds to its two neighbours"
                " only, the ends open."
            )
        data = _as_torch(tensor.transpose(*before, *pair, *after).data, "from_quimb")
        sizes = data.shape[: len(before)].numel(), *data.shape[len(before) : len(before) + 2]
        cores.append(data.reshape(*sizes, -1))
        before = after
    return cores


def cores_to_tensorly(cores: Sequence[Core]) -> Any:
    """The cores as a `tensorly.tt_matrix.TTMatrix` in tensorly's active backend, with the values to the bit.

    With the backend ``pytorch`` the factors are the tensors themselves, otherwise copies on the CPU.

    Raises:
        MissingPartError: tensorly is not installed.
        UsageError: a dtype that numpy lacks.
    """
    try:
        import tensorly
        from tensorly.tt_matrix import TTMatrix
    except ImportError as error:
        raise _missing("tensorly", "to_tensorly", error) from error
    if tensorly.get_backend() == "pytorch":
        return TTMatrix(list(cores))
    return TTMatrix([tensorly.tensor(_as_numpy(core, "to_tensorly")) for core in cores])


def cores_from_tensorly(operator: Any) -> list[Core]:
    """The cores of a `tensorly.tt_matrix.TTMatrix`; of numpy data, copies.

    Raises:
        MissingPartError: tensorly is not installed.
        UsageError: no `TTMatrix`, or complex numbers.
    """
    try:
        import tensorly
        from tensorly.tt_matrix import TTMatrix
    except ImportError as error:
        raise _missing("tensorly", "from_tensorly", error) from error
    if not isinstance(operator, TTMatrix):
        raise UsageError(f"from_tensorly: found {type(operator).__name__}; expected a tensorly TTMatrix.")
    factors: list[Any] = list(operator.factors)
    return [
        _as_torch(factor if isinstance(factor, Tensor) else tensorly.to_numpy(factor), "from_tensorly")
        for factor in factors
    ]


def _site_tensor(network: Any, pair: tuple[str, str]) -> Any:
    """The one tensor that holds both indices of a site."""
    owners: set[int] = set(network.ind_map.get(pair[0], ())) | set(network.ind_map.get(pair[1], ()))
    if len(owners) != 1 or not set(pair) <= set(network.tensor_map[next(iter(owners))].inds):
        raise ShapeError(
            f"from_quimb: {len(owners)} tensors hold the indices {pair}; expected one tensor that holds both, also"
            " where their size is 1."
        )
    return network.tensor_map[next(iter(owners))]


def _as_numpy(core: Tensor, where: str) -> Any:
    """A copy of its own, so that neither side changes the other."""
    try:
        return core.detach().cpu().contiguous().numpy().copy()
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"{where}: numpy cannot hold {core.dtype} cores ({error}); convert them first.") from None


def _as_torch(data: Any, where: str) -> Tensor:
    if isinstance(data, Tensor):
        tensor = data
    else:
        import numpy

        tensor = torch.from_numpy(numpy.array(data))
    if not tensor.is_floating_point():
        raise UsageError(f"{where}: the tensors are {tensor.dtype}; expected a real floating dtype.")
    return tensor


def _missing(package: str, where: str, error: ImportError) -> MissingPartError:
    return MissingPartError(f'{where}: {package} cannot be imported ({error}); pip install "mpo-core[{package}]".')
