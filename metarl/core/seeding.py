"""Random generators that depend only on the seed of the run, the iteration and a role.

A role names the use of the random numbers, such as "tasks". A resumed run therefore needs no saved
generator state.
"""

import zlib

import numpy as np
import torch


def seed_sequence(seed: int, iteration: int, role: str) -> np.random.SeedSequence:
    """Return the NumPy seed sequence of a seed, an iteration and a role such as "tasks"."""
    return np.random.SeedSequence((seed, iteration, zlib.crc32(role.encode())))


def numpy_generator(seed: int, iteration: int, role: str) -> np.random.Generator:
    """Return a NumPy generator for a seed, an iteration and a role such as "tasks"."""
    return np.random.default_rng(seed_sequence(seed, iteration, role))


def uniform(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Sample from U(0, 1) on the device of the generator."""
    return torch.rand(shape, generator=generator, device=generator.device)


def torch_generator(
    seed: int, iteration: int, role: str, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a torch generator for a seed, an iteration and a role such as "tasks"."""
    state = seed_sequence(seed, iteration, role).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
