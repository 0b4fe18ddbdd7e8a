"""Models of Stable-Baselines3, made for episodes of tasks and trained in repeatable stretches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium.spaces import Box, Discrete, Space
from stable_baselines3.common.noise import NormalActionNoise

from metarl.core.speed import chunks


CONTINUOUS = ("sac", "td3")
NOISE = 0.1  # of TD3's actions: without any it would not explore
ROLLOUT = 1000  # environment steps that an update of PPO needs at least
BATCHES = 8  # of a rollout


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
    """Build an untrained model.

    Settings that are no arguments are SB3's own, but for three. PPO updates on whole episodes, of
    1,000 steps or more together, in batches of an eighth. SAC and TD3 take a gradient step for each
    environment step, however many environments there are, after ten episodes. TD3 explores.

    Args:
        algo: ``"ppo"``, ``"a2c"``, ``"sac"`` or ``"td3"``.
        env: A vector environment of SB3, such as :func:`metarl.sb3.environments.sb3_env` builds.
        horizon: Time steps of an episode.
        seed: Of the weights; it seeds the global generators, from which SB3 draws.
        discount: γ.
        hidden: Widths of the hidden layers; by default SB3's.
        learning_rate: By default SB3's.
        device: Where the networks live.

    Raises:
        ValueError: If the algorithm does not fit the spaces of the environment.
    """
    require_spaces(algo, env.observation_space, env.action_space)
    options: dict[str, Any] = {}
    if algo == "ppo":
        steps = horizon * max(1, math.ceil(ROLLOUT / (env.num_envs * horizon)))
        total = steps * env.num_envs
        # SB3 warns of a last batch that is smaller than the others.
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
    """Train until a model has made `steps` environment steps, or a rollout more.

    Its episodes are new ones, all that is random comes from `seed`, and operators run on one thread
    each. So a model that was saved and loaded goes on as if it had not been: on a CPU bit for bit,
    for SAC and TD3 if its replay buffer was saved too.
    """
    model.set_random_seed(seed)
    model.set_env(model.get_env())  # which makes it reset
    model._n_updates = 0  # TD3 delays its actor by this count, which no file keeps
    with chunks.one_thread_per_operator():  # also several times faster on a busy machine
        if steps > model.num_timesteps:
            model.learn(steps - model.num_timesteps, reset_num_timesteps=False)


def require_spaces(algo: str, seen: Space[Any], acted: Space[Any]) -> None:
    """Refuse spaces that an algorithm cannot work with.

    Raises:
        ValueError: If one is such.
    """
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise ValueError(
            f"{algo} reads flat Box observations, got {seen}; wrap the environment in "
            "gymnasium.wrappers.FlattenObservation"
        )
    if isinstance(acted, Discrete):
        if algo in CONTINUOUS:
            raise ValueError(f"{algo} needs continuous actions, got {acted}; use ppo or a2c")
    elif not isinstance(acted, Box) or not acted.is_bounded():
        raise ValueError(f"{algo} needs actions in a bounded Box or a Discrete, got {acted}")
