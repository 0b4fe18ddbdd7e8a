"""Policies with memory and image observations: the interface for additional networks."""

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.testing import assert_close

from metarl.core import InnerLoop, MetaParams, Params, Task, sgd, tree
from metarl.nn import linear
from metarl.rl import Episodes, Gaussian, Policy, Sampler, advantages, make_policy, make_sampler
from metarl.rl.baseline import baseline_features
from metarl.rl.losses import INNER_LOSSES, reinforce
from metarl.rl.methods import METHODS
from metarl.rl.objective import PostAdaptationObjective
from tests.support.own_environment import Mark, forget
from tests.support.problems import (
    FEATURES,
    FLOAT64,
    at_once,
    randn,
    random_mask,
    seeded,
    task_of,
    tiny_policy,
)


UNITS = 3


class ElmanCell(nn.Module):
    """h' = tanh(U h + W s), and a Gaussian whose mean is V h'."""

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.recurrent, self.read = nn.Linear(UNITS, UNITS), nn.Linear(features, UNITS)
        self.write, self.log_std = nn.Linear(UNITS, actions), nn.Parameter(torch.zeros(actions))

    def forward(self, carry: Tensor, observation: Tensor) -> tuple[Tensor, Gaussian]:
        carry = torch.tanh(self.recurrent(carry) + self.read(observation))
        mean = self.write(carry)
        return carry, Gaussian(mean, self.log_std.expand_as(mean))


class Elman(Policy):
    def initial(self, params: Params, batch: Sequence[int]) -> Tensor:
        return params["log_std"].new_zeros((*batch, UNITS))

    def step(self, params: Params, carry: Any, observation: Tensor) -> tuple[Tensor, Gaussian]:
        found: tuple[Tensor, Gaussian] = self(params, carry, observation)
        return found


def elman(features: int, actions: int) -> tuple[Policy, Params]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Elman.of(ElmanCell(features, actions))


def navigation() -> Sampler:
    sizes = {"num_tasks": 3, "episodes_per_task": 4, "max_episode_steps": 4}
    return make_sampler("metarl/Navigation2D-v0", **sizes)


@pytest.mark.parametrize(
    ("method", "inner_loss"),
    [("maml-trpo", "reinforce"), ("e-maml", "dice"), ("promp", "ratio"), ("vpg-maml", "clipped")],
)
def test_a_recurrent_policy_trains_with_every_kind_of_update(method: str, inner_loss: str) -> None:
    policy, params = elman(2, 2)
    loop = InnerLoop(INNER_LOSSES[inner_loss](policy), sgd(0.1), num_steps=1)
    learner, sampler = METHODS[method].function()(policy, loop), navigation()
    state = learner.init(params)
    for iteration in range(2):
        tasks = sampler.sample_tasks(np.random.default_rng(iteration))
        batch, _ = sampler.collect(
            policy, loop, state.params, tasks, seeded(iteration), advantages()
        )
        state, metrics = learner.step(state, batch)
        assert all(value.isfinite() for value in metrics.values())
        assert metrics["gradient/outer"] > 0
    moved = tree.add(state.params.model, params, scale=-1.0)
    assert tree.norm({"recurrent": moved["recurrent.weight"]}) > 0


def test_unroll_equals_steps_with_an_initial_carry_per_episode() -> None:
    policy, params = elman(2, 2)
    sampler = navigation()
    tasks = sampler.sample_tasks(np.random.default_rng(0))
    per_task = tree.stack([tree.scale(params, 1.0 + 0.5 * k) for k in range(3)])
    for seed in range(2):  # independent of the previous rollout
        rollout = sampler.rollout(policy, per_task, tasks, seeded(seed))
        for index in range(3):
            one: Any = task_of(rollout, index)
            own = task_of(per_task, index)
            unrolled = policy.unroll(own, one)
            kept = one.mask[..., None]
            for found, expected in zip(unrolled, one.behavior, strict=True):
                assert_close(found * kept, expected * kept, rtol=0, atol=1e-6)
            carry = torch.zeros(4, UNITS)
            _, first = policy.step(own, carry, one.observations[0])
            assert_close(first.mean, unrolled.mean[0])


def random_tasks(policy: Policy, params: Params, num_tasks: int) -> Task:
    """Sample padded episodes whose behavior is the policy with `params`."""
    generator = seeded(3)

    def episodes() -> Episodes:
        seen = torch.randn(3, 2, FEATURES, generator=generator, dtype=FLOAT64)
        rewards, gains = torch.randn(2, 3, 2, generator=generator, dtype=FLOAT64)
        mask = random_mask(3, 2, generator)
        batch = Episodes(seen, None, rewards, mask, None, gains)
        behavior = policy.unroll(params, batch)
        return batch._replace(behavior=behavior, actions=behavior.sample(generator))

    return tree.stack([Task((episodes(),), episodes()) for _ in range(num_tasks)])


def test_second_derivatives_through_time_equal_finite_differences() -> None:
    policy, params = elman(FEATURES, 2)
    params = {name: p.double() for name, p in params.items()}
    loop = InnerLoop(reinforce(policy), sgd(0.3), num_steps=1)
    objective, meta = PostAdaptationObjective(policy, loop), loop.init(params)
    tasks = random_tasks(policy, params, num_tasks=2)
    flat, unravel = tree.ravel(meta)

    def surrogate(vector: Tensor) -> float:
        at = unravel(vector)
        return sum(objective(at, task_of(tasks, index))[0].item() for index in range(2))

    slopes = [
        (surrogate(flat + shift) - surrogate(flat - shift)) / 2e-5
        for shift in 1e-5 * torch.eye(len(flat), dtype=FLOAT64)
    ]
    at_old = objective.linearize(meta, tasks)
    assert_close(tree.ravel(at_old.gradient)[0], torch.tensor(slopes, dtype=FLOAT64))

    def old_kl(vector: Tensor) -> Tensor:
        def of_task(task: Task) -> Tensor:
            old = tree.detach(policy.unroll(loop.adapt(meta, task.support), task.query))
            new = policy.unroll(loop.adapt(unravel(vector), task.support), task.query)
            return torch.where(task.query.mask, old.kl(new), 0.0).sum() / task.query.mask.sum()

        return sum((of_task(task_of(tasks, index)) for index in range(2)), torch.zeros(()))

    hessian = torch.autograd.functional.hessian(old_kl, flat)
    vector = randn(len(flat), seed=5)
    product: MetaParams = at_old.fisher(unravel(vector))
    assert hessian.isfinite().all()
    assert_close(tree.ravel(product)[0], hessian @ vector, rtol=1e-7, atol=1e-9)


class Pictures(Mark):
    """An environment that observes random uint8 images."""

    observation_space: Any = spaces.Box(0, 255, (4, 4, 3), np.uint8)

    def _noise(self) -> Any:
        return self.np_random.integers(256, size=(4, 4, 3), dtype=np.uint8)


class PixelReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output, self.log_std = linear(48, 1, generator=seeded(0)), nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor) -> Gaussian:
        mean = self.output(observations.to(self.log_std.dtype).flatten(-3) / 255)
        return Gaussian(mean, self.log_std.expand_as(mean))


@pytest.fixture
def _pictures() -> Iterator[None]:
    gymnasium.register("own/Pictures-v0", Pictures, max_episode_steps=5)
    yield
    forget("own/Pictures")


@pytest.mark.usefixtures("_pictures")
def test_image_observations_keep_shape_and_dtype() -> None:
    policy, params = Policy.of(PixelReader())
    sampler = make_sampler("own/Pictures-v0", num_tasks=2, episodes_per_task=3)
    loop = InnerLoop(reinforce(policy), sgd(0.1), num_steps=1)
    learner = METHODS["maml-trpo"].function()(policy, loop)
    state = learner.init(params)
    tasks = sampler.sample_tasks(np.random.default_rng(0))
    batch, _ = sampler.collect(policy, loop, state.params, tasks, seeded(0), advantages())
    assert batch.query.observations.shape == (2, 5, 3, 4, 4, 3)
    assert batch.query.observations.dtype == torch.uint8
    state, metrics = learner.step(state, batch)
    assert metrics["trpo/improvement"] > 0


def test_the_baseline_flattens_images() -> None:
    images = torch.randint(256, (5, 3, 4, 4, 3), generator=seeded(0), dtype=torch.uint8)
    assert_close(baseline_features(images), baseline_features(images.float().flatten(2)))


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_an_mlp_converts_integer_observations_to_floats(kind: str) -> None:
    policy, params = tiny_policy(kind)
    whole = torch.randint(-3, 4, (2, 5, FEATURES), generator=seeded(0))
    assert_close(policy(params, whole), policy(params, whole.double()))
    per_task = tree.expand(params, 2)
    assert_close(at_once(policy, per_task, whole), at_once(policy, per_task, whole.double()))


def test_an_unknown_network_is_rejected_by_name() -> None:
    box = spaces.Box(-1.0, 1.0, (2,))
    assert make_policy("mlp", box, box, hidden=(3,))[1]["log_std"].shape == (2,)
    with pytest.raises(
        ValueError, match="network must be one of mlp, cnn, gru, lstm, attention, got conv"
    ):
        make_policy("conv", box, box)
