"""Random generators from (seed, iteration, role); resuming needs no saved generator state."""

import zlib

import numpy as np
import torch


def seed_sequence(seed: int, iteration: int, role: str) -> np.random.SeedSequence:
    """Return the seed of (seed, iteration, role); a role is a name such as "tasks"."""
    return np.random.SeedSequence((seed, iteration, zlib.crc32(role.encode())))


def numpy_generator(seed: int, iteration: int, role: str) -> np.random.Generator:
    """Return a ``numpy.random.Generator`` seeded by (seed, iteration, role)."""
    return np.random.default_rng(seed_sequence(seed, iteration, role))


def uniform(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Sample from U(0, 1) on the device of the generator."""
    return torch.rand(shape, generator=generator, device=generator.device)


def torch_generator(
    seed: int, iteration: int, role: str, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a ``torch.Generator`` on `device`, seeded by (seed, iteration, role)."""
    state = seed_sequence(seed, iteration, role).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
