"""Access to the Hugging Face hub that fails in seconds, with one sentence, when the hub cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

PROBE_SECONDS = 3.0


@cache
def hub_reachable() -> bool:
    """Whether the hub answers at all; asked once per process, for at most three seconds.

    The libraries themselves try six times with growing pauses, about 23 seconds per file.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # the HTTP library differs between versions of huggingface_hub; any failure means the same
        return False
    return True


@contextmanager
def fast_hub() -> Iterator[None]:
    """Within the block, hub calls read the local cache only if the hub cannot be reached.

    Sets the offline switch of ``huggingface_hub`` and ``datasets`` for the whole process while the block
    runs.
    """
    from huggingface_hub import constants

    if hub_reachable():
        yield
        return
    switches: list[Any] = [constants]
    if "datasets" in sys.modules:
        switches.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in switches]
    for module in switches:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value


def why_not() -> str:
    """The likely reason of a failed hub call, as a clause."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "offline mode is on (HF_HUB_OFFLINE) and it is not in the local cache"
    if not hub_reachable():
        return "the hub cannot be reached and it is not in the local cache"
    return "the hub does not have it, or not for you"
