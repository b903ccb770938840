"""Decompose a layer so that its outputs stay close, not its weights.

With inputs x of second moment ``C = E[x x^T]``, a changed weight changes the outputs by
``E||(W - W') x||^2 = ||(W - W') C^{1/2}||_F^2``. For a truncated SVD one multiplies W by ``C^{1/2}`` first and divides
afterwards. That is no way here: the division would bring the bonds back up. So the start is the better of a plain
decomposition and one weighted by the Kronecker product nearest to C (`mpo_core.budgets.kronecker`); then one core after
the other is improved by least squares with C itself (`mpo_core.budgets.output_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mpo_core.budgets.kronecker import column_weights, roots, unweighted_cores, weighted_columns
from mpo_core.budgets.output_fit import OutputFit
from mpo_core.decomposing.decomposition import decompose
from mpo_core.decomposing.matrices import checked_matrix, checked_shape
from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.models.targets import Target
from mpo_core.operators.gauge import Core, Gauge, canonical_cores
from mpo_core.operators.mpo import MPO
from mpo_core.shapes import MPOShape, is_whole

Covariance = Float[Tensor, "cols cols"]


@torch.no_grad()
def collect_covariances(
    model: nn.Module,
    targets: Sequence[Target],
    batches: Iterable[Mapping[str, Tensor] | Tensor],
    *,
    max_tokens: int | None = None,
) -> dict[str, Covariance]:
    """The second moment ``E[x x^T]`` of the inputs of every linear layer, over the tokens of some batches.

    The mean is not subtracted: it is part of what the weight acts on. Where a batch has an ``attention_mask``, inputs
    of masked tokens are left out. Embeddings have no input vectors and are skipped; how often each row is looked up
    would be a weight of the *rows*, which is another thing. The model runs in evaluation mode without gradients, and is
    left in the modes it was in.

    Args:
        model: is called with ``model(**batch)``, or ``model(batch)`` for a tensor.
        targets: from `mpo_core.find_targets`.
        batches: of inputs, on the device of the model; read as far as needed.
        max_tokens: stop after the batch that brings a layer to this number of (unmasked) tokens.

    Returns:
        Name of each linear target -> (cols, cols), float64, on the device of the inputs.

    Raises:
        UsageError: a target was never called with a token, or `max_tokens` is no positive integer.
        NonFiniteError: the inputs of a layer hold NaN or infinity.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> moments = collect_covariances(model, [Target("0", model[0], "linear", 3, 4)], [torch.eye(4)])
        >>> torch.equal(moments["0"], torch.eye(4, dtype=torch.float64) / 4)
        True
    """
    if max_tokens is not None and (not is_whole(max_tokens) or max_tokens < 1):
        raise UsageError(f"collect_covariances: `max_tokens` is {max_tokens!r}; expected a positive integer or None.")
    moments = {target.name: _Moment() for target in targets if target.kind != "embedding"}
    masks: list[Tensor | None] = []
    handles = [
        target.module.register_forward_pre_hook(_hook(moments[target.name], masks))
        for target in targets
        if target.kind != "embedding"
    ]
    try:
        with _evaluation(model):
            for batch in batches:
                masks[:] = [batch.get("attention_mask") if isinstance(batch, Mapping) else None]
                model(**batch) if isinstance(batch, Mapping) else model(batch)
                if max_tokens is not None and max((m.count for m in moments.values()), default=0) >= max_tokens:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return {name: moment.mean(name) for name, moment in moments.items()}


@torch.no_grad()
def decompose_for_outputs(
    matrix: Float[Tensor, "rows cols"],
    covariance: Covariance,
    shape: MPOShape | None = None,
    bonds: int | Sequence[int] | None = None,
    *,
    n: int = 5,
    gauge: Gauge = "symmetric",
    sweeps: int = 2,
    damping: float = 1e-4,
) -> MPO:
    """Decompose a matrix so that ``||(W - W') C^{1/2}||_F`` becomes small at given bonds.

    Args:
        matrix: W, (out_features, in_features).
        covariance: C, symmetric and positive semidefinite; see `collect_covariances`.
        shape: the factors; ``MPOShape.choose(rows, cols, n)`` if left out.
        bonds: cap of all bonds, one for each, or ``None`` for full bonds, which lose nothing. A bond above the rank
            that its neighbours allow becomes that.
        n: number of cores where `shape` is left out.
        gauge: of the result, see `mpo_core.canonical_cores`.
        sweeps: passes over all cores, from left to right and from right to left in turn; 0 is the start alone.
        damping: this share of the mean of C's diagonal is added to the diagonal, so that directions which the
            batches did not have still count a little.

    Returns:
        The operator, in the dtype and on the device of the matrix.

    Raises:
        ShapeError: the covariance is not (cols, cols).
        NonFiniteError: the covariance holds NaN or infinity.
        UsageError: the covariance is not symmetric or has a negative diagonal, or `sweeps` or `damping` is negative.
        MPOError: as `mpo_core.decompose`.

    Example:
        >>> weight, inputs = torch.randn(16, 12), torch.randn(100, 12)
        >>> decompose_for_outputs(weight, inputs.T @ inputs / 100, bonds=3, n=3).bonds
        (3, 3)
    """
    if not is_whole(sweeps) or sweeps < 0:
        raise UsageError(f"decompose_for_outputs: `sweeps` is {sweeps!r}; expected a whole number of at least 0.")
    values, largest = checked_matrix(matrix, "decompose_for_outputs")
    shape = checked_shape(values, shape, n, "decompose_for_outputs")
    weight = damped_covariance(covariance, shape.cols, damping).to(values.device)
    # Neither the bonds nor the best cores depend on scales; a power of two keeps all squares in range.
    power = math.frexp(largest)[1]
    exact = torch.ldexp(values.double(), torch.tensor(-power, device=values.device))
    plain = decompose(exact, shape, bonds, gauge="right")
    cores = list(plain.cores)
    if plain.bonds != shape.full_bonds:
        factors = [roots(factor) for factor in column_weights(weight, shape)]
        weighted = decompose(*weighted_columns(exact, [root for root, _ in factors], shape), bonds, gauge="right")
        unweighted = unweighted_cores(weighted.cores, [inverse for _, inverse in factors])
        fit = OutputFit(exact, weight, shape)
        starts = [cores, canonical_cores(unweighted, "right")[0]]
        cores = fit.improve(min(starts, key=lambda start: fit.error(MPO(start, shape).to_matrix())), sweeps)
    cores[0] = torch.ldexp(cores[0], torch.tensor(power, device=values.device))
    return MPO(_in_dtype(canonical_cores(cores, gauge)[0], matrix.dtype), shape)


def damped_covariance(covariance: Covariance, cols: int, damping: float = 1e-4) -> Covariance:
    """A covariance in float64, exactly symmetric, scaled to a mean diagonal of 1, with `damping` added to the diagonal.

    A covariance of zeros, of inputs that say nothing, becomes the identity: all directions count the same.

    Raises:
        MPOError: as `decompose_for_outputs`.
    """
    if tuple(covariance.shape) != (cols, cols):
        raise ShapeError(
            f"decompose_for_outputs: `covariance` has the shape {tuple(covariance.shape)}; expected ({cols}, {cols}),"
            " one entry per pair of columns of `matrix`."
        )
    if not 0 <= damping < math.inf:
        raise UsageError(f"decompose_for_outputs: `damping` is {damping!r}; expected a finite number of at least 0.")
    if covariance.is_complex():
        raise UsageError(f"decompose_for_outputs: `covariance` is {covariance.dtype}; expected real numbers.")
    exact = covariance.detach().double()
    if not exact.isfinite().all():
        raise NonFiniteError("decompose_for_outputs: `covariance` holds NaN or infinity; expected finite numbers.")
    scale = float(exact.abs().max())
    if float((exact - exact.T).abs().max()) > 1e-5 * scale or float(exact.diagonal().min()) < 0:
        raise UsageError(
            "decompose_for_outputs: `covariance` is not symmetric with a non-negative diagonal; expected E[x x^T]."
        )
    eye = torch.eye(cols, dtype=exact.dtype, device=exact.device)
    if scale == 0:
        return eye
    exact = exact / scale
    return (exact + exact.T) / (2 * exact.diagonal().mean()) + damping * eye


def _in_dtype(cores: Sequence[Core], dtype: torch.dtype) -> list[Core]:
    cast = [core.to(dtype) for core in cores]
    for k, core in enumerate(cast):
        if not core.isfinite().all():
            raise NonFiniteError(
                f"decompose_for_outputs: core {k} in this gauge has entries which {dtype} cannot hold; convert the"
                " matrix to float32 first, or scale it down."
            )
    return cast


class _Moment:
    """The sum of x x^T over tokens."""

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def add(self, inputs: Tensor, mask: Tensor | None) -> None:
        if mask is not None and mask.shape == inputs.shape[:-1]:
            inputs = inputs[mask.bool()]
        rows = inputs.reshape(-1, inputs.shape[-1]).double()
        self.total = self.total.to(rows.device) + rows.T @ rows
        self.count += len(rows)

    def mean(self, name: str) -> Covariance:
        if self.count == 0:
            raise UsageError(
                f"collect_covariances: the layer {name!r} received no token; give batches that reach it, or leave it"
                " out of the targets."
            )
        if not self.total.isfinite().all():
            raise NonFiniteError(f"collect_covariances: the inputs of the layer {name!r} hold NaN or infinity.")
        return self.total / self.count


def _hook(moment: _Moment, masks: Sequence[Tensor | None]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        moment.add(inputs[0], masks[0])

    return add


@contextmanager
def _evaluation(model: nn.Module) -> Generator[None]:
    """Evaluation mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
