"""Meta-trained policies: adapt from any source of episodes, act, save and export."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import metarl
from metarl.core import torch_generator, tree
from metarl.experiments.meta_rl import MetaRL, config_class
from metarl.models import AdaptedPolicy, MetaPolicy, Spaces
from metarl.rl import Rollout, Sampler
from metarl.rl.episodes import masked
from tests.support.own_environment import register, saved


POINT = {"goal": [0.3, -0.4]}
SMALL: dict[str, Any] = {
    "num_tasks": 2, "episodes_per_task": 3, "hidden": (8, 8),
    "iterations": 1, "checkpoint_every": 1,
}  # fmt: skip


def trained(out: Path, method: str = "maml-trpo", **settings: Any) -> Path:
    metarl.train(method, out, **SMALL | settings)
    return out


def untrained(method: str = "maml-trpo", *, episodes: int = 3, **settings: Any) -> MetaPolicy:
    """Return the model of a run with the initialization as its parameters."""
    experiment = MetaRL(config_class(method)(device="cpu", **SMALL | settings))
    return experiment.model(experiment.init().params, episodes=episodes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "point")


@pytest.fixture(scope="module")
def policy() -> MetaPolicy:
    return untrained()


@pytest.fixture
def env() -> gymnasium.Env[Any, Any]:
    made = gymnasium.make("metarl/Navigation2D-v0")
    made.unwrapped.task = POINT  # type: ignore[attr-defined]
    return made


def arrays_of(rollout: Rollout) -> list[dict[str, Any]]:
    """Return the episodes of one task as dictionaries of arrays, without padding."""
    lengths = rollout.mask[0].sum(0).tolist()
    fields = {name: getattr(rollout, name)[0] for name in ("observations", "actions", "rewards")}
    return [
        {name: values[:length, index].numpy() for name, values in fields.items()}
        for index, length in enumerate(lengths)
    ]


def recorded(policy: Any, env: gymnasium.Env[Any, Any], episodes: int = 3) -> list[Any]:
    recorder = policy.record()
    for _ in range(episodes):
        observation, _ = env.reset(seed=len(recorder.episodes))
        ended = False
        while not ended:
            action = recorder.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = recorder.step(float(reward), terminated, truncated)
    return list(recorder.episodes)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """The rollouts of all samplers in a test."""
    seen: list[Rollout] = []
    rollout = Sampler.rollout

    def kept(self: Sampler, *rest: Any, **options: Any) -> Rollout:
        seen.append(rollout(self, *rest, **options))
        return seen[-1]

    monkeypatch.setattr(Sampler, "rollout", kept)
    return seen


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("maml-trpo", {}),
        ("maml-trpo", {"env": "metarl/TabularMDP-v0"}),
        ("promp", {"inner_steps": 2}),
        ("maml-trpo", {"context_size": 2, "inner": "lslr"}),
        ("maml-ppo", {"inner": "adam", "inner_loss": "clipped"}),
    ],
)
def test_arrays_of_the_samplers_episodes_give_bit_identical_parameters(
    method: str, settings: dict[str, Any], played: list[Rollout]
) -> None:
    policy = untrained(method, **settings)
    expected = policy.adapt(policy.sample_task(3), steps=2)
    first, second, _ = (arrays_of(rollout) for rollout in played)
    adapted = policy.adapt(episodes=[first, second])
    one_by_one = policy.adapt(episodes=first).adapt(episodes=second)
    for name, value in expected.params.items():
        assert adapted.params[name].equal(value), name
        assert one_by_one.params[name].equal(value), name
    assert adapted.returns == expected.returns[:2]
    assert any(not value.equal(policy.unadapted.params[n]) for n, value in expected.params.items())


def test_adaptation_takes_the_steps_of_evaluate(policy: MetaPolicy, played: list[Rollout]) -> None:
    adapted = policy.adapt(POINT, steps=2)
    last = played[-1]
    generator = torch_generator(0, 0, "adaptation")
    policy.play(policy.loop(2), [POINT], generator)
    for mine, theirs in zip(tree.leaves(played[-1]), tree.leaves(last), strict=True):
        assert mine.equal(theirs)
    assert adapted.returns[2] == pytest.approx(masked(last.rewards, last.mask).sum(1).mean().item())


def test_an_adapted_gaussian_policy_equals_a_plain_policy_gradient_step(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any]
) -> None:
    """The baseline and GAE come from the library; the gradient from torch.distributions."""
    episodes = recorded(policy, env)
    adaptation = policy.unadapted.adaptation
    assert adaptation is not None
    batch, _ = policy.process[0](tree.map_leaves(lambda x: x[0], adaptation.rollout(episodes)))
    module = policy.unadapted.module().double()
    network = module.network
    seen = torch.as_tensor(np.stack([e.observations for e in episodes], 1)).double()
    actions = torch.as_tensor(np.stack([e.actions for e in episodes], 1)).double()
    distribution = torch.distributions.Normal(module(seen), network.log_std.exp())
    log_prob = distribution.log_prob(actions).sum(-1)
    (-(log_prob * batch.advantages[: len(log_prob)].double()).mean()).backward()
    rate = policy.config.inner_lr  # type: ignore[attr-defined]
    adapted = policy.adapt(episodes=episodes)
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - rate * parameter.grad
        torch.testing.assert_close(adapted.params[name].double(), expected, rtol=1e-4, atol=1e-6)


def test_recorded_episodes_adapt_a_policy_step_by_step(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any]
) -> None:
    first = recorded(policy, env)
    adapted = policy.adapt(episodes=first)
    second = recorded(adapted, env)
    again = adapted.adapt(episodes=second)
    assert (adapted.steps, again.steps) == (1, 2)
    assert len(again.returns) == 2
    expected = np.mean([episode.rewards.sum() for episode in second])
    assert again.returns[1] == pytest.approx(expected, rel=1e-5)
    both = policy.adapt(episodes=[first, second])
    assert all(both.params[name].equal(value) for name, value in again.params.items())
    plain = [{**episode._asdict(), "policy": ""} for episode in first]
    same = policy.adapt(episodes=plain)
    assert all(same.params[name].equal(value) for name, value in adapted.params.items())


def test_recorded_actions_are_samples_before_clipping(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any]
) -> None:
    taken = []
    recorder = policy.record()
    observation, _ = env.reset(seed=0)
    for step in range(50):
        taken.append(recorder.act(observation))
        observation, reward, terminated, _, _ = env.step(taken[-1])
        recorder.step(float(reward), terminated, step == 49)
    (episode,) = recorder.episodes
    assert all(env.action_space.contains(action) for action in taken)
    assert np.abs(episode.actions).max() > 1
    np.testing.assert_array_equal(np.stack(taken), episode.actions.clip(-1, 1))


def test_a_policy_adapts_in_any_environment_and_keeps_its_task(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any]
) -> None:
    adapted = policy.adapt(env, steps=2, episodes_per_step=4)
    assert len(adapted.returns) == 3
    assert env.unwrapped.task == POINT  # type: ignore[attr-defined]
    again = policy.adapt(env, steps=2, episodes_per_step=4)
    assert again.returns == adapted.returns
    longer = policy.adapt(env, steps=1, episodes_per_step=4).adapt(env, steps=1)
    assert longer.steps == 2
    assert len(longer.returns) == 3


def test_the_horizon_of_training_ends_episodes_without_a_time_limit(policy: MetaPolicy) -> None:
    env: Any = gymnasium.make("metarl/Navigation2D-v0").unwrapped
    env.spec = None
    env.task = {"goal": [9.0, 9.0]}
    steps = []
    step = env.step
    env.step = lambda action: steps.append(action) or step(action)
    policy.adapt(env, steps=0, episodes_per_step=2)
    assert len(steps) == 200


def test_keep_best_returns_the_best_step_and_all_returns(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Worse(gymnasium.Wrapper[Any, Any, Any, Any]):
        """An environment whose rewards decrease with every episode."""

        episodes = 0

        def reset(self, **kwargs: Any) -> Any:
            self.episodes += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            return *super().step(action)[:1], -float(self.episodes), *super().step(action)[2:]

    adapted = policy.adapt(Worse(env), steps=2, keep_best=True)
    error = capsys.readouterr().err
    assert "adaptation step 1 lowered the mean return from" in error
    assert adapted.returns == sorted(adapted.returns, reverse=True)
    assert len(adapted.returns) == 3
    assert adapted.steps == 0
    assert all(adapted.params[n].equal(x) for n, x in policy.unadapted.params.items())
    assert policy.adapt(Worse(env), steps=2).steps == 2


@pytest.mark.parametrize("name", ["Navigation2D", "TabularMDP"])
def test_actions_are_inside_the_action_space(name: str, tmp_path: Path) -> None:
    policy = untrained(env=f"metarl/{name}-v0")
    adapted = policy.adapt(policy.sample_task(0), steps=1)
    adapted.save(tmp_path / "adapted.safetensors")
    again = metarl.load_adapted(tmp_path / "adapted.safetensors", device="cpu")
    rng, space = np.random.default_rng(0), policy.spaces.action
    shape = (10_000, *policy.spaces.observation.shape)
    observations = rng.normal(scale=100, size=shape).astype(np.float32)
    for deterministic in (True, False):
        actions = adapted.act(observations, deterministic, generator=torch_generator(0, 0, "x"))
        assert all(space.contains(action) for action in actions)
        assert space.contains(adapted.act(observations[0], deterministic))
    np.testing.assert_array_equal(again.act(observations), adapted.act(observations))
    single = adapted.act(observations[0])
    assert single.dtype == space.dtype
    assert single.shape == space.shape
    np.testing.assert_allclose(single, adapted.act(observations)[0], rtol=1e-4, atol=1e-5)
    assert again.returns == adapted.returns
    with pytest.raises(ValueError, match="from a file cannot adapt"):
        again.record()


class Transitions(NamedTuple):
    observations: Any
    actions: Any
    rewards: Any
    terminated: Any = False


GOOD = Transitions(np.zeros((5, 2), np.float32), np.zeros((5, 2)), np.ones(5))


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "at least one episode, got none"),
        ([{"observations": GOOD.observations}], "episode 0 of `episodes` has no actions, rewards"),
        ([3], "episode 0 of `episodes` has no observations"),
        ([GOOD, GOOD._replace(observations=np.zeros((6, 2)))], r"episodes\[1\].*\(5, 2\)"),
        ([GOOD._replace(observations=np.zeros((5, 3)))], r"\(\*batch, 2\), got \(5, 3\)"),
        ([GOOD._replace(observations=np.full((5, 2), 99.0))], "inside the observation space Box"),
        ([GOOD._replace(observations=np.full((5, 2), np.nan))], "must be finite"),
        ([GOOD._replace(actions=np.zeros(5))], r"actions` must have shape \(5, 2\), got \(5,\)"),
        ([GOOD._replace(actions=np.full((5, 2), np.inf))], "actions` must be finite numbers"),
        ([GOOD._replace(rewards=[])], r"rewards` must have shape \(time,\) and at least"),
        ([GOOD._replace(rewards=np.full(5, np.nan))], "rewards` must be finite"),
        ([GOOD._replace(terminated=[0, 1, 0, 0, 0])], "got index 1. Pass each episode"),
        ([GOOD._replace(terminated=[0, 1])], r"must have shape \(\) or \(5,\), got \(2,\)"),
    ],
)  # fmt: skip
def test_invalid_episodes_are_rejected_in_one_line(
    episodes: list[Any], message: str, policy: MetaPolicy
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        policy.adapt(episodes=episodes)
    assert "\n" not in str(caught.value)


def test_invalid_discrete_actions_are_rejected() -> None:
    policy: Any = untrained(env="metarl/TabularMDP-v0")
    shape = policy.spaces.observation.shape
    good = Transitions(np.zeros((4, *shape), np.float32), np.zeros(4, int), np.ones(4))
    most = policy.spaces.action.n - 1
    with pytest.raises(ValueError, match=f"must be from 0 to {most}, got -1 to 0"):
        policy.adapt(episodes=[good._replace(actions=[0, -1, 0, 0])])
    with pytest.raises(ValueError, match=r"must be integers for .*, got float64"):
        policy.adapt(episodes=[good._replace(actions=np.zeros(4))])


def test_episodes_of_other_parameters_are_rejected_and_improbable_actions_warn(
    policy: MetaPolicy, env: gymnasium.Env[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = recorded(policy, env)
    adapted = policy.adapt(episodes=first)
    for wrong in (
        lambda: adapted.adapt(episodes=first),
        lambda: policy.adapt(episodes=[first, first]),
    ):
        with pytest.raises(
            ValueError,
            match=r"recorded with other parameters.*after 1 inner step",
        ):
            wrong()
    assert capsys.readouterr().err == ""
    plain = [{**episode._asdict(), "policy": ""} for episode in first]
    policy.adapt(episodes=plain)
    assert capsys.readouterr().err == ""
    policy.adapt(episodes=[{**each, "actions": 3 * each["actions"]} for each in plain])
    assert "`episodes` are improbable under the policy" in capsys.readouterr().err
    policy.adapt(episodes=[{**each, "actions": 0 * each["actions"]} for each in plain])
    assert "`episodes` are too probable" in capsys.readouterr().err


def test_invalid_arguments_are_rejected(policy: MetaPolicy, env: gymnasium.Env[Any, Any]) -> None:
    for arguments, message in [
        ({}, "requires either `task` or `episodes`, got none"),
        ({"task": env, "episodes": [GOOD]}, "got both"),
        ({"episodes": [GOOD], "steps": 2}, "require `task`"),
        ({"task": 3}, "must be an environment or a task description, got 3"),
        ({"task": env, "steps": -1}, "steps must be an integer of at least 0, got -1"),
        (
            {"task": env, "episodes_per_step": 0},
            "must be an integer of at least 1, got 0",
        ),
        ({"task": gymnasium.make("metarl/TabularMDP-v0")}, "`env` must have observations of shape"),
        ({"task": gymnasium.make_vec("metarl/Navigation2D-v0")}, "a single environment"),
    ]:
        with pytest.raises(ValueError, match=message):
            policy.adapt(**arguments)
    wide = gymnasium.wrappers.RescaleAction(env, np.float32(-2), np.float32(2))
    with pytest.raises(ValueError, match=r"must have actions Box\(-1.0, 1.0"):
        policy.adapt(wide)
    adapted = policy.unadapted
    for observation, message in [
        ([0.0], r"`observation` must have shape \(\*batch, 2\), got \(1,\)"),
        ([np.nan, 0.0], "must be finite"),
        (["a", "b"], "must be float32 values"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapted.act(observation)
        with pytest.raises(ValueError, match=message):
            policy.record().act(observation)


def test_calls_of_a_recorder_alternate(policy: MetaPolicy) -> None:
    recorder = policy.record()
    with pytest.raises(RuntimeError, match="Call `act` before each step"):
        recorder.step(0.0, False)
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(3, 2\)"):
        recorder.act(np.zeros((3, 2)))
    recorder.act([0.0, 0.0])
    with pytest.raises(RuntimeError, match="Call `step` after each action"):
        recorder.act([0.0, 0.0])
    with pytest.raises(ValueError, match="`reward` must be one finite number, got nan"):
        recorder.step(float("nan"), False)


LOW = np.array([-1, -2.5], np.float32)
SPACES = [
    Spaces(Box(-1, 1, (2,)), Discrete(4), 5),
    Spaces(Box(-np.inf, np.inf, (3,), np.float64), Box(LOW, np.ones(2, np.float32)), 7),
    Spaces(Box(0, 255, (4, 4, 3), np.uint8), Box(-1, np.inf, (1,)), 1),
]  # fmt: skip


@pytest.mark.parametrize("spaces", SPACES, ids=str)
def test_spaces_survive_json(spaces: Spaces) -> None:
    assert Spaces.read(json.loads(json.dumps(spaces.to_json())), "x") == spaces


@pytest.mark.parametrize(
    "change",
    [
        {"action": {"type": "Discrete", "n": 10**12, "start": 0}},
        {"observation": {"type": "Box", "shape": [10**9], "low": 0, "high": 1, "dtype": "f4"}},
        {"observation": {"type": "Box", "shape": [2], "low": 0, "high": 1, "dtype": "O"}},
        {"observation": {"type": "Box", "shape": [2], "low": [0], "high": 1, "dtype": "float32"}},
        {"observation": 3},
        {"horizon": "x"},
    ],
)  # fmt: skip
def test_damaged_spaces_are_rejected_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"config\.json is damaged: `spaces` cannot be read"):
        Spaces.read(SPACES[0].to_json() | change, "config.json")


def test_runs_without_stored_spaces_build_the_environment(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    about = json.loads((old / "config.json").read_text())
    assert about.pop("spaces")["horizon"] == 100
    (old / "config.json").write_text(json.dumps(about))
    mine, theirs = (metarl.load(path, episodes=2, device="cpu") for path in (run, old))
    assert mine.spaces == theirs.spaces
    assert mine.adapt(POINT).returns == theirs.adapt(POINT).returns


def test_adapted_policies_are_saved_without_code_and_damage_is_an_error(
    policy: MetaPolicy, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new/adapted.safetensors"
    policy.unadapted.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not a valid metarl checkpoint"):
        metarl.load_adapted(path)
    with pytest.raises(ValueError, match="does not contain an adapted model"):
        metarl.load_adapted(run / "checkpoints/00000001.safetensors")


@pytest.fixture
def pendulum(tmp_path: Path) -> Iterator[Path]:
    with saved("README.md", "pendulum", tmp_path, namespace="mine") as folder:
        yield trained(folder / "run", env="pendulum:mine/Pendulum-v0")


def test_a_run_is_used_without_the_module_of_its_environment(
    pendulum: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pendulum as module  # type: ignore[import-not-found]

    env = gymnasium.wrappers.TimeLimit(module.Pendulum(), 50)
    monkeypatch.setitem(sys.modules, "pendulum", None)
    for name in [name for name in gymnasium.registry if name.startswith("mine/")]:
        monkeypatch.delitem(gymnasium.registry, name)
    policy = metarl.load(pendulum, episodes=2, device="cpu")
    assert len(policy.adapt(env).returns) == 2
    adapted = policy.adapt(episodes=recorded(policy, env))
    assert isinstance(adapted, AdaptedPolicy)
    assert adapted.act(np.zeros(3, np.float32)).shape == (1,)
    assert adapted.module()(torch.zeros(7, 3)).shape == (7, 1)
    with pytest.raises(ModuleNotFoundError, match="The simulator requires pendulum: install it"):
        policy.adapt({"angle": 0.3})
    with pytest.raises(ModuleNotFoundError, match="The simulator requires pendulum"):
        policy.sample_task()
    monkeypatch.chdir(pendulum.parent)
    with pytest.raises(ModuleNotFoundError, match="use `python -m metarl` instead of `metarl`"):
        policy.sample_task()


def test_episodes_of_different_lengths_adapt_like_those_of_the_sampler(
    played: list[Rollout],
) -> None:
    policy = untrained(env=register("Mark"), inner_loss="dice", episodes=8)
    expected = policy.adapt({"mark": 0.5}, steps=1)
    episodes = arrays_of(played[0])
    assert len({len(each["rewards"]) for each in episodes}) > 1  # guesses above 1 end an episode
    adapted = policy.adapt(episodes=episodes)
    assert all(adapted.params[name].equal(value) for name, value in expected.params.items())
