"""The choice of a device: the only place that asks the machine what it has."""

import os

import torch


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; ``auto`` is CUDA where there is one.

    Raises:
        ValueError: If CUDA is asked for and torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device={name}: torch {torch.__version__} finds no CUDA device; "
            "use device=cpu, or install a CUDA build of torch"
        )
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun: a device for each process
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(name)
