"""The sampler against a loop over scalar environments, and adaptation."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from metarl.core import InnerLoop, Params, meta_sgd, sgd, tree
from metarl.rl.baseline import advantages
from metarl.rl.episodes import Episodes, Rollout, mean_return, rollout_metrics
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.policies import Policy
from metarl.rl.sampler import Sampler, make_sampler
from tests.support.problems import seeded, task_of
from tests.support.reference_losses import happened, plain_path, plain_reinforce


ID = "metarl/Navigation2D-v0"
TASKS = [{"goal": [0.3, 0.3]}, {"goal": [0.5, 0.5]}, {"goal": [-0.5, 0.2]}]
EPISODES = 2


def sampler(num_tasks: int = 3, *, horizon: int = 20) -> Sampler:
    return make_sampler(
        ID, num_tasks=num_tasks, episodes_per_task=EPISODES, max_episode_steps=horizon
    )


def random_policy() -> tuple[Policy, Params]:
    env = gymnasium.make(ID)
    return mlp_policy(
        env.observation_space, env.action_space, hidden=(8,), activation="tanh", generator=seeded(0)
    )


def northeast() -> tuple[Policy, Params]:
    """Build a policy that always moves by (0.1, 0.1), almost without noise."""
    policy, params = random_policy()
    params = tree.scale(params, 0.0)
    params["network.2.bias"] += 1.5
    params["log_std"] -= 8.0
    return policy, params


def roll(sampler: Sampler, policy: Policy, params: Params, seed: int = 0) -> Rollout:
    tasks = TASKS[: sampler.num_tasks]
    return sampler.rollout(policy, tree.expand(params, sampler.num_tasks), tasks, seeded(seed))


def assert_equals_a_slow_loop(rollout: Rollout, *, horizon: int = 20) -> None:
    """Replay the recorded actions in scalar environments."""
    env = gymnasium.make(ID, max_episode_steps=horizon)
    for task, episode in np.ndindex(rollout.mask.shape[0], EPISODES):
        env.unwrapped.task = TASKS[task]
        seen, ended = env.reset()[0], False
        for t in range(rollout.mask.shape[1]):
            at = (task, t, episode)
            assert rollout.mask[at].item() is not ended
            if ended:
                continue
            assert rollout.observations[at].tolist() == seen.tolist()
            seen, reward, terminated, truncated, _ = env.step(rollout.actions[at].numpy())
            assert rollout.rewards[at].item() == np.float32(reward)
            ended = terminated or truncated


@pytest.mark.parametrize("make_policy", [random_policy, northeast])
def test_rollout_equals_a_slow_loop_over_scalar_environments(make_policy: Any) -> None:
    rollout = roll(sampler(), *make_policy())
    assert rollout.mask.shape == (3, 20, EPISODES)
    assert_equals_a_slow_loop(rollout)


def test_episodes_that_end_early_are_masked() -> None:
    rollout = roll(sampler(2), *northeast())
    assert rollout.mask.sum(1).tolist() == [[3, 3], [5, 5]]
    for name, value in rollout._asdict().items():
        assert all(x.shape[:3] == (2, 5, EPISODES) for x in tree.leaves(value)), name
        assert all(x.isfinite().all() for x in tree.leaves(value)), name
    assert_equals_a_slow_loop(rollout)


def test_return_excludes_rewards_after_the_end() -> None:
    policy, params = northeast()
    expected = -(2**0.5) * torch.tensor([0.2 + 0.1, 0.4 + 0.3 + 0.2 + 0.1])
    assert_close(mean_return(roll(sampler(2), policy, params)), expected, rtol=0, atol=0.01)


def test_actions_are_sampled_from_the_recorded_behavior() -> None:
    policy, params = random_policy()
    params["log_std"] -= 1.0
    rollout = roll(sampler(horizon=100), policy, params)
    assert_close(rollout.behavior, policy(params, rollout.observations), rtol=1e-5, atol=1e-5)
    noise = ((rollout.actions - rollout.behavior.mean) / rollout.behavior.log_std.exp())[
        rollout.mask
    ]
    assert noise.mean().abs() < 0.1
    assert (noise.std() - 1).abs() < 0.1
    assert rollout.actions.abs().max() > 1  # unclipped


def test_the_seed_of_the_generator_determines_the_rollout() -> None:
    policy, params = random_policy()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (roll(sampler(), policy, params, seed) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert_close(again, first, rtol=0, atol=0)
    assert not other.actions.equal(first.actions)


def test_rollouts_do_not_depend_on_earlier_rollouts() -> None:
    policy, params = random_policy()
    used = sampler()
    roll(used, *northeast(), seed=9)
    assert_close(roll(used, policy, params), roll(sampler(), policy, params), rtol=0, atol=0)


def test_vector_environments_of_gymnasium_give_the_same_episodes() -> None:
    env = gymnasium.make_vec(ID, num_envs=3 * EPISODES, vectorization_mode="sync")
    sync, batched = Sampler(env, episodes_per_task=EPISODES), sampler(horizon=100)
    assert sync.horizon == 100
    drawn = [s.sample_tasks(np.random.default_rng(0)) for s in (sync, batched)]
    assert drawn[0] == drawn[1]
    for policy, params in (northeast(), random_policy()):
        actual, expected = roll(sync, policy, params), roll(batched, policy, params)
        assert actual.mask.equal(expected.mask)
        for index in range(3):
            pair = (happened(task_of(rollout, index)) for rollout in (actual, expected))
            assert_close(*pair, rtol=0, atol=0)
        assert_equals_a_slow_loop(actual, horizon=100)


def test_episodes_k_are_collected_by_the_policy_after_k_inner_steps() -> None:
    policy, params = random_policy()
    loop = InnerLoop(reinforce(policy), meta_sgd(0.5), num_steps=2)
    meta = loop.init(params)
    tasks, metrics = sampler().collect(policy, loop, meta, TASKS, seeded(0), advantages())
    assert len(tasks.support) == 2
    for task in (task_of(tasks, index) for index in range(3)):
        path = plain_path(plain_reinforce(policy), meta, task.support, lr=0.0)
        for adapted, batch in zip(path, (*task.support, task.query), strict=True):
            expected = tree.detach(policy(adapted, batch.observations))
            assert_close(batch.behavior, expected, rtol=1e-4, atol=1e-5)
        assert not path[-1]["network.0.weight"].allclose(params["network.0.weight"], atol=1e-3)
    for index, batch in enumerate((*tasks.support, tasks.query)):
        assert isinstance(batch, Episodes)
        assert_close(metrics[f"return/step_{index}"], mean_return(batch).mean())
    assert {"gradient/inner_0", "gradient/inner_1"} <= set(metrics)


def test_support_and_query_can_have_different_advantages() -> None:
    policy, params = random_policy()
    loop = InnerLoop(reinforce(policy), sgd(0.5), num_steps=2)
    inner, outer = advantages(gae_lambda=0.3), advantages(gae_lambda=1.0)
    collected = sampler().collect(policy, loop, loop.init(params), TASKS, seeded(0), (inner, outer))
    for batch, process in zip(
        (*collected[0].support, collected[0].query), (inner, inner, outer), strict=True
    ):
        rollout = Rollout(*batch[:5], diverged=~batch.mask)
        assert_close(torch.func.vmap(process)(rollout)[0].advantages, batch.advantages)


def test_agreement_is_the_cosine_of_the_gradients_of_two_halves() -> None:
    policy, params = random_policy()
    loop = InnerLoop(reinforce(policy), sgd(0.5), num_steps=1)
    meta = loop.init(params)
    tasks, metrics = sampler().collect(policy, loop, meta, TASKS, seeded(0), advantages())
    cosines = []
    for batch in (task_of(tasks, index).support[0] for index in range(3)):
        halves = [tree.map_leaves(lambda x, k=k: x[:, [k]], batch) for k in range(EPISODES)]
        grads = [loop.gradient(params, half) for half in halves]
        one, two = (torch.cat([x.flatten() for x in grad.values()]) for grad in grads)
        cosines.append(torch.cosine_similarity(one, two, dim=0))
    assert_close(metrics["gradient/agreement_0"], torch.stack(cosines).mean())
    single = make_sampler(ID, num_tasks=3, episodes_per_task=1)
    _, metrics = single.collect(policy, loop, meta, TASKS, seeded(0), advantages())
    assert "gradient/agreement_0" not in metrics


def test_tasks_can_start_from_different_parameters() -> None:
    policy, params = random_policy()
    loop = InnerLoop(reinforce(policy), sgd(0.5), num_steps=1)
    scales = torch.tensor([1.0, 0.5, -1.0])
    start = tree.map_leaves(lambda p: torch.stack([scale * p for scale in scales]), params)
    meta = loop.init(params)
    tasks, _ = sampler().collect(policy, loop, meta, TASKS, seeded(0), advantages(), start=start)
    for index, scale in enumerate(scales):
        own, task = tree.scale(params, scale), task_of(tasks, index)
        path = loop.path(loop.init(own), task.support)
        for adapted, batch in zip(path, (*task.support, task.query), strict=True):
            expected = tree.detach(policy(adapted, batch.observations))
            assert_close(batch.behavior, expected, rtol=1e-4, atol=1e-5)


def test_zero_inner_steps_only_collect_the_query() -> None:
    policy, params = random_policy()
    loop = InnerLoop(reinforce(policy), meta_sgd(0.5), num_steps=0)
    tasks, metrics = sampler().collect(
        policy, loop, loop.init(params), TASKS, seeded(0), advantages()
    )
    assert tasks.support == ()
    assert_close(tasks.query[:5], roll(sampler(), policy, params)[:5])
    assert "return/step_0" in metrics


def test_metrics_describe_the_rollouts() -> None:
    policy, params = northeast()
    loop = InnerLoop(reinforce(policy), meta_sgd(0.0), num_steps=1)
    tasks, _ = sampler(2).collect(
        policy, loop, loop.init(params), TASKS[:2], seeded(0), advantages()
    )
    metrics = rollout_metrics(tasks)
    assert metrics["env/steps"] == 2 * EPISODES * (3 + 5)
    assert metrics["episode/length"] == 4
    assert metrics["policy/std_after"].item() == pytest.approx(np.exp(-8))


def test_number_of_tasks_must_match_the_rows() -> None:
    policy, params = random_policy()
    with pytest.raises(ValueError, match="tasks, one per sub-environment, got"):
        sampler().rollout(policy, tree.expand(params, 3), TASKS[:2], seeded(0))
    env = gymnasium.make_vec(ID, num_envs=5)
    with pytest.raises(ValueError, match="must be a multiple of episodes_per_task=2, got 5"):
        Sampler(env, episodes_per_task=2)


def test_an_environment_without_a_horizon_is_rejected() -> None:
    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(ID).unwrapped])
    env.spec = None
    with pytest.raises(ValueError, match="no horizon"):
        Sampler(env, episodes_per_task=1)
