"""Entries of infos, such as success: collected, averaged over episodes, and missing."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch.testing import assert_close

from metarl.core import InnerLoop, MetaParams, sgd, tree
from metarl.envs.navigation import Navigation2D
from metarl.envs.point import BatchedPointEnv
from metarl.rl.baseline import advantages
from metarl.rl.episodes import Rollout
from metarl.rl.evaluate import adaptation_curve
from metarl.rl.infos import episode_infos
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.sampler import Sampler, make_sampler
from tests.support.own_environment import register
from tests.support.problems import seeded


MARKS = [{"mark": 0.2}, {"mark": -0.4}]
NAMES = ("success", "near", "guess")
SPAWN = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}}


def policy_for(sampler: Sampler) -> Any:
    env = sampler.env
    return mlp_policy(
        env.single_observation_space, env.single_action_space, hidden=(4,), generator=seeded(0)
    )


def roll(sampler: Sampler, tasks: list[dict[str, Any]]) -> Rollout:
    policy, params = policy_for(sampler)
    return sampler.rollout(policy, tree.expand(params, len(tasks)), tasks, seeded(1))


@pytest.mark.parametrize("options", [{}, SPAWN], ids=["sync", "async"])
def test_infos_are_collected_and_other_entries_ignored(options: dict[str, Any]) -> None:
    env_id = register("Reports")
    sampler = make_sampler(env_id, num_tasks=2, episodes_per_task=2, info=NAMES, **options)
    rollout = roll(sampler, MARKS)
    sampler.env.close()
    guess, mask = rollout.actions[..., 0], rollout.mask
    assert_close(rollout.infos["guess"][mask], guess[mask])
    assert rollout.infos["success"][mask].equal((guess[mask] > 0.5).float())
    present = mask & (guess > 0)
    assert_close(rollout.infos["near"][present], rollout.rewards[present])
    assert rollout.infos["near"][mask & ~present].eq(-torch.inf).all()
    plain = roll(make_sampler(env_id, num_tasks=2, episodes_per_task=2), MARKS)
    assert plain.infos == {}
    assert plain.rewards.equal(rollout.rewards)


def test_the_value_of_an_episode_is_its_maximum() -> None:
    rollout = roll(
        make_sampler(register("Reports"), num_tasks=2, episodes_per_task=6, info=NAMES), MARKS
    )
    found = episode_infos(rollout)
    for task in range(2):
        episodes = [
            [(rollout.actions[task, t, e, 0].item(), rollout.rewards[task, t, e].item())
             for t in range(rollout.mask.shape[1]) if rollout.mask[task, t, e]]
            for e in range(6)
        ]  # fmt: skip
        solved = [any(guess > 0.5 for guess, _ in episode) for episode in episodes]
        near = [max([r for g, r in episode if g > 0], default=0.0) for episode in episodes]
        assert found["success"][task].item() == pytest.approx(np.mean(solved))
        assert found["near"][task].item() == pytest.approx(np.mean(near))
    assert 0 < found["success"].mean() < 1


def test_infos_are_reported_before_and_after_adaptation() -> None:
    sampler = make_sampler(register("Reports"), num_tasks=2, episodes_per_task=6, info=NAMES[:1])
    policy, params = policy_for(sampler)
    loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
    way = (policy, loop, MetaParams(params, {}), MARKS)
    batch, metrics = sampler.collect(*way, seeded(1), advantages())
    for step, episodes in enumerate((batch.support[0], batch.query)):
        expected = episode_infos(episodes)["success"].mean()
        assert_close(metrics[f"success/step_{step}"], expected)
    curve = adaptation_curve(sampler, *way, seeded(1), process=advantages())
    assert curve.infos["success"].shape == curve.returns.shape == (2, 2)
    assert curve.measures["success"]["mean"][1] == pytest.approx(metrics["success/step_1"].item())


class Arrives(BatchedPointEnv):
    """A vectorized environment whose info contains arrays without masks."""

    def step_rows(self, actions: Any) -> Any:
        seen, rewards, ended, _ = super().step_rows(actions)
        return seen, rewards, ended, {"distance": -rewards, "wide": np.zeros((self.num_envs, 2))}


def arrives(info: tuple[str, ...]) -> Sampler:
    env = Arrives(Navigation2D, 4, max_episode_steps=5)
    return Sampler(env, episodes_per_task=2, info=info)


def test_vectorized_environments_report_infos() -> None:
    rollout = roll(arrives(("distance",)), [{"goal": [0.3, 0.3]}, {"goal": [-0.5, 0.1]}])
    assert rollout.infos["distance"].equal(-rollout.rewards)


def test_scalar_environments_without_the_wrapper_report_infos() -> None:
    env = SyncVectorEnv([lambda: gymnasium.make(register("Tells"))] * 4)
    sampler = Sampler(env, episodes_per_task=2, info=("diverged",))
    rollout = roll(sampler, MARKS)
    expected = torch.where(rollout.diverged, 1.0, -torch.inf)
    assert rollout.infos["diverged"][rollout.mask].equal(expected[rollout.mask])


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (("success", "solved"), r"got solved: found guess, near, state, success\. Return"),
        (("text",), r"failed in step: info\['text'\] must be a number or a boolean, got 'a'"),
        (("state",), r"failed in step: info\['state'\] must be a number or a boolean, got"),
        (("return",), r"must not contain return"),
    ],
)
def test_wrong_names_are_rejected(info: tuple[str, ...], expected: str) -> None:
    env_id = register("Reports")
    with pytest.raises((ValueError, RuntimeError), match=expected):
        roll(make_sampler(env_id, num_tasks=1, episodes_per_task=20, info=info), MARKS[:1])


def test_worker_processes_list_the_names_of_their_infos() -> None:
    env_id = register("Reports")
    sampler = make_sampler(env_id, num_tasks=1, episodes_per_task=2, info=("solved",), **SPAWN)
    with pytest.raises(ValueError, match=r"got solved: found guess, (near, )?(state, )?success\."):
        roll(sampler, MARKS[:1])
    sampler.env.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wide", r"one number or boolean per episode as info\['wide'\], got an array of shape"),
        ("success", r"got success: found distance, wide"),
    ],
)
def test_wrong_names_of_vectorized_environments_are_rejected(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        roll(arrives((name,)), [{"goal": [0.3, 0.3]}, {"goal": [-0.5, 0.1]}])
