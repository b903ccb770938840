"""Put layers of a model into MPO form in place, and back; tied weights stay tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from mpo_core.budgets.activation import Covariance, decompose_for_outputs
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.choices import AnyGauge, DecomposeOptions, Method, Precision
from mpo_core.decomposing.decomposition import decompose
from mpo_core.decomposing.lossless import identity_cores
from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import MPOError, ShapeError, UsageError
from mpo_core.forward.cost import STRATEGIES, Strategy
from mpo_core.forward.layer import as_parameter
from mpo_core.forward.linear import MPOLinear
from mpo_core.linear_algebra import vector_norm
from mpo_core.models.targets import Kind, Target, WeightGroup, find_targets, named_aliases, weight_groups
from mpo_core.models.ties import drop_stale_ties, restore_ties
from mpo_core.shapes import MPOShape

__all__ = ["Replacement", "Target", "find_targets", "merge_modules", "mpo_layers", "replace_modules"]

MPOLayer = MPOLinear | MPOEmbedding
Bonds = int | Sequence[int] | None
Shapes = Mapping[str, MPOShape] | Callable[[int, int], MPOShape] | None
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Replacement:
    """One weight that was decomposed, and the layers that now share its cores.

    Attributes:
        name: name of the first layer of the weight.
        names: all names of all its layers.
        weight: the old parameter, of shape (rows, cols), of a Conv1D (cols, rows); no longer in the model.
        layer: the first new layer; the others hold the very same core parameters.
        relative_error: Frobenius norm of (weight - rebuilt weight) over that of the weight; 0 for a zero
            weight, NaN on the meta device.
        gauge: which representative of the matrix the cores are.
    """

    name: str
    names: tuple[str, ...]
    weight: nn.Parameter = field(repr=False)
    layer: MPOLayer = field(repr=False)
    relative_error: float
    gauge: AnyGauge = "symmetric"

    @property
    def cores(self) -> list[nn.Parameter]:
        """The core parameters, as `mpo_core.swap_parameters` takes them."""
        return list(self.layer.cores)


def replace_modules(
    model: nn.Module,
    targets: Iterable[Target],
    *,
    bonds: Mapping[str, Bonds] | Bonds = None,
    shapes: Shapes = None,
    n: int = 5,
    gauge: AnyGauge | None = "symmetric",
    method: Method = "sweep",
    precision: Precision = "accurate",
    refine: int = 0,
    covariances: Mapping[str, Covariance] | None = None,
    strategy: Strategy = "auto",
    cache: bool = False,
) -> list[Replacement]:
    """Replace dense layers of a model by MPO layers, in place.

    A weight that several layers share (output head and embedding, T5's three embeddings) is decomposed once,
    and *all* its layers are replaced, also those that `targets` does not list: left dense, they would be cut
    from the tie. To keep a tied head dense, exclude every layer of its group, or untie it first. A module
    that stands under several names is replaced under all of them. Biases are kept as the very same
    parameters; device, dtype, ``requires_grad`` and the training flag carry over.

    An optimizer built before has to be told by `mpo_core.swap_parameters`, with
    ``{r.weight: r.cores for r in replacements}``.

    In transformers models the entries of decomposed weights leave the model's tie list, so `tie_weights()`
    and `get_input_embeddings()` can still be called; `merge_modules` puts them back.
    `resize_token_embeddings()` needs the merged model. On the meta device the layers get cores without
    values, for counting.

    Args:
        model: the model, changed in place.
        targets: from `find_targets`.
        bonds: cap of every bond (int), one bond per site boundary (list), or a mapping from layer name to
            either; ``None``, and every layer that a mapping does not name, keeps full bonds.
        shapes: mapping from layer name to factorisation, or a function of (rows, cols); otherwise
            `MPOShape.choose(rows, cols, n)`.
        n: number of cores where `shapes` does not say.
        gauge: canonical form of the cores, as in `mpo_core.decompose`. ``None`` decides for each layer:
            ``identity`` where the bonds are full (exact and without arithmetic), ``symmetric`` where they are cut.
        method: how bonds are cut, as in `mpo_core.decompose`.
        precision: what the decomposition computes in, likewise.
        refine: number of alternating least-squares sweeps after it, likewise.
        covariances: mapping from layer name to the covariance of its inputs, of shape (cols, cols), from
            `mpo_core.collect_covariances`; where the bonds of such a layer are cut, the error of its *output* is
            made small instead of that of its weight, and `method`, `precision` and `refine` play no part.
        strategy: how the new layers compute their product, as in `mpo_core.MPOLinear`; an embedding looks rows up
            for ``chain`` and ``mixed``.
        cache: whether they keep the rebuilt weight in evaluation, likewise.

    Returns:
        One entry per distinct weight, in the order of `targets`.

    Raises:
        UsageError: A target cannot be replaced, a mapping names a layer that is not replaced, or names two
            layers of one tied group with different values. The model is unchanged then.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"replace_modules: strategy is {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
    groups = weight_groups(model, targets)
    for what, given in (("bonds", bonds), ("shapes", shapes), ("covariances", covariances)):
        if isinstance(given, Mapping):
            _check_names(what, cast("Mapping[str, object]", given), groups)
    replacements: list[Replacement] = []
    exchange: dict[int, nn.Module] = {}
    for group in groups:
        first = group.members[0]
        caps = _named(bonds, group) if isinstance(bonds, Mapping) else bonds
        covariance = None if covariances is None else _joint_covariance(covariances, group)
        if callable(shapes):
            shape = shapes(first.rows, first.cols)
        else:
            shape = None if shapes is None else _named(shapes, group)
        try:
            _check_size(shape, first)
            shape = shape or MPOShape.choose(first.rows, first.cols, n)
            own_gauge = _own_gauge(group.weight, shape, caps, gauge)
            if group.weight.is_meta:
                cores = blank_cores(shape, shape.clip_bonds(caps), group.weight.dtype)
            elif own_gauge == "identity" and shape.clip_bonds(caps) == shape.full_bonds:
                cores = identity_cores(first.matrix, shape)
            elif covariance is not None:
                cores = _decomposed_for_outputs(first.matrix, covariance, shape, caps, own_gauge)
            else:
                options: DecomposeOptions = {"method": method, "precision": precision, "refine": refine}
                cores = list(decompose(first.matrix, shape, caps, gauge=own_gauge, **options).cores)
            layers = _layers(group, cores, shape, strategy, cache)
        except MPOError as error:
            raise type(error)(f"replace_modules: layer {first.name!r}: {error}") from None
        exchange.update({id(member.module): new for member, new in zip(group.members, layers, strict=True)})
        lossless = own_gauge == "identity" and not group.weight.is_meta
        error = 0.0 if lossless else _relative_error(group.weight, layers[0])
        replacements.append(Replacement(first.name, group.names, group.weight, layers[0], error, own_gauge))
    exchange_modules(model, exchange)
    drop_stale_ties(model, is_mpo_layer)
    return replacements


def merge_modules(model: nn.Module) -> list[str]:
    """Turn every MPO layer of a model back into its dense layer, in place.

    Layers that share all their cores share one dense weight afterwards; a Conv1D becomes a Conv1D again. A
    weight trains if any of its cores did.

    Returns:
        The names of the merged layers, one per distinct layer.

    Raises:
        UsageError: The model is itself an MPO layer.
    """
    layers = mpo_layers(model)
    if "" in layers:
        raise UsageError("merge_modules: the model is itself an MPO layer; call its to_dense().")
    exchange: dict[int, nn.Module] = {}
    firsts: dict[tuple[int, ...], nn.Module] = {}
    for layer in layers.values():
        dense = layer.to_dense()
        kind = 1 if layer_kind(layer) == "conv1d" else 0
        first = firsts.setdefault((kind, *(id(core) for core in layer.cores)), dense)
        dense.register_parameter("weight", first.get_parameter("weight"))
        exchange[id(layer)] = dense
    exchange_modules(model, exchange)
    restore_ties(model, is_mpo_layer)
    return list(layers)


def mpo_layers(model: nn.Module) -> dict[str, MPOLayer]:
    """The MPO layers of a model by name, each once, under its first name.

    Layers that share cores (a tied head) are distinct and all listed.
    """
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    return {name: module for name, module in modules if isinstance(module, MPOLayer)}


def is_mpo_layer(module: nn.Module) -> bool:
    """Whether a module is an MPO layer."""
    return isinstance(module, MPOLayer)


def exchange_modules(model: nn.Module, exchange: Mapping[int, nn.Module]) -> None:
    """Put new modules in the place of old ones, wherever the model holds them.

    Args:
        model: changed in place.
        exchange: identity of the old module -> the new one.
    """
    aliases = named_aliases(model)
    for identity, module in exchange.items():
        for name in aliases[identity]:
            model.set_submodule(name, module)


def layer_kind(layer: MPOLayer) -> Kind:
    """The kind of dense layer that an MPO layer stands for."""
    if isinstance(layer, MPOEmbedding):
        return "embedding"
    return "conv1d" if layer.transposed else "linear"


def make_layer(
    kind: Kind,
    cores: Sequence[Tensor],
    shape: MPOShape,
    bias: Tensor | None = None,
    padding_idx: int | None = None,
) -> MPOLayer:
    """Build an MPO layer of a kind from cores, which it shares if they are parameters."""
    if kind == "embedding":
        return MPOEmbedding(cores, shape, padding_idx)
    return MPOLinear(cores, shape, bias, transposed=kind == "conv1d")


def set_forward(layer: MPOLayer, strategy: Strategy, cache: bool) -> None:
    """Say how a layer computes its product: an embedding looks rows up where a linear layer takes core after core."""
    if isinstance(layer, MPOEmbedding):
        layer.strategy = "lookup" if strategy in ("chain", "mixed") else strategy
    else:
        layer.strategy = strategy
    layer.cache = cache


def blank_cores(shape: MPOShape, bonds: Sequence[int], dtype: torch.dtype) -> list[nn.Parameter]:
    """Cores without values, on the meta device.

    Args:
        shape: the factors.
        bonds: the n - 1 bond dimensions, taken as they are.
        dtype: of the cores.
    """
    ends = (1, *bonds, 1)
    sizes = zip(ends[:-1], shape.row_factors, shape.col_factors, ends[1:], strict=True)
    return [nn.Parameter(torch.empty(size, dtype=dtype, device="meta")) for size in sizes]


def _decomposed_for_outputs(
    matrix: Tensor, covariance: Covariance, shape: MPOShape, caps: Bonds, gauge: AnyGauge
) -> list[Tensor]:
    """The cores of a matrix whose product with the inputs is to stay close."""
    if gauge == "identity":
        raise UsageError("gauge 'identity' is lossless, but bonds are to be cut; choose another or leave bonds out.")
    matrix, covariance = matrix.detach(), covariance.to(matrix.device)
    if gauge != "mixed":
        return list(decompose_for_outputs(matrix, covariance, shape, caps, gauge=gauge).cores)
    mpo = decompose_for_outputs(matrix, covariance, shape, caps, gauge="left")
    return list(mpo.canonicalize(site=home_site(shape)).cores)


def _layers(
    group: WeightGroup, cores: Sequence[Tensor], shape: MPOShape, strategy: Strategy, cache: bool
) -> list[MPOLayer]:
    """The new layers of a group; all hold the same core parameters, which train if the weight does."""
    parameters = [as_parameter(core).requires_grad_(group.weight.requires_grad) for core in cores]
    layers: list[MPOLayer] = []
    for member in group.members:
        dense = member.module
        bias, padding_idx = getattr(dense, "bias", None), getattr(dense, "padding_idx", None)
        layer = make_layer(member.kind, parameters, shape, bias, padding_idx)
        set_forward(layer, strategy, cache)
        layers.append(layer.train(dense.training))
    return layers


def _own_gauge(weight: Tensor, shape: MPOShape, caps: Bonds, gauge: AnyGauge | None) -> AnyGauge:
    """The gauge that a layer gets: ``identity`` wherever its operator is the lossless one, to the bit."""
    full = shape.clip_bonds(caps) == shape.full_bonds
    if full and (gauge in (None, "mixed", "identity") or shape.n == 1):
        return "identity"
    if gauge is not None:
        return gauge
    # All symmetric cores of a zero matrix are zero, so that no gradient would ever reach them.
    return "symmetric" if weight.is_meta or bool(weight.detach().any()) else "left"


@torch.no_grad()
def _relative_error(weight: Tensor, layer: MPOLayer) -> float:
    if weight.is_meta:
        return float("nan")
    dense = (weight.T if layer_kind(layer) == "conv1d" else weight).double()
    norm = vector_norm(dense)
    difference = vector_norm(dense - layer.weight.double())
    return float(difference / norm) if norm > 0 else float(difference)


def _check_size(shape: MPOShape | None, target: Target) -> None:
    if shape is not None and (shape.rows, shape.cols) != (target.rows, target.cols):
        raise ShapeError(
            f"the shape is for {shape.rows}x{shape.cols}, the matrix is {target.rows}x{target.cols}; give"
            " factors for (out_features, in_features)."
        )


def _check_names(what: str, given: Mapping[str, object], groups: Sequence[WeightGroup]) -> None:
    known = {name for group in groups for name in group.names}
    for name in given:
        if name not in known:
            raise UsageError(
                f"replace_modules: {what} names the layer {name!r}, which is not among the"
                f" {len(known)} layers to be replaced."
            )


def _named(given: Mapping[str, _Choice], group: WeightGroup) -> _Choice | None:
    """What a mapping says about a group, under any of its names."""
    said = [given[name] for name in group.names if name in given]
    if any(value != said[0] for value in said):
        raise UsageError(
            f"replace_modules: {', '.join(group.names)} share one weight, but have different entries; give one."
        )
    return said[0] if said else None


def _joint_covariance(given: Mapping[str, Covariance], group: WeightGroup) -> Covariance | None:
    """The sum over the layers of a group: the squared errors of their outputs add up."""
    found = [given[name] for name in group.names if name in given]
    return sum(found[1:], found[0]) if found else None
