"""One thread per test process, and no state that a test leaves to the next one.

Spinning threads of several workers on few cores cost many times the CPU time.
"""

import os
import sys
from collections.abc import Iterator

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def accelerate_forgets() -> Iterator[None]:
    """Accelerate keeps one device and precision for a process, and so from one test to the next."""
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        for shared in (state.AcceleratorState, state.GradientState, state.PartialState):
            shared._reset_state()
