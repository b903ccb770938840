"""Find the dense layers of a model that can be put into MPO form, by name, and those that share a weight."""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from mpo_core.errors import UsageError

Kind = Literal["linear", "conv1d", "embedding"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Target:
    """A dense layer that can be replaced.

    Attributes:
        name: dotted name in the model; the first one where a module stands under several names.
        module: the layer itself.
        kind: ``linear`` (`nn.Linear`), ``conv1d`` (`transformers.pytorch_utils.Conv1D`) or ``embedding``.
        rows: output features, or number of embeddings.
        cols: input features, or embedding dimension.
    """

    name: str
    module: nn.Module = field(repr=False)
    kind: Kind
    rows: int
    cols: int

    @property
    def weight(self) -> nn.Parameter:
        """The weight parameter as the layer stores it; tied layers have the very same one."""
        return weight_of(self.module)

    @property
    def matrix(self) -> Float[Tensor, "rows cols"]:
        """The weight with output features or embeddings as rows, whichever way the layer stores it."""
        return self.weight.T if self.kind == "conv1d" else self.weight


@dataclass(frozen=True)
class WeightGroup:
    """All layers of a model that use one and the same weight parameter.

    Attributes:
        weight: the shared parameter (of a group of one: the layer's own).
        members: the distinct layers, in the order of the model, each under its first name.
        aliases: for each member, all names under which the model knows it.
    """

    weight: nn.Parameter
    members: tuple[Target, ...]
    aliases: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of every member."""
        return tuple(name for names in self.aliases for name in names)


def find_targets(
    model: nn.Module,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    min_size: int = 2,
) -> list[Target]:
    """List the dense layers whose names fit, in the order of the model, each module once.

    Patterns are those of `fnmatch` on the dotted name, case-sensitive; ``*`` matches dots too, so
    ``*.attention.*`` means every layer below any ``attention``. A module that stands under several names
    (ALBERT's shared layer) is meant if any of them fits. Layers that share a weight are separate targets
    here; `mpo_core.replace_modules` takes them together. Subclasses that compute something else than their
    base (a scaled embedding) are no targets.

    Args:
        model: any module that contains the layers; it is not a target itself.
        include: a layer is taken if one of these fits.
        exclude: and none of these.
        min_size: and both sides of its matrix are at least this long.

    Raises:
        UsageError: A pattern of `include` other than ``*`` fits no dense layer, or a layer that fits cannot
            be replaced (parametrised, hooked, quantized: the message says which and why).
    """
    dense = [(names, module) for names, module in _named_once(model) if dense_kind(module) is not None]
    for pattern in include:
        if pattern != "*" and not any(_fits(names, [pattern]) for names, _ in dense):
            known = ", ".join(names[0] for names, _ in dense[:3]) or "none"
            raise UsageError(
                f"find_targets: the pattern {pattern!r} fits no linear, Conv1D or embedding layer of the"
                f" {type(model).__name__}; it has {len(dense)} of them, the first are: {known}."
            )
    targets: list[Target] = []
    for names, module in dense:
        if _fits(names, include) and not _fits(names, exclude):
            target = as_target(names[0], module)
            if min(target.rows, target.cols) >= min_size:
                targets.append(target)
    return targets


def as_target(name: str, module: nn.Module) -> Target:
    """Describe one layer as a target.

    Raises:
        UsageError: The module is no dense layer, or one that cannot be replaced.
    """
    kind = dense_kind(module)
    reason = f"it is a {type(module).__name__}" if kind is None else _refusal(module)
    if kind is None or reason is not None:
        raise UsageError(
            f"find_targets: the layer {name!r} cannot be put into MPO form because {reason}; exclude it or"
            " make it a plain nn.Linear, Conv1D or nn.Embedding first."
        )
    rows, cols = weight_of(module).shape
    return Target(name, module, kind, *((cols, rows) if kind == "conv1d" else (rows, cols)))


def dense_kind(module: nn.Module) -> Kind | None:
    """The kind of a dense layer, ``None`` for any other module.

    A subclass counts as long as it computes what its base computes.
    """
    for kind, base in _bases():
        if isinstance(module, base) and type(module).forward is base.forward:
            return kind
    return None


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight parameter of a dense layer."""
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise UsageError(f"the weight of this {type(module).__name__} is no parameter of its own.")
    return weight


def weight_groups(model: nn.Module, targets: Iterable[Target]) -> list[WeightGroup]:
    """Collect, for each weight of the targets, all layers of the model that use it.

    Raises:
        UsageError: A target is no part of the model, cannot be replaced, or shares its weight with something
            that is no dense layer, which would be left behind with the old weight.
    """
    named = _named_once(model)
    present = {id(module) for _, module in named}
    wanted: dict[int, Target] = {}
    for target in targets:
        if target.module is model or id(target.module) not in present:
            raise UsageError(
                f"replace_modules: the target {target.name!r} is no layer inside this {type(model).__name__};"
                " take the targets from find_targets(model)."
            )
        as_target(target.name, target.module)
        wanted.setdefault(id(weight_of(target.module)), target)
    users: dict[int, list[tuple[tuple[str, ...], Target]]] = {key: [] for key in wanted}
    for names, module in named:
        for entry, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in wanted:
                continue
            if entry != "weight" or dense_kind(module) is None or module is model:
                raise UsageError(
                    f"replace_modules: the weight of {wanted[id(parameter)].name!r} is also"
                    f" {'.'.join((names[0], entry)).lstrip('.')!r}, which belongs to no layer that can be"
                    " replaced and would keep the old weight; exclude the layer."
                )
            member = as_target(names[0], module)
            if (member.kind == "conv1d") != (wanted[id(parameter)].kind == "conv1d"):
                raise UsageError(
                    f"replace_modules: {wanted[id(parameter)].name!r} and {names[0]!r} share a weight, but"
                    " one is a Conv1D and reads it transposed, so they cannot share cores; untie or exclude"
                    " them."
                )
            users[id(parameter)].append((names, member))
    return [
        WeightGroup(weight_of(target.module), tuple(t for _, t in users[key]), tuple(names for names, _ in users[key]))
        for key, target in wanted.items()
    ]


def all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every name of every module, in the order of the model; a module under two names comes twice."""
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))


def named_aliases(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Identity of every module -> all names under which the model knows it, in the order of the model."""
    found: dict[int, tuple[str, ...]] = {}
    for name, module in all_names(model):
        found[id(module)] = (*found.get(id(module), ()), name)
    return found


def _named_once(model: nn.Module) -> list[tuple[tuple[str, ...], nn.Module]]:
    aliases = named_aliases(model)
    return [(aliases[id(module)], module) for module in model.modules()]


def _fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(name and fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _bases() -> list[tuple[Kind, type[nn.Module]]]:
    bases: list[tuple[Kind, type[nn.Module]]] = [("linear", nn.Linear), ("embedding", nn.Embedding)]
    # Whoever holds a Conv1D has imported its module, so transformers need not be imported here.
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return bases if conv1d is None else [*bases, ("conv1d", conv1d)]


def _refusal(module: nn.Module) -> str | None:
    """Why a dense layer cannot be replaced without losing something; ``None`` if it can."""
    weight = module.weight
    if parametrize.is_parametrized(module) or not isinstance(weight, nn.Parameter):
        return "its weight is parametrised (weight norm, spectral norm or the like)"
    if isinstance(weight, UninitializedParameter):
        return "its weight is not initialised"
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        return f"its weight is a {weight.dim()}-dimensional {weight.dtype} tensor, not a real matrix"
    if "forward" in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS):
        return "it carries hooks or a patched forward, which would be lost"
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if getattr(module, option, None):
            return f"the embedding option {option} has no counterpart"
    return None
