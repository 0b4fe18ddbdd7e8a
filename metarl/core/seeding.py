"""Random generators from (seed, iteration, role); resuming needs no saved generator state."""

import zlib

import numpy as np
import torch


def seed_sequence(seed: int, iteration: int, role: str) -> np.random.SeedSequence:
    """Return the independent seed of a role, such as "tasks", in one iteration."""
    return np.random.SeedSequence((seed, iteration, zlib.crc32(role.encode())))


def numpy_generator(seed: int, iteration: int, role: str) -> np.random.Generator:
    """Return the numpy generator of a role in one iteration."""
    return np.random.default_rng(seed_sequence(seed, iteration, role))


def uniform(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Sample from U(0, 1) on the device of the generator."""
    return torch.rand(shape, generator=generator, device=generator.device)


def torch_generator(
    seed: int, iteration: int, role: str, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the torch generator of a role in one iteration, on `device`."""
    state = seed_sequence(seed, iteration, role).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
