"""Which layers of a model a configuration means, and which bonds each of them gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape

from torch import Tensor, nn

from mpo_core.adapters.adoption_config import Bonds, MPOConfig, fits_any, name_globs
from mpo_core.budgets.allocation import Importance, plan_bonds
from mpo_core.budgets.budget import bonds_for_params, bonds_for_tolerance, uniform_bond
from mpo_core.decomposing.decomposition import schmidt_values
from mpo_core.errors import UsageError
from mpo_core.models.targets import Target, WeightGroup, dense_kind, find_targets, named_aliases, weight_groups
from mpo_core.shapes import MPOShape


def saved_modules(model: nn.Module, config: MPOConfig) -> list[nn.Module]:
    """The modules that `modules_to_save` names, in the order of the model.

    Raises:
        UsageError: A pattern fits no module, or only modules without parameters.
    """
    aliases = named_aliases(model)
    for pattern in config.saved:
        fitting = [m for m in model.modules() if m is not model and fits_any(aliases[id(m)], [pattern])]
        if not any(True for module in fitting for _ in module.parameters()):
            raise UsageError(
                f"get_mpo_model: the pattern {pattern!r} of modules_to_save fits no module with parameters in this"
                f" {type(model).__name__}; its modules are {_examples(model)}."
            )
    return [m for m in model.modules() if m is not model and fits_any(aliases[id(m)], config.saved)]


def select_targets(model: nn.Module, config: MPOConfig) -> list[Target]:
    """The layers to decompose: those that fit, less the excluded and saved ones and all that share a weight with them.

    Raises:
        UsageError: A pattern fits nothing, no layer is left, or a layer that fits cannot be replaced.
    """
    aliases = named_aliases(model)
    names = [names for names in aliases.values() if any(names)]
    for pattern in config.excluded:
        if not any(fits_any(each, [pattern]) for each in names):
            raise UsageError(
                f"get_mpo_model: the pattern {pattern!r} of exclude_modules fits no module of this"
                f" {type(model).__name__}; its modules are {_examples(model)}."
            )
    inside = {id(part) for module in saved_modules(model, config) for part in module.modules()}
    dense = {id(module): aliases[id(module)] for module in model.modules() if dense_kind(module) is not None}
    kept = {key for key, each in dense.items() if key in inside or fits_any(each, config.excluded)}
    weights = {id(module): _own_weight(module) for module in model.modules() if id(module) in dense}
    held = {id(weights[key]) for key in kept if weights[key] is not None}
    kept |= {key for key, weight in weights.items() if id(weight) in held}
    include = [glob for pattern in config.patterns for glob in _fitting_globs(pattern, dense.values())]
    targets = find_targets(model, include, [escape(name) for key in kept for name in dense[key]], config.min_size)
    if not targets:
        raise UsageError(
            f"get_mpo_model: no layer of this {type(model).__name__} is left to decompose; of its {len(dense)} linear,"
            f" Conv1D and embedding layers, {len(kept)} are excluded or saved in full, and the rest is not targeted."
        )
    return targets


def plan_layer_bonds(
    model: nn.Module,
    targets: Sequence[Target],
    config: MPOConfig,
    *,
    covariances: Mapping[str, Tensor] | None = None,
    importance: Importance | None = None,
) -> dict[str, Bonds | None]:
    """The bonds of every target: name -> as `mpo_core.replace_modules` takes them.

    Args:
        model: holds the targets.
        targets: from `select_targets`.
        config: its `bond_pattern` counts first, then its limit.
        covariances: of the layers' inputs, for a global ratio.
        importance: what the errors of different layers are worth to a global ratio, as in `mpo_core.plan_bonds`;
            left out, it is ``activation`` with `covariances` and ``norm`` without.

    Raises:
        UsageError: A pattern of `bond_pattern` fits no target, or a limit needs the values of a weight on the meta
            device.
    """
    groups = weight_groups(model, targets)
    for pattern in config.bond_pattern:
        if not any(fits_any(group.names, [pattern]) for group in groups):
            raise UsageError(f"get_mpo_model: the pattern {pattern!r} of bond_pattern fits none of the targets.")
    planned: dict[str, Bonds | None] = {}
    open_groups: list[WeightGroup] = []
    for group in groups:
        fitting = [bonds for pattern, bonds in config.bond_pattern.items() if fits_any(group.names, [pattern])]
        if fitting:
            planned[group.members[0].name] = fitting[0]
        else:
            open_groups.append(group)
    if config.ratio is None and config.tolerance is None:
        return {**planned, **dict.fromkeys((group.members[0].name for group in open_groups), config.bonds)}
    for group in open_groups:
        if group.weight.is_meta:
            raise UsageError(
                f"get_mpo_model: ratio and tolerance need the values of {group.members[0].name!r}, which is on the meta"
                " device; give bonds."
            )
    if config.ratio is not None and config.allocation == "global" and open_groups:
        shared = plan_bonds(
            model,
            [group.members[0] for group in open_groups],
            ratio=config.ratio,
            n=config.n,
            importance=importance or ("norm" if covariances is None else "activation"),
            covariances=covariances,
        )
        return {**planned, **shared}
    return {**planned, **{group.members[0].name: _own_bonds(group.members[0], config) for group in open_groups}}


def _own_bonds(target: Target, config: MPOConfig) -> Bonds:
    """The bonds of one matrix within its own limit."""
    shape = MPOShape.choose(target.rows, target.cols, config.n)
    if config.ratio is None:
        spectra = schmidt_values(target.matrix, shape)
        return bonds_for_tolerance(spectra, config.tolerance or 0.0, shape)
    limit = int(config.ratio * target.rows * target.cols)
    if limit < shape.n_params(1):
        raise UsageError(
            f"get_mpo_model: ratio {config.ratio} leaves {target.name!r} {limit} parameters, but {config.n} cores need"
            f" at least {shape.n_params(1)}; exclude the layer, raise min_size or the ratio."
        )
    if config.allocation == "uniform":
        return uniform_bond(shape, limit)
    return bonds_for_params(schmidt_values(target.matrix, shape), shape, limit)


def _fitting_globs(pattern: str, named: Iterable[tuple[str, ...]]) -> list[str]:
    """Those globs of a pattern that fit some name; the pattern itself where none does, so that it is named."""
    names = [name for names in named for name in names]
    globs = [glob for glob in name_globs(pattern) if any(fnmatchcase(name, glob) for name in names)]
    return globs or [pattern]


def _own_weight(module: nn.Module) -> nn.Parameter | None:
    """The weight where it is a parameter of the module itself, which a parametrised one is not."""
    return dict(module.named_parameters(recurse=False)).get("weight")


def _examples(model: nn.Module) -> str:
    names = [name for names in named_aliases(model).values() for name in names if name]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
