"""What a matrix product or a permuted copy costs on a machine.

A forward or backward pass is a list of *operations*: products ``(rows, inner) @ (inner, cols)``, possibly a batch of
them, and copies that permute. What they count is exact; how long they take is an estimate from a few constants, good
enough to tell which of two plans is the faster one (`mpo_core.forward.cost`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from mpo_core.errors import UsageError


class Product(NamedTuple):
    """A batch of matrix products."""

    batch: int
    rows: int
    inner: int
    cols: int

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication with its addition counts as two."""
        return 2 * self.batch * self.rows * self.inner * self.cols


class Copy(NamedTuple):
    """A copy into another order of axes.

    Attributes:
        numbers: how many are copied.
        run: how many of them stay next to each other.
    """

    numbers: int
    run: int


Operation = Product | Copy

_LANES = 16
"""Columns that a kernel computes at once (a register of float32 in AVX-512); a last, partial group costs a full one."""


@dataclass(frozen=True, eq=False)
class Machine:
    """The constants behind `seconds`; the defaults are one core of a Zen 4 server in float32.

    A product takes, the parts for each matrix only in a batch::

        call + batch * (item + 2 rows inner width(cols) / flops + itemsize (inner + rows) cols / bandwidth)

    with ``width`` the columns rounded up to 16, or what `narrow` says for fewer, and a copy::

        call + 2 itemsize numbers / bandwidth + run numbers / max(run length, 4)

    On 1,300 products of all shapes that occur, the median error of this estimate was 7 %.

    Attributes:
        flops: floating-point operations per second in a large product.
        bandwidth: bytes per second at which operands and results pass through the cache.
        narrow: (columns, width) in ascending order: products of at most so many columns cost as much as so wide ones.
        item: seconds for every matrix of a batch.
        item_number: seconds for every number of the left matrix, in a batch of products of less than 32 columns.
        call: seconds for every operation, with what Python does around it.
        run: seconds for every run of a copy.
        cache: bytes that stay in the cache from one operation to the next.
        itemsize: bytes of a number.
    """

    flops: float = 9.9e10
    bandwidth: float = 3.5e10
    narrow: tuple[tuple[int, int], ...] = ((8, 54), (15, 30))
    item: float = 4.5e-8
    item_number: float = 0.0
    call: float = 5e-6
    run: float = 3e-9
    cache: int = 3 * 2**20
    itemsize: int = 4

    def seconds(self, operations: Iterable[Operation]) -> float:
        """Estimated time of operations, one after the other."""
        return sum(
            self._product(*operation) if isinstance(operation, Product) else self._copy(*operation)
            for operation in operations
        )

    def _product(self, batch: int, rows: int, inner: int, cols: int) -> float:
        one = 2 * rows * inner * self._width(cols) / self.flops
        one += self.itemsize * (inner + rows) * cols / self.bandwidth
        if batch > 1:
            one += self.item + (self.item_number * rows * inner if cols < 32 else 0.0)
        return self.call + batch * one

    def _copy(self, numbers: int, run: int) -> float:
        return self.call + 2 * self.itemsize * numbers / self.bandwidth + self.run * numbers / max(run, 4)

    def _width(self, cols: int) -> int:
        for limit, width in self.narrow:
            if cols <= limit:
                return width
        return -(-cols // _LANES) * _LANES

    @classmethod
    def measure(cls, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
        """The constants of this machine, with as many threads as torch uses now; takes about a second.

        Use them with `use_machine`. Nothing is measured unless asked for: which plan a layer chooses, and with it
        the last bits of its output, must not change from run to run.
        """
        start = machine_for(torch.device(device).type, dtype)
        size = dtype.itemsize

        def ones(*sizes: int) -> torch.Tensor:
            return torch.ones(sizes, device=device, dtype=dtype)

        with torch.inference_mode():
            tiny, square, row, wide, many, axes = (
                ones(4, 16), ones(1024, 1024), ones(1, 1024), ones(1024, 2048), ones(512, 16, 16), ones(256, 256, 8),
            )  # fmt: skip
            call = _least_seconds(lambda: tiny.T @ tiny, device)
            flops = 2 * 1024**3 / (_least_seconds(lambda: square @ square, device) - call)
            vector = _least_seconds(lambda: row @ wide, device) - call - 2 * wide.numel() / flops
            bandwidth = size * wide.numel() / max(vector, 1e-7)
            item = (_least_seconds(lambda: many @ many, device) - call) / 512 - 2 * 16**3 / flops
            run = (_least_seconds(lambda: axes.transpose(0, 1).contiguous(), device) - call) / 256**2
            narrow: list[tuple[int, int]] = []
            for limit, _ in start.narrow:
                columns = ones(1024, limit)
                product = _least_seconds(lambda columns=columns: square @ columns, device) - call
                narrow.append((limit, max(1, round(product * flops / (2 * square.numel())))))
        return replace(
            start,
            flops=flops,
            bandwidth=bandwidth,
            narrow=tuple(narrow),
            item=max(item, 0.0),
            call=call + _PYTHON_SECONDS,
            run=max(run - 16 * size / bandwidth, 0.0),
            itemsize=size,
        )


_PYTHON_SECONDS = 2.5e-6
"""What views and Python cost around one operation."""

_CPU = Machine()
# oneDNN multiplies the half types: twice as fast, with a longer way to each product. A GPU is rated roughly.
_MACHINES: dict[tuple[str, torch.dtype], Machine] = {
    ("cpu", torch.float32): _CPU,
    ("cpu", torch.float64): replace(_CPU, flops=4.8e10, itemsize=8),
    ("cpu", torch.bfloat16): replace(
        _CPU, flops=2.1e11, bandwidth=2.7e10, narrow=((8, 51), (15, 28)), item_number=1.4e-9, call=1.8e-5, itemsize=2
    ),
}
_GPU = Machine(
    flops=3e13, bandwidth=1e12, narrow=((15, 16),), item=0.0, call=1.5e-5, run=0.0, cache=256 * 2**20, itemsize=4
)


def machine_for(device_type: str, dtype: torch.dtype) -> Machine:
    """The machine that plans are made for on a device, in a dtype; see `use_machine`."""
    machine = _MACHINES.get((device_type, dtype))
    if machine is None:
        half = dtype.itemsize == 2
        base = _MACHINES["cpu", torch.bfloat16 if half else torch.float32] if device_type in ("cpu", "meta") else _GPU
        machine = _MACHINES[device_type, dtype] = replace(base, itemsize=dtype.itemsize)
    return machine


def use_machine(machine: Machine, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Plan with these constants from now on, for tensors of this dtype on this kind of device.

    Example:
        >>> use_machine(Machine.measure())  # doctest: +SKIP

    Raises:
        UsageError: the machine counts numbers of another size.
    """
    if machine.itemsize != dtype.itemsize:
        raise UsageError(
            f"use_machine: the machine is for numbers of {machine.itemsize} bytes, {dtype} has {dtype.itemsize};"
            " measure it with this dtype."
        )
    _MACHINES[torch.device(device).type, dtype] = machine


def _least_seconds(function: Callable[[], object], device: torch.device | str, rounds: int = 7) -> float:
    """Least time of a call; several calls are timed together where one is short."""
    on_cpu = torch.device(device).type == "cpu"
    # With one thread, the time of the process is that of the work, whatever else the machine is doing.
    clock = time.process_time if on_cpu and torch.get_num_threads() == 1 else time.perf_counter

    def sample(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            function()
        if not on_cpu:
            torch.cuda.synchronize()
        return (clock() - start) / calls

    sample(1)
    calls = max(1, round(0.004 / max(sample(1), 1e-6)))
    return min(sample(calls) for _ in range(rounds))
