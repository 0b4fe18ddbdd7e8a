"""Updates that fail are reported, and unused time limits cost nothing."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from metarl.core import InnerLoop, MetaState, Task, sgd, tree
from metarl.rl import stability
from metarl.rl.episodes import padded_length
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.policies import GaussianMLP, Policy
from metarl.rl.sampler import make_sampler
from metarl.rl.trpo import maml_trpo
from tests.support.commands import history, metarl
from tests.support.own_environment import Mark
from tests.support.problems import FEATURES, problem, random_episodes, seeded


class Pressure(Mark):
    """Observes values close to 10⁵."""

    scale = 1.0

    def _noise(self) -> Any:
        return (101_325 + 100 * super()._noise()) * np.float32(self.scale)


class Scaled(Pressure):
    """The same environment with observations close to 1."""

    scale = 1e-5


class Early(Mark):
    """Terminates after four steps."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.time += 1
        seen, reward, _, truncated, info = super().step(action)
        return seen, reward, self.time == 4, truncated, info


def env_id(kind: type[Mark], horizon: int = 10) -> str:
    name = f"own/{kind.__name__}{horizon}-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, kind, max_episode_steps=horizon)
    return name


SMALL = ("--num-tasks", 4, "--episodes-per-task", 5, "--inner-lr", 0.1)


def test_rejected_steps_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    objective, meta, tasks = problem()
    learner = maml_trpo(objective.policy, objective.loop, max_kl=1e3, backtracks=1)
    state = MetaState(meta)
    for _ in range(5):
        state, metrics = learner.step(state, tasks)
        assert metrics["trpo/step_fraction"] == 0
    assert capsys.readouterr().err.count("has accepted no step in 3 consecutive updates") == 1


def test_scaled_observations_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--env", env_id(Scaled), *SMALL, "--hidden", 64, 64, "--iterations", 4)
    metarl("train", "maml-trpo", *words, "--out", tmp_path / "run")
    assert all(line["trpo/step_fraction"] > 0 for line in history(tmp_path / "run"))
    assert "warning" not in capsys.readouterr().err


def test_an_accepted_step_resets_the_counter(capsys: pytest.CaptureFixture[str]) -> None:
    steps = stability.RejectedSteps()
    for accepted in (False, False, True, False, False):
        steps.add(accepted=accepted)
    assert capsys.readouterr().err == ""


def test_a_non_finite_step_is_an_error() -> None:
    """Gradients of this linear policy are finite, but products of the Fisher matrix overflow."""
    policy, params = Policy.of(GaussianMLP((FEATURES, 2)).double())
    loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=0)
    meta = loop.init(tree.scale(params, 0.0))
    episodes = random_episodes(policy, meta.model, seeded(0), time=4, episodes=3)
    huge = episodes._replace(observations=1e120 * episodes.observations)
    tasks = tree.stack([Task((), huge)])
    with pytest.raises(FloatingPointError, match=r"must be finite, got norm .* scale the"):
        maml_trpo(policy, loop).step(MetaState(meta), tasks)


def test_normalized_observations_of_any_size_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--env", env_id(Pressure), *SMALL, "--hidden", 8, "--iterations", 4)
    metarl("train", "maml-trpo", *words, "--normalize-observations", "--out", tmp_path / "run")
    assert all(line["trpo/step_fraction"] > 0 for line in history(tmp_path / "run"))
    assert "warning" not in capsys.readouterr().err


def test_an_exploding_kl_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stability._warn_of_large_kl.cache_clear()
    words = ("--env", env_id(Pressure), *SMALL, "--hidden", 64, 64, "--iterations", 3)
    metarl("train", "promp", *words, "--out", tmp_path / "run")
    assert capsys.readouterr().err.count("KL divergence of an update is NaN or exceeds 100") == 1


LENGTHS = {(100, 100): 100, (51, 100): 100, (50, 100): 50, (4, 10_000): 5, (1, 7): 1, (3, 5): 3}


@pytest.mark.parametrize(("longest", "horizon"), LENGTHS)
def test_the_time_axis_is_halved_while_all_episodes_fit(longest: int, horizon: int) -> None:
    assert padded_length(longest, horizon) == LENGTHS[longest, horizon]


def test_an_unused_time_limit_costs_nothing() -> None:
    short, long = (
        make_sampler(env_id(Early, horizon), num_tasks=2, episodes_per_task=3)
        for horizon in (8, 10_000)
    )
    spaces = short.env.single_observation_space, short.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(4,), generator=torch.Generator().manual_seed(1))
    tasks = [{"mark": 0.1}, {"mark": 0.5}]
    rollouts = [
        sampler.rollout(policy, tree.expand(params, 2), tasks, torch.Generator().manual_seed(0))
        for sampler in (short, long)
    ]
    assert [rollout.rewards.shape[1] for rollout in rollouts] == [4, 5]
    assert torch.equal(rollouts[0].rewards, rollouts[1].rewards[:, :4])
    assert not rollouts[1].mask[:, 4:].any()
