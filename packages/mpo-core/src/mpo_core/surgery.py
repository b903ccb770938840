"""Put layers of a model into MPO form in place, and back; tied weights stay tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from mpo_core.embedding import MPOEmbedding
from mpo_core.errors import MPOError, ShapeError, UsageError
from mpo_core.gauge import Gauge
from mpo_core.linear import MPOLinear
from mpo_core.shapes import MPOShape
from mpo_core.targets import Kind, Target, WeightGroup, find_targets, named_aliases, weight_groups
from mpo_core.ties import drop_stale_ties, restore_ties

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
    """

    name: str
    names: tuple[str, ...]
    weight: nn.Parameter = field(repr=False)
    layer: MPOLayer = field(repr=False)
    relative_error: float

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
    gauge: Gauge = "symmetric",
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
        gauge: canonical form of the cores: ``symmetric``, ``left``, ``right`` or ``central``.

    Returns:
        One entry per distinct weight, in the order of `targets`.

    Raises:
        UsageError: A target cannot be replaced, a mapping names a layer that is not replaced, or names two
            layers of one tied group with different values. The model is unchanged then.
    """
    groups = weight_groups(model, targets)
    for what, given in (("bonds", bonds), ("shapes", shapes)):
        if isinstance(given, Mapping):
            _check_names(what, given, groups)
    replacements: list[Replacement] = []
    exchange: dict[int, nn.Module] = {}
    for group in groups:
        first = group.members[0]
        caps = _named(bonds, group) if isinstance(bonds, Mapping) else bonds
        if callable(shapes):
            shape = shapes(first.rows, first.cols)
        else:
            shape = None if shapes is None else _named(shapes, group)
        try:
            layers = _layers(group, shape or MPOShape.choose(first.rows, first.cols, n), caps, gauge)
        except MPOError as error:
            raise type(error)(f"replace_modules: layer {first.name!r}: {error}") from None
        exchange.update({id(member.module): new for member, new in zip(group.members, layers, strict=True)})
        error = _relative_error(group.weight, layers[0])
        replacements.append(Replacement(first.name, group.names, group.weight, layers[0], error))
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
    return {name: module for name, module in model.named_modules() if isinstance(module, MPOLayer)}


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


def _layers(group: WeightGroup, shape: MPOShape, caps: Bonds, gauge: Gauge) -> list[MPOLayer]:
    """The new layers of a group; all hold the same core parameters."""
    first = group.members[0]
    if (shape.rows, shape.cols) != (first.rows, first.cols):
        raise ShapeError(
            f"the shape is for {shape.rows}x{shape.cols}, the matrix is {first.rows}x{first.cols}; give"
            " factors for (out_features, in_features)."
        )
    if group.weight.is_meta:
        cores = blank_cores(shape, shape.clip_bonds(caps), group.weight.dtype)
    elif isinstance(first.module, nn.Embedding):
        cores = list(MPOEmbedding.from_dense(first.module, shape, caps, gauge=gauge).cores)
    else:
        cores = list(MPOLinear.from_dense(first.module, shape, caps, gauge=gauge).cores)
    layers = []
    for member in group.members:
        dense = member.module
        bias, padding_idx = getattr(dense, "bias", None), getattr(dense, "padding_idx", None)
        layers.append(make_layer(member.kind, cores, shape, bias, padding_idx).train(dense.training))
    for core in cores:
        core.requires_grad_(group.weight.requires_grad)
    return layers


@torch.no_grad()
def _relative_error(weight: Tensor, layer: MPOLayer) -> float:
    if weight.is_meta:
        return float("nan")
    dense = (weight.T if layer_kind(layer) == "conv1d" else weight).double()
    norm = torch.linalg.vector_norm(dense)
    difference = torch.linalg.vector_norm(dense - layer.weight.double())
    return float(difference / norm) if norm > 0 else float(difference)


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
