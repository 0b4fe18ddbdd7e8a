"""How fast this machine is, and how to find out."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.benchmark import timer


Figures: TypeAlias = dict[str, float]
"""Values by name and unit: ``{"collecting (s)": 2.1}``."""


def machine(device: torch.device, repeats: int) -> Figures:
    """Measure the machine itself: its matrix product and its memory."""
    a = torch.randn(2048, 2048, device=device)
    source = torch.randn(32 * 2**20, device=device)  # 128 MiB: more than any cache
    target = torch.empty_like(source)
    product = median(lambda: a @ a, repeats)
    copy = median(lambda: target.copy_(source), repeats)
    return {
        "matrix product (GFLOP/s)": 2 * 2048**3 / 1e9 / product,
        "memory copy (GB/s)": 2 * 4 * source.numel() / 1e9 / copy,
        "threads (count)": float(torch.get_num_threads()),
    }


def median(function: Callable[[], Any], repeats: int, *, warm_up: bool = True) -> float:
    """Return the median wall time of a call in seconds, after one to warm up."""
    if warm_up:
        function()
    times = []
    for _ in range(repeats):
        began = timer()  # it waits for an accelerator
        function()
        times.append(timer() - began)
    return float(np.median(times))
