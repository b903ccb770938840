"""Exchange parameters inside a running optimizer.

Replacing a layer or truncating a bond makes new parameters. The released code of the papers left the
optimizer with the old ones, so nothing that came after was trained (``docs/errata.md``).
`swap_parameters` puts the new parameters where the old ones stood.
"""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mpo_core.errors import UsageError

Carry = Literal["same", "slice", "none"]


def swap_parameters(
    optimizer: torch.optim.Optimizer,
    swaps: Mapping[Tensor, Sequence[Tensor]],
    *,
    carry: Carry = "same",
) -> None:
    """Replace parameters of an optimizer by others, at the same place of the same group.

    The new parameters inherit learning rate, weight decay and every other option of the group. What the
    optimizer remembers (moments, momentum, step counter) is handed over where it fits, as `carry` says. A
    new parameter whose moments cannot be handed over starts as in a fresh optimizer, its step counter at
    zero: Adam's bias correction belongs to the moments, and zero moments with the old counter would make
    the first steps about three times too large.

    New parameters that the optimizer already holds are not added twice, and a frozen new parameter enters
    as well: it is passed over as long as it has no gradient, and trains from the moment it is unfrozen. A
    learning rate scheduler stays valid. Nothing is changed when an error is raised.

    Args:
        optimizer: any torch optimizer but LBFGS, which keeps one flat state for all parameters.
        swaps: old parameter -> the parameters that take its place (none: the old one is only taken out).
            After `mpo_core.replace_modules`: ``{r.weight: r.cores for r in replacements}``.
        carry: ``same`` hands the state to new parameters of the old one's shape; ``slice`` also to those
            that are its leading slice, as after the truncation of a bond (a dimension of size d' takes the
            entries 0 to d' - 1); ``none`` hands over nothing.

    Raises:
        UsageError: The optimizer does not hold an old parameter, a new one is no leaf tensor, `carry` is
            unknown, or the optimizer is LBFGS.
    """
    if carry not in ("same", "slice", "none"):
        raise UsageError(f"swap_parameters: carry is {carry!r}; expected 'same', 'slice' or 'none'.")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "swap_parameters: LBFGS keeps one flat state for all parameters, so none can be exchanged;"
            " build a new optimizer."
        )
    _check_swaps(optimizer, swaps)
    taken = {id(p) for group in optimizer.param_groups for p in group["params"]} - {id(p) for p in swaps}
    for group in optimizer.param_groups:
        _swap_in_group(group, swaps, taken)
    inherited = [_inherited_states(old, news, optimizer.state.pop(old, {}), carry) for old, news in swaps.items()]
    for parameter, state in (pair for pairs in inherited for pair in pairs):
        if state and parameter not in optimizer.state:
            optimizer.state[parameter] = state


def _check_swaps(optimizer: torch.optim.Optimizer, swaps: Mapping[Tensor, Sequence[Tensor]]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for index, (old, news) in enumerate(swaps.items()):
        if id(old) not in held:
            raise UsageError(
                f"swap_parameters: the optimizer does not hold the old parameter number {index} of shape"
                f" {tuple(old.shape)}; build the optimizer before the swap, or add the new parameters with"
                " add_param_group."
            )
        for new in news:
            if not isinstance(new, Tensor) or not new.is_leaf:
                raise UsageError(
                    f"swap_parameters: a replacement of parameter number {index} of shape"
                    f" {tuple(old.shape)} is no leaf tensor; an optimizer can only train parameters."
                )


def _swap_in_group(group: dict[str, Any], swaps: Mapping[Tensor, Sequence[Tensor]], taken: set[int]) -> None:
    """Rewrite a group's list in place; `taken` collects what the optimizer already holds."""
    names = group.get("param_names")
    new_params: list[Tensor] = []
    new_names: list[str] = []
    for position, parameter in enumerate(group["params"]):
        successors = swaps.get(parameter)
        name = names[position] if names is not None else ""
        if successors is None:
            new_params.append(parameter)
            new_names.append(name)
            continue
        for index, new in enumerate(successors):
            if id(new) not in taken:
                taken.add(id(new))
                new_params.append(new)
                new_names.append(f"{name}.{index}")
    group["params"][:] = new_params
    if names is not None:
        names[:] = new_names


def _inherited_states(
    old: Tensor, news: Sequence[Tensor], state: Mapping[str, Any], carry: Carry
) -> list[tuple[Tensor, dict[str, Any]]]:
    return [(new, _inherited_state(old, new, state, carry)) for new in news]


def _inherited_state(old: Tensor, new: Tensor, state: Mapping[str, Any], carry: Carry) -> dict[str, Any]:
    """The state that `new` takes over from `old`; empty where it has to start afresh."""
    if carry == "none" or old.dim() != new.dim():
        return {}
    if old.shape == new.shape:
        return {key: _moved(value, old, new, slices=None) for key, value in state.items()}
    smaller = all(n <= o for n, o in zip(new.shape, old.shape, strict=True))
    if carry != "slice" or not smaller:
        return {}
    slices = tuple(slice(n) for n in new.shape)
    entries = {key: _moved(value, old, new, slices) for key, value in state.items()}
    # Factored moments (Adafactor's rows and columns) have another shape and cannot be sliced with it.
    sliceable = all(not isinstance(v, Tensor) or v.dim() == 0 or v.shape == new.shape for v in entries.values())
    return entries if sliceable else {}


def _moved(value: Any, old: Tensor, new: Tensor, slices: tuple[slice, ...] | None) -> Any:
    """Copy one entry of a state, so that two heirs never share a tensor."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 or value.shape != old.shape:
        return value.clone()
    part = value if slices is None else value[slices]
    dtype = new.dtype if value.dtype == old.dtype else value.dtype
    return part.to(device=new.device, dtype=dtype, copy=True, memory_format=torch.contiguous_format)
