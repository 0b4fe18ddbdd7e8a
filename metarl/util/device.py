"""Selection of the torch device."""

import os

import torch

from metarl.util.parsing import environment_integer


def resolve_device(name: str) -> torch.device:
    """Return the torch device with the given name.

    Args:
        name: ``"auto"``, or a torch device such as ``"cpu"`` or ``"cuda"``.
            ``"auto"`` selects CUDA if it is available and the CPU otherwise.
            Under ``torchrun``, ``"cuda"`` selects the GPU of this process by
            ``LOCAL_RANK``.

    Raises:
        ValueError: If CUDA is requested, but torch finds no CUDA device.

    Example::

        resolve_device("auto")  # torch.device("cuda") or torch.device("cpu")
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device={name} is not available: torch {torch.__version__} finds no CUDA device. "
            "Use device=cpu or install a CUDA build of torch"
        )
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", environment_integer("LOCAL_RANK") % torch.cuda.device_count())
    return torch.device(name)
