"""The peak memory of this process, from a moment on."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

KIB = 1024
_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""What Linux takes in ``clear_refs`` as: let the peak start again from what is resident now (proc(5))."""


def reset_peak_memory() -> None:
    """Forget the peak so far, where the system can (Linux); elsewhere the peak stays that of the whole process."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def peak_memory_bytes() -> int:
    """The largest resident set since `reset_peak_memory`, in bytes."""
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB
