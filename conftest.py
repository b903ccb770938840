"""One thread per test process, on the CPU, and no state that a test leaves to the next one.

Spinning threads of several workers on few cores cost many times the CPU time. Bits are compared between runs, which
only a CPU promises; what a GPU does is in tests/test_cuda.py and in the tests with the parameter `cuda`.
"""

import os
import sys
from collections.abc import Iterator

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")


@pytest.fixture(autouse=True)
def accelerate_forgets() -> Iterator[None]:
    """Accelerate keeps one device and precision for a process, and so from one test to the next."""
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        for shared in (state.AcceleratorState, state.GradientState, state.PartialState):
            shared._reset_state()
