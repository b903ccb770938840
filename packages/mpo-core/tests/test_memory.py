import sys

import pytest

from mpo_core.repro.memory import peak_memory_bytes, reset_peak_memory

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_the_peak_is_that_since_the_reset():
    held = bytearray(200 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    high = peak_memory_bytes()
    del held
    reset_peak_memory()
    low = peak_memory_bytes()
    assert low < high - 100 * MIB
    held = bytearray(100 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory_bytes() > low + 50 * MIB
