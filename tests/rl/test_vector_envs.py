"""Every vectorization of Gymnasium gives the episodes of a loop over scalar environments."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch.testing import assert_close

from metarl.core import Params, tree
from metarl.rl.episodes import Rollout
from metarl.rl.networks import mlp_policy
from metarl.rl.policies import Policy
from metarl.rl.sampler import Sampler, make_sampler
from tests.support.own_environment import PAGE, playground
from tests.support.pages import block
from tests.support.problems import seeded


ENV = "playground:playground/Pendulum-v0"
TASKS = [{"angle": 0.5, "length": 0.6}, {"angle": -1.0, "length": 1.4}]
EPISODES, HORIZON = 2, 50
MODES: dict[str, dict[str, Any]] = {
    "sync": {"vectorization_mode": "sync"},
    "sync, one buffer": {"vectorization_mode": "sync", "vector_kwargs": {"copy": False}},
    "sync, reset at once": {"vector_kwargs": {"autoreset_mode": "SameStep"}},
    "async, spawned": {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}},
    "async, one buffer": {
        "vectorization_mode": "async",
        "vector_kwargs": {"context": "spawn", "copy": False},
    },
    "batched": {},
}


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with playground(tmp_path_factory.mktemp("vector")):
        gymnasium.make(ENV).close()
        exec(block(PAGE, "batched"), {})
        yield


def sampler_of(mode: str) -> Sampler:
    env_id = "playground/FastPendulum-v0" if mode == "batched" else ENV
    return make_sampler(env_id, num_tasks=2, episodes_per_task=EPISODES, **MODES[mode])


def pushing(sampler: Sampler) -> tuple[Policy, Params]:
    """Build a policy with torques so large that some pendulums rotate fully."""
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(8,), init_std=0.5, generator=seeded(0))
    params["network.2.bias"] += 0.45
    return policy, tree.expand(params, sampler.num_tasks)


def slow_loop(rollout: Rollout) -> None:
    """Replay the recorded actions in scalar environments with the seeds of the rows."""
    seeds = torch.randint(2**31, (2 * EPISODES,), generator=seeded(0)).tolist()
    env = gymnasium.make(ENV)
    for row, (task, episode) in enumerate(np.ndindex(2, EPISODES)):
        env.unwrapped.task = TASKS[task]  # type: ignore[attr-defined]
        seen, ended = env.reset(seed=seeds[row])[0], False
        for t in range(HORIZON):
            at = (task, t, episode)
            assert rollout.mask[at].item() is not ended
            if ended:
                assert rollout.observations[at].eq(0).all()
                assert rollout.rewards[at] == rollout.actions[at] == 0
                continue
            assert rollout.observations[at].tolist() == seen.tolist()
            seen, reward, terminated, truncated, _ = env.step(rollout.actions[at].numpy())
            assert rollout.rewards[at].item() == np.float32(reward)
            ended = terminated or truncated


@pytest.mark.parametrize("mode", MODES)
def test_episodes_match_a_loop_over_scalar_environments(mode: str) -> None:
    sampler = sampler_of(mode)
    rollout = sampler.rollout(*pushing(sampler), TASKS, seeded(0))
    sampler.env.close()  # type: ignore[attr-defined]
    lengths = rollout.mask.sum(1)
    assert lengths.min() < HORIZON == lengths.max()
    assert rollout.observations[:, 0].flatten(0, 1).unique(dim=0).shape[0] == 2 * EPISODES
    slow_loop(rollout)


def test_second_rollout_starts_new_episodes() -> None:
    for mode in ("sync", "async, spawned", "batched"):
        sampler = sampler_of(mode)
        policy, params = pushing(sampler)
        first, again = (sampler.rollout(policy, params, TASKS, seeded(0)) for _ in range(2))
        sampler.env.close()  # type: ignore[attr-defined]
        assert_close(again, first, rtol=0, atol=0)


def test_consecutive_tasks_differ_and_do_not_depend_on_the_vectorization_mode() -> None:
    drawn = []
    for mode in ("sync", "async, spawned", "batched"):
        sampler, rng = sampler_of(mode), np.random.default_rng(3)
        drawn.append([sampler.sample_tasks(rng) for _ in range(3)])
        sampler.env.close()  # type: ignore[attr-defined]
    assert drawn[0] == drawn[1] == drawn[2]
    single: Any = gymnasium.make(ENV).unwrapped
    assert drawn[0][0] == single.sample_tasks(2, np.random.default_rng(3))
    assert len({task["angle"] for tasks in drawn[0] for task in tasks}) == 6


def test_scalar_and_vectorized_half_cheetahs_give_equal_episodes() -> None:
    env_id, tasks = "metarl/HalfCheetahDir-v1", [{"direction": 1}, {"direction": -1}]
    batched = make_sampler(env_id, num_tasks=2, episodes_per_task=2)
    scalar = make_sampler(env_id, num_tasks=2, episodes_per_task=2, vectorization_mode="sync")
    assert isinstance(scalar.env, SyncVectorEnv)
    spaces = batched.env.single_observation_space, batched.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(8,), generator=seeded(0))
    params = tree.expand(params, 2)
    actual, expected = (s.rollout(policy, params, tasks, seeded(0)) for s in (scalar, batched))
    assert expected.mask.all()
    assert not expected.rewards[0].equal(expected.rewards[1])
    assert_close(actual, expected, rtol=0, atol=0)
