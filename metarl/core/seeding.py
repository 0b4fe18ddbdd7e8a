"""Random generators that depend only on the run's seed, the iteration and a role.

A role names the purpose of the random numbers, such as "tasks" or "rollouts".
Checkpoints contain no generator state, because every iteration creates new
generators.
"""

import zlib

import numpy as np
import torch


def seed_sequence(seed: int, iteration: int, role: str) -> np.random.SeedSequence:
    """Return a NumPy seed sequence that depends only on the arguments.

    Args:
        seed: The run's seed.
        iteration: The iteration, or 0 outside training.
        role: Purpose of the random numbers, such as ``"tasks"``. Different
            roles give independent random numbers.
    """
    return np.random.SeedSequence((seed, iteration, zlib.crc32(role.encode())))


def numpy_generator(seed: int, iteration: int, role: str) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`seed_sequence` with the same arguments."""
    return np.random.default_rng(seed_sequence(seed, iteration, role))


def uniform(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Sample a tensor of the given shape from U(0, 1), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def torch_generator(
    seed: int, iteration: int, role: str, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on `device`, seeded by :func:`seed_sequence` with the other arguments."""
    state = seed_sequence(seed, iteration, role).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
