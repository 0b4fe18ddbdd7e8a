"""Measurements of the run time of functions and of the speed of the machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.benchmark import timer


Figures: TypeAlias = dict[str, float]
"""Measured values by name and unit, for example ``{"collecting (s)": 2.1}``."""


def machine(device: torch.device, repeats: int) -> Figures:
    """Measure the speed of the machine, as a reference for benchmarks on different machines.

    Args:
        device: Device to measure.
        repeats: Number of timed repetitions; the medians are returned.

    Returns:
        Values by name and unit: the speed of a product of 2048 x 2048
        matrices in GFLOP/s, the memory bandwidth of a 128 MiB copy in GB/s,
        which counts bytes read and written, and the number of CPU threads
        that torch uses.

    Example::

        figures = machine(torch.device("cpu"), repeats=5)
        figures["memory copy (GB/s)"]  # such as 21.5
    """
    source = torch.randn(32 * 2**20, device=device)  # 128 MiB: larger than any cache
    target = torch.empty_like(source)
    copy = median(lambda: target.copy_(source), repeats)
    return {
        "matrix product (GFLOP/s)": matrix_product(device, repeats),
        "memory copy (GB/s)": 2 * 4 * source.numel() / 1e9 / copy,
        "threads (count)": float(torch.get_num_threads()),
    }


def matrix_product(device: torch.device, repeats: int) -> float:
    """Return the speed of a product of 2048 x 2048 matrices in GFLOP/s, the median of `repeats`.

    Args:
        device: Device to measure.
        repeats: Number of timed repetitions.

    Example::

        limit = matrix_product(torch.device("cpu"), repeats=5)
    """
    a = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / 1e9 / median(lambda: a @ a, repeats)


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in bytes, allocated by PyTorch on a GPU or used by a CPU process.

    Args:
        device: Device to measure.

    Example::

        before = peak_memory(torch.device("cpu"))
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux includes the process that started this one
        return 1024 * float(status.read_text().split("VmHWM:")[1].split()[0])
    import resource  # Windows has none

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: bytes


def median(function: Callable[[], Any], repeats: int, *, warm_up: bool = True) -> float:
    """Return the median wall time of a function call in seconds.

    Args:
        function: The function to call; its result is discarded.
        repeats: Number of timed calls.
        warm_up: Whether to call the function once before the timed calls.

    Example::

        seconds = median(lambda: torch.ones(1000).sum(), repeats=10)  # such as 4e-06
    """
    if warm_up:
        function()
    times = []
    for _ in range(repeats):
        began = timer()  # synchronizes with an accelerator
        function()
        times.append(timer() - began)
    return float(np.median(times))
