"""Where angr by itself finds functions, for comparison with `find_functions`."""

from __future__ import annotations

from pathlib import Path

from cp_bcs.binary.functions import Function
from cp_bcs.binary.reading import read_image
from cp_bcs.decompile.angr_backend import angr_version, open_for_discovery
from cp_bcs.decompile.limits import LimitedWorker, Limits
from mpo_core.errors import MPOError

DISCOVERY_LIMITS = Limits(cpu_seconds=3600, wall_seconds=4 * 3600, memory_mb=8192)
"""For a whole file."""


def find_functions_with_angr(path: Path, limits: Limits = DISCOVERY_LIMITS) -> tuple[Function, ...]:
    """The functions that angr finds in a file, by address; stubs of imported functions are left out.

    Args:
        path: an ELF file.
        limits: of the worker process.

    Raises:
        InputFileError: see `read_image`.
        MissingPartError: angr is not installed.
        MPOError: angr cannot load the file, or came to its limits.
    """
    read_image(path)
    angr_version()
    with LimitedWorker(open_for_discovery, {"path": str(path), "symbols": True}, limits) as worker:
        outcome = worker.run(None)
    if outcome.failure:
        raise MPOError(f"angr found no functions in {path.name} ({outcome.failure}: {outcome.detail}).")
    return tuple(Function(address, size, "angr", thumb=bool(thumb)) for address, size, thumb in outcome.value)
