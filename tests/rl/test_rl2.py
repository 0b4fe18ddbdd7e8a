"""RL²: memory over trials, joined episodes, and the loss against a trial unrolled by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.testing import assert_close

from metarl.core import InnerLoop, Task, sgd, tree
from metarl.rl import (
    Categorical,
    Episodes,
    Policy,
    Sampler,
    TrialPolicy,
    make_policy,
    make_sampler,
    reinforce,
)
from metarl.rl.acting import Previous, TrialActor
from metarl.rl.baseline import discounted_sum
from metarl.rl.rl2 import collect_trials, cut, join_episodes, rl2, trial_loss
from tests.support.problems import FLOAT64, relative_error, seeded


SEEN, ARMS = spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Discrete(5)


def policy_of(network: str = "gru", **options: Any) -> tuple[Any, Any]:
    return make_policy(
        network, SEEN, ARMS, hidden=(), memory=4, trials=True, generator=seeded(0), **options
    )


def bandit(steps: int = 3, episodes: int = 2) -> Sampler:
    return make_sampler("metarl/Bandit-v0", num_tasks=2, episodes_per_task=episodes,
                        max_episode_steps=steps)  # fmt: skip


def collected(policy: Any, params: Any, *, length: int = 3, episodes: int = 3) -> Task:
    sampler, loop = bandit(length), InnerLoop(reinforce(policy), sgd(0.1), num_steps=episodes - 1)
    tasks = sampler.sample_tasks(np.random.default_rng(0))
    process = lambda rollout: (Episodes(*rollout[:5], advantages=rollout.rewards), {})  # noqa: E731
    batch, _ = sampler.collect(policy, loop, loop.init(params), tasks, seeded(0), process)
    return batch


def test_inputs_contain_the_previous_action_reward_and_episode_end() -> None:
    policy, params = policy_of()
    batch = collected(policy, params)
    first, second = batch.support
    assert first.observations.shape == (2, 3, 2, 1 + 5 + 2)
    assert (first.observations[:, 0, :, 1:] == 0).all()
    one_hot = torch.nn.functional.one_hot(first.actions, 5).float()
    assert_close(first.observations[:, 1:, :, 1:6], one_hot[:, :-1])
    assert_close(first.observations[:, 1:, :, 6], first.rewards[:, :-1])
    assert (first.observations[:, 1:, :, 7] == 0).all()
    assert_close(second.observations[:, 0, :, 1:6], one_hot[:, -1])
    assert_close(second.observations[:, 0, :, 6], first.rewards[:, -1])
    assert (second.observations[:, 0, :, 7] == 1).all()


@pytest.mark.parametrize("network", ["gru", "attention"])
def test_the_memory_lasts_for_all_episodes_of_a_trial(network: str) -> None:
    policy, params = policy_of(network)
    batch = collected(policy, params)
    trials = join_episodes([*batch.support, batch.query])
    for task in range(2):
        one = tree.map_leaves(lambda x, t=task: x[t], trials)
        assert_close(policy.unroll(params, one).logits, one.behavior.logits, rtol=0, atol=1e-6)


def test_ended_episodes_do_not_change_the_memory() -> None:
    step = lambda carry, inputs: (carry + inputs, Categorical(inputs))  # noqa: E731
    actor = TrialActor(torch.zeros(2, 1), step, lambda seen, previous: seen)
    alive = [torch.tensor([True, True]), torch.tensor([True, False])]
    for time, rows in enumerate(alive):
        actor.act(torch.full((2, 1), 1.0 + time))
        actor.observe(torch.full((2,), time), torch.full((2,), 0.5 + time), rows)
    assert_close(actor._carry, torch.tensor([[3.0], [1.0]]))
    previous = actor._previous
    assert isinstance(previous, Previous)
    assert_close(previous.rewards, torch.tensor([1.5, 0.5]))
    assert previous.ended.tolist() == [0, 0]
    actor.begin()
    assert isinstance(actor._previous, Previous)
    assert actor._previous.ended.tolist() == [1, 1]


def test_joined_episodes_have_no_gaps() -> None:
    lengths = torch.tensor([[2, 3], [1, 2]])  # (episode, trial)
    parts = []
    for index, each in enumerate(lengths):
        mask = torch.arange(3)[:, None] < each
        values = (10.0 * index + torch.arange(3.0)[:, None]).expand(3, 2)[None]
        parts.append(
            Episodes(
                values[..., None],
                values,
                values,
                mask[None],
                Categorical(values[..., None]),
                values,
            )
        )
    trials = join_episodes(parts)
    assert trials.mask.sum(1).tolist() == [[3, 5]]
    assert trials.rewards[0, :3, 0].tolist() == [0, 1, 10]
    assert trials.rewards[0, :5, 1].tolist() == [0, 1, 2, 10, 11]
    assert (trials.mask[:, :-1] >= trials.mask[:, 1:]).all()
    assert_close(trials.observations[..., 0], trials.rewards)


@pytest.mark.parametrize("value", [False, True])
def test_the_loss_equals_a_trial_unrolled_by_hand(value: bool) -> None:
    policy, params = policy_of(value=value)
    params = {n: p.double() for n, p in params.items()}
    trials = join_episodes([(b := collected(policy, params)).support[0], *b.support[1:], b.query])
    generator = seeded(1)
    gains = torch.randn(trials.mask.shape, generator=generator, dtype=FLOAT64)
    returns = torch.randn(trials.mask.shape, generator=generator, dtype=FLOAT64)
    episodes = Episodes(*trials[:5], advantages=gains)
    start = policy.initial(params, (2, 2))
    segments = cut(episodes, returns, [start], length=9, groups=1)
    moved = {n: p + 0.1 * torch.randn(p.shape, generator=generator, dtype=FLOAT64)
             for n, p in params.items()}  # fmt: skip
    own = {n: p.clone().requires_grad_() for n, p in moved.items()}
    outer = trial_loss(policy, clip=0.2, entropy=0.01, value_coefficient=0.5)
    task = tree.map_leaves(lambda x: x[0], Task((), segments))
    found, _ = outer([own], task)

    cell = torch.nn.GRUCell(8, 4).double()
    names = {"weight_ih": "read.weight", "bias_ih": "read.bias", "weight_hh": "recur.weight",
             "bias_hh": "recur.bias"}  # fmt: skip
    mine = {n: p.clone().requires_grad_() for n, p in moved.items()}
    gates = {theirs: mine[f"trunk.cell.{name}"] for theirs, name in names.items()}
    terms = []
    for k in range(2):
        for trial in range(2):
            hidden = torch.zeros(1, 4, dtype=FLOAT64)
            for time in range(9):
                seen = trials.observations[k, time, trial][None]
                hidden = torch.func.functional_call(cell, gates, (seen, hidden))
                logits = hidden @ mine["head.linear.weight"].T + mine["head.linear.bias"]
                pi = torch.distributions.Categorical(logits=logits[0])
                action = trials.actions[k, time, trial]
                old = torch.distributions.Categorical(logits=trials.behavior.logits[k, time, trial])
                ratio = (pi.log_prob(action) - old.log_prob(action)).exp()
                gain = gains[k, time, trial]
                term = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain) - 0.01 * pi.entropy()
                if value:
                    guess = hidden @ mine["value.weight"].T + mine["value.bias"]
                    term = term + 0.5 * (guess.squeeze() - returns[k, time, trial]) ** 2
                terms.append(term)
    expected = torch.stack(terms).mean()
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    slopes = [
        torch.autograd.grad(loss, [*of.values()]) for loss, of in ((found, own), (expected, mine))
    ]
    assert relative_error(dict(enumerate(slopes[0])), dict(enumerate(slopes[1]))) < 1e-10


@pytest.mark.parametrize("network", ["gru", "attention"])
@pytest.mark.parametrize("length", [4, 3, 9])
def test_segments_start_with_the_memory_of_the_trial(network: str, length: int) -> None:
    policy, params = policy_of(network)
    batch = collected(policy, params)
    trials = join_episodes([*batch.support, batch.query])
    episodes = Episodes(*trials[:5], advantages=trials.rewards)
    carry, carries = policy.initial(params, (2, 2)), []
    for part in torch.split(trials.observations.transpose(0, 1), length):
        carries.append(carry)
        carry, _ = policy.scan(params, carry, part)
    segments = cut(episodes, trials.rewards, carries, length=length, groups=2)
    for group in range(len(segments.mask)):
        one = tree.map_leaves(lambda x, g=group: x[g], segments)
        _, found = policy.scan(params, one.carry, one.episodes.observations)
        kept = one.mask[..., None]
        wanted = one.episodes.behavior.logits
        assert_close(found.logits * kept, wanted * kept, rtol=0, atol=1e-6)
    assert segments.mask.sum() == trials.mask.sum()


@pytest.mark.parametrize("options", [{}, {"baseline": "value"}, {"bptt": 4, "entropy": 0.01}])
def test_a_step_improves_the_surrogate(options: dict[str, Any]) -> None:
    policy, params = policy_of(value=options.get("baseline") == "value")
    sampler, loop = bandit(5, 8), InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
    learner = rl2(policy, loop, epochs=20, minibatches=1, outer_lr=1e-2, **options)
    state = learner.init(params)
    tasks = sampler.sample_tasks(np.random.default_rng(0))
    process = lambda rollout: (Episodes(*rollout[:5], advantages=rollout.rewards), {})  # noqa: E731
    trials, metrics = collect_trials(sampler, policy, loop, state.params, tasks, seeded(0), process)
    assert {"return/step_0", "return/step_1", "env/steps"} <= set(metrics)
    assert trials.mask.shape == (2, 10, 8)
    state, metrics = learner.step(state, trials)
    assert metrics["outer/surrogate"] < 0
    assert metrics["outer/kl"] > 0
    assert all(x.isfinite() for x in metrics.values())


def test_value_targets_are_standardized_discounted_returns() -> None:
    rewards = torch.tensor([[1.0], [0.0], [2.0]])
    assert discounted_sum(rewards, 0.5).flatten().tolist() == [1.5, 1.0, 2.0]


def test_a_trial_policy_requires_flat_observations() -> None:
    image = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    with pytest.raises(TypeError, match="require flat Box observations"):
        make_policy("gru", image, ARMS, trials=True)
    assert isinstance(policy_of()[0], TrialPolicy)
    assert not isinstance(make_policy("gru", SEEN, ARMS)[0], TrialPolicy)
    assert issubclass(TrialPolicy, Policy)


def test_continuous_actions_enter_the_inputs_as_they_are() -> None:
    box = spaces.Box(-1.0, 1.0, (2,))
    policy, _ = make_policy("lstm", SEEN, box, memory=4, trials=True)
    previous = Previous(torch.tensor([[0.5, -2.0]]), torch.tensor([3.0]), torch.tensor([1.0]))
    found: Tensor = policy.inputs(torch.tensor([[0.25]]), previous)
    assert found.tolist() == [[0.25, 0.5, -2.0, 3.0, 1.0]]
