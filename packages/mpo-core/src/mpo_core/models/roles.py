"""Which parameters train: central and auxiliary cores, and everything that was not decomposed.

The central tensor holds most of the parameters (for 3072 x 768 at full bonds 92.7 %), the auxiliary ones are
small. Lightweight fine-tuning (LFA, Liu et al. 2021, section 4.1) freezes the central tensors and trains the
rest of the model: that is ``freeze_cores(model, "central")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import UsageError
from mpo_core.forward.linear import MPOLinear

Role = Literal["central", "auxiliary"]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameter entries; every parameter counts once, however many layers share it.

    Attributes:
        total: all of the model; ``central + auxiliary + other``.
        trained: those with ``requires_grad`` (the papers' #Pr).
        central: in central cores.
        auxiliary: in auxiliary cores.
        other: in parameters that are no cores.
    """

    total: int
    trained: int
    central: int
    auxiliary: int
    other: int


def core_role(layer: MPOLinear | MPOEmbedding, index: int) -> Role:
    """The role of core number `index` (from 0) of a layer: the one at n // 2 is central.

    Raises:
        UsageError: The layer has no such core.
    """
    if not 0 <= index < len(layer.cores):
        raise UsageError(f"core_role: the layer has the cores 0 to {len(layer.cores) - 1}, not {index}.")
    return "central" if index == layer.shape.central else "auxiliary"


def freeze_cores(model: nn.Module, role: Literal["central", "auxiliary", "none"]) -> ParameterCount:
    """Freeze the cores of one role and let all other cores train.

    Parameters that are no cores stay as they are (a new model trains them all): see `freeze_dense`.

    Args:
        model: holds MPO layers; without any, nothing changes.
        role: ``central`` for lightweight fine-tuning, ``auxiliary`` to train only the central cores,
            ``none`` to train all cores. A core that layers share as central and as auxiliary counts as
            central.

    Returns:
        The count after the change.

    Raises:
        UsageError: `role` is unknown.
    """
    if role not in ("central", "auxiliary", "none"):
        raise UsageError(f"freeze_cores: role is {role!r}; expected 'central', 'auxiliary' or 'none'.")
    for parameter, own in _core_roles(model).values():
        parameter.requires_grad_(own != role)
    return count_parameters(model)


def freeze_dense(model: nn.Module) -> ParameterCount:
    """Freeze every parameter that is no core (biases, norms, layers left dense); cores stay as they are.

    Returns:
        The count after the change.
    """
    cores = _core_roles(model)
    for parameter in model.parameters():
        if id(parameter) not in cores:
            parameter.requires_grad_(False)
    return count_parameters(model)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the entries of a model's parameters by role; works on the meta device, too."""
    cores = _core_roles(model)
    trained = 0
    sizes = {"central": 0, "auxiliary": 0, "other": 0}
    for parameter in model.parameters():
        role = cores[id(parameter)][1] if id(parameter) in cores else "other"
        sizes[role] += parameter.numel()
        trained += parameter.numel() if parameter.requires_grad else 0
    return ParameterCount(total=sum(sizes.values()), trained=trained, **sizes)


def _core_roles(model: nn.Module) -> dict[int, tuple[nn.Parameter, Role]]:
    """Identity of every core parameter -> the parameter and its role."""
    roles: dict[int, tuple[nn.Parameter, Role]] = {}
    for layer in model.modules():
        if isinstance(layer, MPOLinear | MPOEmbedding):
            for index, core in enumerate(layer.cores):
                role = core_role(layer, index)
                if role == "central" or id(core) not in roles:
                    roles[id(core)] = (core, role)
    return roles
