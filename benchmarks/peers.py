"""Other decomposers behind one small table: a matrix in, cores out.

Each peer is called as its documentation says, with the same factors and the same largest bonds. Two references are
ours: the textbook sweep of full singular value decompositions, and the three sweeps of the authors of the MPO papers,
written afresh from the published steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from interleaved import installed
from torch import Tensor

from mpo_core import MPOShape

Decompose = Callable[[Tensor, MPOShape, Sequence[int]], list[Tensor]]


@dataclass(frozen=True)
class Peer:
    """One decomposer.

    Attributes:
        name: for tables.
        run: matrix, factors and bonds to cores ``(d_{k-1}, i_k, j_k, d_k)``.
        distribution: what has to be installed; None for the references.
        accurate: truncates as well as singular value decompositions do.
        memory: about how many times the matrix it holds at once; where that is too much it is left out.
    """

    name: str
    run: Decompose
    distribution: str | None = None
    accurate: bool = True
    memory: float = 8.0


def paired_digits(matrix: Tensor, shape: MPOShape) -> Tensor:
    """The matrix as ``(s_1, .., s_n)``, ``s_k = i_k j_k``."""
    n = shape.n
    digits = matrix.reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(n) for axis in (k, n + k)])
    return digits.reshape([i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)])


def textbook(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    """TT-SVD: full singular value decompositions from the left (Oseledets 2011, Algorithm 1)."""
    rest, left = paired_digits(matrix, shape), 1
    cores: list[Tensor] = []
    for rows, cols, bond in zip(shape.row_factors, shape.col_factors, bonds, strict=False):
        u, values, vh = torch.linalg.svd(rest.reshape(left * rows * cols, -1), full_matrices=False)
        kept = min(bond, len(values))
        cores.append(u[:, :kept].reshape(left, rows, cols, kept))
        rest, left = values[:kept, None] * vh[:kept], kept
    return [*cores, rest.reshape(left, shape.row_factors[-1], shape.col_factors[-1], 1)]


def authors(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    """The papers' algorithm: an exact sweep, two sweeps for the symmetric gauge, then all bonds cut at once."""
    cores = textbook(matrix, shape, shape.full_bonds)
    n = shape.n
    before: list[Tensor] = []
    carry = cores[0].new_ones(1, 1)
    for core in cores[:-1]:
        _, values, vh = torch.linalg.svd(torch.tensordot(carry, core, 1).flatten(0, 2), full_matrices=False)
        carry = values[:, None] * vh
        before.append(carry)
    after: list[Tensor] = []
    carry = cores[0].new_ones(1, 1)
    for core in reversed(cores[1:]):
        u, values, _ = torch.linalg.svd(torch.tensordot(core, carry, 1).flatten(1), full_matrices=False)
        carry = u * values
        after.insert(0, carry)
    for k, (left, right) in enumerate(zip(before, after, strict=True)):
        u, values, vh = torch.linalg.svd(left @ right, full_matrices=False)
        root = values.rsqrt()
        cores[k] = torch.tensordot(cores[k], right @ vh.T * root, 1)
        cores[k + 1] = torch.tensordot(root[:, None] * u.T @ left, cores[k + 1], 1)
    ends = (1, *bonds, 1)
    return [cores[k][: ends[k], :, :, : ends[k + 1]] for k in range(n)]


def _tensorly_on_torch() -> AbstractContextManager[None]:
    import tensorly

    library: Any = tensorly
    return library.backend_context("pytorch")


def _tensorly(matrix: Tensor, shape: MPOShape, bonds: Sequence[int], svd: str = "truncated_svd") -> list[Tensor]:
    from tensorly.decomposition import tensor_train_matrix

    with _tensorly_on_torch():
        tensor = matrix.reshape(*shape.row_factors, *shape.col_factors)
        return list(tensor_train_matrix(tensor, [1, *bonds, 1], svd=svd))


def _tensorly_random(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    return _tensorly(matrix, shape, bonds, "randomized_svd")


def _tensorly_torch(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    from tltorch.factorized_tensors.tensorized_matrices import TensorizedTensor  # pyright: ignore[reportMissingImports]

    with _tensorly_on_torch():
        tensorized: Any = TensorizedTensor.from_matrix(
            matrix, shape.row_factors, shape.col_factors, rank=[1, *bonds, 1], factorization="BlockTT"
        )
    return [factor.detach() for factor in tensorized.factors]


def _quimb(matrix: Tensor, shape: MPOShape, bonds: Sequence[int], method: str = "svd") -> list[Tensor]:
    import quimb.tensor as qtn

    digits = paired_digits(matrix, shape)
    data: Any = digits.numpy() if method == "rsvd" else digits
    rest: Any = qtn.Tensor(data, inds=[f"s{k}" for k in range(shape.n)])
    cores: list[Any] = []
    left: tuple[str, ...] = ()
    for k, bond in enumerate(bonds):
        inds = (*left, f"s{k}")
        core, rest = rest.split(
            inds, method=method, max_bond=bond, cutoff=0.0, absorb="right", bond_ind=f"b{k}", get="tensors"
        )
        cores.append(core.transpose(*inds, f"b{k}").data)
        left = (f"b{k}",)
    cores.append(rest.transpose(*left, f"s{shape.n - 1}").data)
    ends = (1, *bonds, 1)
    sizes = zip(cores, shape.row_factors, shape.col_factors, strict=True)
    return [torch.as_tensor(core).reshape(ends[k], rows, cols, -1) for k, (core, rows, cols) in enumerate(sizes)]


def _quimb_random(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    return _quimb(matrix, shape, bonds, "rsvd")  # written for numpy arrays


def _tensorkrowch(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    from tensorkrowch.decompositions import mat_to_mpo  # pyright: ignore[reportMissingImports]

    n = shape.n
    digits = matrix.reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(n) for axis in (k, n + k)])
    cores = mat_to_mpo(digits, rank=max(bonds))  # one cap for all
    # It puts the axes as (left, row, right, column), without the outer bonds.
    first, *inner, last = cores
    return [
        first.permute(0, 2, 1)[None],
        *(core.permute(0, 1, 3, 2) for core in inner),
        last.reshape(last.shape[0], shape.row_factors[-1], shape.col_factors[-1], 1),
    ]


def _tntorch(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    import tntorch  # pyright: ignore[reportMissingImports]

    found = tntorch.TTMatrix(matrix, list(bonds), list(shape.row_factors), list(shape.col_factors))
    return list(found.cores)


def _torchtt(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its C++ part is not built
        import torchtt  # pyright: ignore[reportMissingImports]

        library: Any = torchtt
        pairs = list(zip(shape.row_factors, shape.col_factors, strict=True))
        digits = matrix.reshape(*shape.row_factors, *shape.col_factors)
        return list(library.TT(digits, pairs, eps=1e-12, rmax=[1, *bonds, 1]).cores)


PEERS = (
    Peer("textbook sweep", textbook),
    Peer("authors' sweeps", authors),
    Peer("tensorly", _tensorly, "tensorly"),
    Peer("tensorly randomized", _tensorly_random, "tensorly", accurate=False),
    Peer("tensorly-torch", _tensorly_torch, "tensorly-torch"),
    Peer("quimb svd", _quimb, "quimb"),
    Peer("quimb rsvd", _quimb_random, "quimb", accurate=False),
    Peer("TensorKrowch", _tensorkrowch, "tensorkrowch"),
    Peer("tntorch", _tntorch, "tntorch", memory=42.0),
    Peer("torchTT", _torchtt, "torchtt"),
)


def available_peers() -> tuple[dict[str, Peer], list[str]]:
    """The peers that are installed by name, and the distributions that are not."""
    found = {peer.name: peer for peer in PEERS if peer.distribution is None or installed(peer.distribution)}
    missing = sorted({peer.distribution for peer in PEERS if peer.distribution and peer.name not in found})
    return found, missing


DISTRIBUTIONS = tuple(sorted({peer.distribution for peer in PEERS if peer.distribution}))
"""Whose versions the records name."""
