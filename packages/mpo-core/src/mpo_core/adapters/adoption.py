"""Adapt a model in two lines, as PEFT does: matrix product operators inside, the model's own interface outside.

::

    model = get_mpo_model(model, MPOConfig(bonds=64, modules_to_save=["classifier"]))
    Trainer(model=model, ...).train()

The layers are replaced in place, everything is frozen but what the configuration trains, and a thin wrapper passes on
whatever it does not know. transformers is not imported: any `nn.Module` is served.
"""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from mpo_core.adapters.adapted_model import MPOModel, count_text, wrap
from mpo_core.adapters.adoption_config import MPOConfig
from mpo_core.adapters.base_weights import BaseRecord, all_parameters, core_places, gradient_flags, make_record
from mpo_core.adapters.planning import plan_layer_bonds, saved_modules, select_targets
from mpo_core.budgets.allocation import Importance
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.choices import Method, Precision
from mpo_core.errors import UsageError
from mpo_core.models.roles import ParameterCount, count_parameters, freeze_cores
from mpo_core.models.surgery import Replacement, mpo_layers, replace_modules

__all__ = ["MPOConfig", "MPOModel", "get_mpo_model"]

_LOG = logging.getLogger("mpo_core")
_FROZEN = {"auxiliary": "central", "central": "auxiliary", "all": "none"}


def get_mpo_model(
    model: nn.Module,
    config: MPOConfig,
    *,
    covariances: Mapping[str, Tensor] | None = None,
    importance: Importance | None = None,
    method: Method = "sweep",
    precision: Precision = "accurate",
    refine: int = 0,
) -> MPOModel:
    """Put layers of a model into MPO form, in place, freeze everything else, and wrap it.

    A weight that several layers share stays shared. Optimizers are built afterwards; weight decay, where they have
    one, pulls the auxiliary cores and with them the whole matrix to zero, not to the weights of the base model.

    Args:
        model: the base model, changed in place.
        config: which layers, which bonds, what trains.
        covariances: layer name -> covariance of its inputs, as in `mpo_core.replace_modules`.
        importance: what the errors of different layers are worth to a ratio for the whole model, as in
            `mpo_core.plan_bonds`.
        method: how bonds are cut, as in `mpo_core.decompose`.
        precision: what the decomposition computes in, likewise.
        refine: number of alternating least-squares sweeps after it, likewise.

    Returns:
        The wrapper around `model`.

    Raises:
        UsageError: The model holds MPO layers already, a pattern fits nothing, or a layer cannot be replaced; the
            model is unchanged then.
        MPOError: as `mpo_core.decompose`.

    Example:
        >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> adapted = get_mpo_model(net, MPOConfig(target_modules="0", n=3, modules_to_save="2"))
        >>> adapted.trainable_parameters().trained
        642
    """
    if not isinstance(config, MPOConfig):
        raise UsageError(f"get_mpo_model: config is a {type(config).__name__}; expected an MPOConfig.")
    if isinstance(model, MPOModel) or mpo_layers(model):
        raise UsageError(
            f"get_mpo_model: this {type(model).__name__} holds MPO layers already; call merge_and_unload() or"
            " merge_modules() first."
        )
    saved = saved_modules(model, config)
    targets = select_targets(model, config)
    bonds = plan_layer_bonds(model, targets, config, covariances=covariances, importance=importance)
    flags = gradient_flags(model)
    done = replace_modules(
        model,
        targets,
        bonds=bonds,
        n=config.n,
        gauge=config.gauge,
        method=method,
        precision=precision,
        refine=refine,
        covariances=covariances,
        strategy=config.strategy,
        cache=config.cache,
    )
    _freeze(model, config, saved)
    _report(done, count_parameters(model))
    return wrap(model, config, _first_record(model, done, flags))


def _freeze(model: nn.Module, config: MPOConfig, saved: list[nn.Module]) -> None:
    """Freeze all but what the configuration trains."""
    model.requires_grad_(False)
    freeze_cores(model, cast("Any", _FROZEN[config.train]))
    for module in saved:
        module.requires_grad_(True)
    owners = {"none": [], "mpo_only": list(mpo_layers(model).values()), "all": list(model.modules())}[config.bias]
    for module in owners:
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or name.endswith("_bias"):
                parameter.requires_grad_(True)


def _first_record(model: nn.Module, done: list[Replacement], flags: Mapping[str, bool]) -> BaseRecord:
    """The record of a model that was just adapted."""
    cores = core_places(model)
    state = model.state_dict(keep_vars=True)
    trained = {key for key, parameter in all_parameters(model) if parameter.requires_grad}
    exact = {name: r for r in done if r.gauge == "identity" for name in r.names}
    homes = {name: f"{name}.cores.{home_site(r.layer.shape)}" for name, r in exact.items()}
    weights = {name: r.weight for name, r in exact.items() if homes[name] not in trained}
    dense = {key: value for key, value in state.items() if key not in cores and isinstance(value, Tensor)}
    return make_record(dense, weights, exact, trained, flags)


def _report(done: list[Replacement], count: ParameterCount) -> None:
    worst = max(done, key=lambda r: r.relative_error)
    _LOG.info(
        "get_mpo_model: %d weights in MPO form, largest relative error %.3g (%s); %s",
        len(done),
        worst.relative_error,
        worst.name,
        count_text(count),
    )
