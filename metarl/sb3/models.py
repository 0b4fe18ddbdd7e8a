"""Creation and reproducible training of Stable-Baselines3 models."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium.spaces import Box, Discrete, Space
from stable_baselines3.common.noise import NormalActionNoise

from metarl.core.speed import chunks
from metarl.sb3.environments import require_flat


CONTINUOUS = ("sac", "td3")
NOISE = 0.1  # standard deviation of TD3's action noise; SB3 has none by default
ROLLOUT = 1000  # minimum number of environment steps per PPO update
BATCHES = 8  # maximum number of minibatches per rollout


def make_model(
    algo: str,
    env: Any,
    *,
    horizon: int,
    seed: int,
    discount: float = 0.99,
    hidden: Sequence[int] | None = None,
    learning_rate: float | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """Create an untrained SB3 model.

    Hyperparameters that are not arguments have SB3's default values, with three
    exceptions. PPO updates on whole episodes with at least 1000 environment
    steps per update, split into at most eight minibatches of equal size. SAC
    and TD3 start training after ten times `horizon` environment steps, with one
    gradient step per environment step. TD3 explores with Gaussian action noise
    of standard deviation 0.1.

    Args:
        algo: ``"ppo"``, ``"a2c"``, ``"sac"`` or ``"td3"``.
        env: An SB3 vectorized environment, such as the result of
            :func:`metarl.sb3.environments.sb3_env`.
        horizon: Number of time steps per episode.
        seed: Seed for the network weights and for the global random generators, which SB3 uses.
        discount: Discount factor γ.
        hidden: Widths of the hidden layers. None uses SB3's default.
        learning_rate: Step size. None uses SB3's default.
        device: Device for the networks.

    Raises:
        ValueError: If the algorithm does not support the environment's spaces.
    """
    require_spaces(algo, env.observation_space, env.action_space)
    options: dict[str, Any] = {}
    if algo == "ppo":
        steps = horizon * max(1, math.ceil(ROLLOUT / (env.num_envs * horizon)))
        total = steps * env.num_envs
        # SB3 warns about a last minibatch that is smaller than the others.
        sizes = (n for n in range(math.ceil(total / BATCHES), total) if total % n == 0)
        options |= {"n_steps": steps, "batch_size": next(sizes, total)}
    if algo in CONTINUOUS:
        options |= {"learning_starts": 10 * horizon, "gradient_steps": -1}
    if algo == "td3":
        zero = np.zeros(env.action_space.shape)
        options["action_noise"] = NormalActionNoise(zero, zero + NOISE)
    if hidden is not None:
        options["policy_kwargs"] = {"net_arch": [*hidden]}
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    kind = getattr(stable_baselines3, algo.upper())
    return kind("MlpPolicy", env, gamma=discount, seed=seed, device=device, **options)


def advance(model: Any, steps: int, *, seed: int) -> None:
    """Train a model until it has taken at least `steps` environment steps in total.

    Training starts new episodes, sets the global random generators to `seed`,
    and runs single-threaded operators. On a CPU, a model that was saved and
    loaded therefore continues with bit-identical results; SAC and TD3 also
    require the saved replay buffer.

    Args:
        model: The SB3 model to train in place.
        steps: Total number of environment steps, including steps from earlier calls.
        seed: Seed for all random numbers in this call.
    """
    model.set_random_seed(seed)
    model.set_env(model.get_env())  # resets the environment
    model._n_updates = 0  # TD3 delays its actor by this count, which is not saved
    with chunks.one_thread_per_operator():  # reproducible, and faster on a busy machine
        if steps > model.num_timesteps:
            model.learn(steps - model.num_timesteps, reset_num_timesteps=False)


def require_spaces(algo: str, seen: Space[Any], acted: Space[Any]) -> None:
    """Check that an SB3 algorithm supports the spaces of an environment.

    Args:
        algo: ``"ppo"``, ``"a2c"``, ``"sac"`` or ``"td3"``.
        seen: Observation space of a single environment.
        acted: Action space of a single environment.

    Raises:
        ValueError: If a space is not supported.
    """
    require_flat(seen, algo)
    if isinstance(acted, Discrete):
        if algo in CONTINUOUS:
            raise ValueError(f"{algo} requires continuous actions, got {acted}; use ppo or a2c")
    elif not isinstance(acted, Box) or not acted.is_bounded():
        raise ValueError(
            f"{algo} requires a bounded Box or a Discrete action space, got {acted}. Change the "
            "action space of the environment"
        )
