"""The number of threads does not change results."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from metarl.core import InnerLoop, Task, sgd
from metarl.rl.baseline import advantages
from metarl.rl.distributions import Gaussian
from metarl.rl.episodes import Episodes, rollout_metrics
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.sampler import make_sampler
from metarl.rl.trpo import trust_region_step
from tests.support.problems import seeded


pytestmark = pytest.mark.usefixtures("free_threads")


def test_collecting_and_stepping_are_bit_identical_for_one_and_two_threads() -> None:
    sampler = make_sampler(
        "metarl/Navigation2D-v0", num_tasks=3, episodes_per_task=10, max_episode_steps=10
    )
    env = sampler.env
    # torch distributes sums of more than 32,768 terms over threads; a layer must be larger.
    policies = [
        mlp_policy(
            env.single_observation_space,
            env.single_action_space,
            hidden=(192, 192),
            generator=seeded(seed),
        )
        for seed in (4, 5)
    ]
    policy, _ = policies[0]
    loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
    objective = PostAdaptationObjective(policy, loop)
    goals = sampler.sample_tasks(np.random.default_rng(0))

    def run(num_threads: int, params: Any) -> Any:
        torch.set_num_threads(num_threads)
        meta = loop.init(params)
        tasks, collected = sampler.collect(policy, loop, meta, goals, seeded(0), advantages())
        new, stepped = trust_region_step(objective, meta, tasks, chunk_size=1)
        assert torch.get_num_threads() == num_threads
        return tasks, new, collected | stepped

    for _, params in policies:
        one, two = run(1, params), run(2, params)
        assert_close(two, one, rtol=0, atol=0)
        assert one[-1]["trpo/step_fraction"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_a_rollout_are_bit_identical_for_one_and_two_threads(seed: int) -> None:
    shape = (20, 100, 20)
    values = torch.randn(*shape, 2, generator=seeded(seed))
    behavior, ones = Gaussian(values, values), torch.ones(shape)
    episodes = Episodes(values, values, ones, ones > 0, behavior, ones)

    def run(num_threads: int) -> Any:
        torch.set_num_threads(num_threads)
        return rollout_metrics(Task((), episodes))

    assert_close(run(2), run(1), rtol=0, atol=0)
