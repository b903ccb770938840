"""Keep the tie lists of transformers models true while layers change.

A transformers model lists which weights it ties (``_tied_weights_keys``) and works the list off in
`tie_weights()`. A decomposed weight is no parameter any more, so an entry that names it would make
`tie_weights()` stop with an error. Nothing here imports transformers: any module with such a list is served.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from mpo_core.models.targets import all_names

_LISTS = ("_tied_weights_keys", "all_tied_weights_keys")
_KEPT = "_tied_weights_keys_before_mpo"


def drop_stale_ties(model: nn.Module, is_decomposed: Callable[[nn.Module], bool]) -> None:
    """Take out of every tie list the entries that name a decomposed weight; the originals are kept aside.

    The layers stay tied: they share their core parameters, which no list has to know.
    """
    for owner in _owners(model):
        gone = [f"{name}.weight" for name in _decomposed_names(owner, is_decomposed)]
        for attribute in _LISTS:
            listed = _listed(owner, attribute)
            if listed is None:
                continue
            kept = {t: s for t, s in listed.items() if not _names_any(t, gone) and not _names_any(s, gone)}
            if len(kept) < len(listed):
                vars(owner).setdefault(_KEPT, {}).setdefault(attribute, listed)
                setattr(owner, attribute, kept)


def restore_ties(model: nn.Module, is_decomposed: Callable[[nn.Module], bool]) -> None:
    """Put the original lists back in every owner that holds no decomposed layer any more."""
    for owner in _owners(model):
        if _KEPT in vars(owner) and not _decomposed_names(owner, is_decomposed):
            for attribute, listed in vars(owner).pop(_KEPT).items():
                setattr(owner, attribute, listed)


def _owners(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if any(_listed(m, a) is not None for a in _LISTS)]


def _listed(owner: nn.Module, attribute: str) -> Mapping[str, str] | None:
    """The tie list of a module; it is a mapping in transformers 5, a list in older models."""
    found = getattr(owner, attribute, None)
    return cast("Mapping[str, str]", found) if isinstance(found, Mapping) else None


def _decomposed_names(owner: nn.Module, is_decomposed: Callable[[nn.Module], bool]) -> list[str]:
    return [name for name, m in all_names(owner) if is_decomposed(m)]


def _names_any(pattern: Any, names: list[str]) -> bool:
    # transformers reads the entries as regular expressions anchored at the start.
    return any(re.match(str(pattern), name) for name in names)
