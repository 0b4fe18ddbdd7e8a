"""Observations normalized inside the policy, and rejection of wrappers that learn."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TransformReward
from gymnasium.wrappers import vector as vector_wrappers
from torch.testing import assert_close

import metarl
from metarl.core import InnerLoop, Task, sgd
from metarl.core.inner import lslr, meta_sgd
from metarl.rl import Episodes, Policy, Sampler, make_sampler
from metarl.rl.losses import reinforce
from metarl.rl.methods import METHODS
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.stability import add_observations, normalizing
from metarl.rl.trpo import context_loop
from tests.support.commands import checkpoints, history
from tests.support.commands import metarl as command
from tests.support.own_environment import Mark, register
from tests.support.problems import FEATURES, random_like, random_meta_batch, seeded


INNER = {"sgd": sgd(0.3), "meta_sgd": meta_sgd(0.3), "lslr": lslr(0.3, steps=1)}
STATISTICS = ("normalizer.mean", "normalizer.scale", "normalizer.count")


def double(module: Any) -> tuple[Policy, Any]:
    policy, params = Policy.of(module.double())
    scaled = {n: 0.5 * x for n, x in random_like(params, seed=1).items()}
    return policy, {n: params[n] if n in STATISTICS else scaled[n] for n in params}


def loop_of(policy: Policy, inner: str, context: int) -> InnerLoop:
    loop = InnerLoop(
        reinforce(policy),
        INNER[inner],
        num_steps=1,
        fast=lambda name: not name.startswith("normalizer"),
    )
    return context_loop(loop, context) if context else loop


@pytest.mark.parametrize("inner", ["sgd", "meta_sgd", "lslr"])
@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.trials])
def test_a_normalized_policy_learns_like_a_policy_of_normalized_observations(
    name: str, inner: str
) -> None:
    if name == "reptile" and inner != "sgd":
        pytest.skip("Reptile has no learned step sizes")
    context = 2 if name == "cavia" else 0
    options: Any = {"activation": "tanh", "context": context}
    plain, weights = double(GaussianMLP((FEATURES, 4, 2), **options))
    policy, params = double(GaussianMLP((FEATURES, 4, 2), normalize=True, **options))
    mean, std = torch.tensor([1e5, -3.0, 0.0]).double(), torch.tensor([100.0, 0.5, 7.0]).double()
    statistics = dict(zip(STATISTICS, (mean, 1 / std, torch.tensor(50.0).double()), strict=True))
    params = {**params, **weights, **statistics}
    loops = [loop_of(each, inner, context) for each in (plain, policy)]
    make = METHODS[name].function()
    learners = [make(each, loop) for each, loop in zip((plain, policy), loops, strict=True)]
    states = [each.init(p) for each, p in zip(learners, (weights, params), strict=True)]
    start = {**states[0].params.model, **{n: 0 * x for n, x in weights.items() if n == "context"}}
    tasks = random_meta_batch(plain, loops[0], states[0].params._replace(model=start))
    raw = [
        batch._replace(observations=batch.observations * std + mean)
        for batch in (*tasks.support, tasks.query)
    ]
    (expected, _), (found, _) = (
        learners[0].step(states[0], tasks),
        learners[1].step(states[1], Task(tuple(raw[:-1]), raw[-1])),
    )
    assert not found.params.model["network.0.weight"].equal(weights["network.0.weight"])
    for key, value in expected.params.model.items():
        assert_close(found.params.model[key], value, rtol=1e-6, atol=1e-8)
    for key, value in expected.params.inner.items():
        assert_close(found.params.inner[key], value, rtol=1e-6, atol=1e-8)
    for key, value in statistics.items():
        assert found.params.model[key].equal(value), key


def test_statistics_are_those_of_all_observations() -> None:
    policy, params = double(GaussianMLP((FEATURES, 4, 2), normalize=True))
    loop = loop_of(policy, "sgd", 0)
    learner = normalizing(METHODS["vpg-maml"].function()(policy, loop))
    state, seen = learner.init(params), []
    shift = torch.tensor([1e5, 0.0, -2.0]).double()
    for seed, factor in enumerate((1.0, 30.0, 5.0)):
        tasks = random_meta_batch(policy, loop, state.params, seed=seed)
        raw = [
            batch._replace(observations=batch.observations * factor + shift)
            for batch in (*tasks.support, tasks.query)
        ]
        seen += [batch.observations[batch.mask] for batch in raw]
        state, _ = learner.step(state, Task(tuple(raw[:-1]), raw[-1]))
        values = torch.cat(seen)
        mean, scale, count = (state.params.model[name] for name in STATISTICS)
        assert_close(mean, values.mean(0), rtol=1e-9, atol=1e-9)
        assert_close(scale, 1 / values.std(0, unbiased=False), rtol=1e-6, atol=0)
        assert count == len(values)


def test_constant_observations_stay_finite() -> None:
    policy, params = Policy.of(CategoricalMLP((2, 4, 3), normalize=True))
    seen = torch.tensor([101_325.0, 0.1]).expand(3, 5, 4, 2)
    ones = torch.ones(3, 5, 4)
    for _ in range(3):
        add_observations(params, Task((), Episodes(seen, None, ones, ones > 0, None, ones)))
    inputs = (seen - params["normalizer.mean"]) * params["normalizer.scale"]
    assert inputs.abs().max() < 0.1
    assert policy(params, seen + 1e9).logits.isfinite().all()  # clipped


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_both_ways_to_act_normalize_observations(kind: torch.dtype) -> None:
    policy, params = Policy.of(GaussianMLP((3, 8, 2), normalize=True, context=2))
    each = {n: torch.randn(4, *p.shape, generator=seeded(3)) for n, p in params.items()}
    seen = torch.randint(0, 255, (4, 5, 3), generator=seeded(4)).to(kind)
    _, act = policy.over_tasks(each, (5,))
    for task, row in enumerate(act((), seen)[1].mean):
        own = {name: x[task] for name, x in each.items()}
        assert_close(policy(own, seen[task]).mean, row)
    blind = policy(params, seen).mean
    assert blind.equal(blind[:1, :1].expand_as(blind))  # before the first update


class Units(Mark):
    """Observes numbers of different sizes; the first one tells the mark."""

    def _noise(self) -> Any:
        return (np.array([self.mark * 100 + 1e4, 0]) + super()._noise()).astype(np.float32)


SMALL = ("--num-tasks", 4, "--episodes-per-task", 5, "--hidden", 8, "--inner-lr", 0.1)


def units(**kwargs: Any) -> str:
    gymnasium.registry.pop("own/Units-v0", None)
    gymnasium.register("own/Units-v0", Units, max_episode_steps=5, **kwargs)
    return "own/Units-v0"


@pytest.mark.parametrize("method", ["maml-trpo", "promp"])
def test_a_resumed_run_continues_the_statistics(method: str, tmp_path: Path) -> None:
    words = ("train", method, "--env", units(), *SMALL, "--normalize-observations")
    words = (*words, "--checkpoint-every", 1)
    command(*words, "--iterations", 3, "--out", tmp_path / "whole")
    command(*words, "--iterations", 1, "--out", tmp_path / "two")
    command("resume", tmp_path / "two", "--iterations", 3)
    assert history(tmp_path / "two") == history(tmp_path / "whole")
    assert (
        checkpoints(tmp_path / "two")["00000003.safetensors"]
        == (checkpoints(tmp_path / "whole")["00000003.safetensors"])
    )
    policy = metarl.load(tmp_path / "whole")
    assert policy.params.model["normalizer.mean"][0] == pytest.approx(1e4, rel=0.01)
    steps = sum(line["env/steps"] for line in history(tmp_path / "whole"))
    assert policy.params.model["normalizer.count"] == steps


def test_trained_policies_act_adapt_and_export_with_the_statistics(tmp_path: Path) -> None:
    words = ("train", "maml-trpo", "--env", units(), *SMALL, "--normalize-observations")
    command(*words, "--iterations", 2, "--out", tmp_path / "run")
    policy = metarl.load(tmp_path / "run", episodes=6)
    adapted = policy.adapt({"mark": 0.4}, steps=1)
    for name in STATISTICS:
        assert adapted.params[name].equal(policy.params.model[name])
    seen = (np.random.default_rng(0).normal(size=(9, 2)) * 50 + [1e4, 0]).astype(np.float32)
    means = adapted.module()(torch.from_numpy(seen)).detach().numpy()
    np.testing.assert_allclose(adapted.act(seen), means.clip(-1, 1), rtol=1e-5, atol=1e-6)
    assert np.ptp(means) > 0
    sb3 = pytest.importorskip("stable_baselines3", reason="pip install 'metarl-torch[sb3]'")
    assert sb3
    norm = (seen - adapted.params["normalizer.mean"].numpy()) * adapted.params[
        "normalizer.scale"
    ].numpy()
    inside = (np.abs(norm) < 10).all(1)
    actions, _ = adapted.to_sb3().predict(seen[inside], deterministic=True)
    assert inside.any()
    np.testing.assert_allclose(actions, adapted.act(seen[inside]), rtol=1e-3, atol=1e-3)
    env = gymnasium.make("own/Units-v0")
    played = policy.record()
    for seed in range(6):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(played.act(observation))
            ended = played.step(reward, terminated, truncated)
    again = policy.adapt(episodes=played.episodes)
    assert not again.params["network.0.weight"].equal(policy.params.model["network.0.weight"])


class Inside(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment class whose wrapper is inside of it."""

    def __init__(self) -> None:
        super().__init__(NormalizeReward(Mark()))


def frozen(env: Any) -> Any:
    made: Any = NormalizeObservation(env)
    made.update_running_mean = False
    return made


@pytest.mark.parametrize("kind", [NormalizeObservation, NormalizeReward])
def test_wrappers_that_learn_are_rejected(kind: Any) -> None:
    env_id = register("Mark", additional_wrappers=(kind.wrapper_spec(),))
    with pytest.raises(ValueError, match=rf"own/Mark-v0 has the wrapper {kind.__name__}, whose"):
        make_sampler(env_id, num_tasks=1, episodes_per_task=2)


def test_wrappers_that_learn_are_found_in_worker_processes() -> None:
    env_id = register("Mark", additional_wrappers=(NormalizeReward.wrapper_spec(),))
    options: Any = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}}
    with pytest.raises(ValueError, match="own/Mark-v0 has the wrapper NormalizeReward, whose"):
        make_sampler(env_id, num_tasks=1, episodes_per_task=1, **options)


def test_wrappers_that_learn_are_found_around_vectorized_and_inside_other_environments() -> None:
    rows: Any = SyncVectorEnv([lambda: gymnasium.make(register("Mark"))] * 2)
    with pytest.raises(ValueError, match="has the wrapper NormalizeObservation"):
        Sampler(vector_wrappers.NormalizeObservation(rows), episodes_per_task=2)
    gymnasium.registry.pop("own/Inside-v0", None)
    gymnasium.register("own/Inside-v0", Inside, max_episode_steps=5)
    with pytest.raises(ValueError, match="own/Inside-v0 has the wrapper NormalizeReward"):
        make_sampler("own/Inside-v0", num_tasks=1, episodes_per_task=2)


def test_wrappers_that_do_not_learn_are_accepted() -> None:
    env_id = register("Mark")

    def make() -> Any:
        return TransformReward(frozen(gymnasium.make(env_id)), lambda reward: 2 * reward)

    assert Sampler(SyncVectorEnv([make] * 2), episodes_per_task=2).num_tasks == 1


def test_adapting_in_an_environment_with_such_a_wrapper_is_rejected(tmp_path: Path) -> None:
    env_id = register("Mark")
    command("train", "vpg-maml", "--env", env_id, *SMALL, "--iterations", 1,
            "--out", tmp_path / "run")  # fmt: skip
    env = NormalizeObservation(gymnasium.make(env_id))
    with pytest.raises(ValueError, match="`task` has the wrapper NormalizeObservation"):
        metarl.load(tmp_path / "run").adapt(env)
