"""Custom environments: the page runs, and every mistake gives a clear one-line error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import ClipAction, FlattenObservation

from metarl.core import InnerLoop, Params, sgd, tree
from metarl.envs.base import BatchedTaskEnv
from metarl.experiments.meta_rl import build, config_class
from metarl.rl.episodes import Rollout
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.policies import GaussianMLP, Policy
from metarl.rl.sampler import Sampler, make_sampler
from metarl.rl.vector_env import make_vector_env
from tests.support.commands import history, metarl, refusal
from tests.support.own_environment import PAGE, playground, register, saved
from tests.support.pages import block, run_in_small, runs
from tests.support.problems import random_meta_batch, relative_error, seeded


MAMLTRPO = config_class("maml-trpo")


ENV = "playground:playground/Pendulum-v0"
BLUE, YELLOW = (40, 80, 160), (240, 200, 150)
ROBOT = "metarl/HalfCheetahDir-v1"
TRAIN = ["train", "maml-trpo", "--num-tasks", "1", "--episodes-per-task", "2", "--hidden", "4"]
SPAWN: dict[str, Any] = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with playground(tmp_path_factory.mktemp("own")) as folder:
        yield folder


def guesses(sampler: Sampler, *, std: float = 1.0) -> tuple[Policy, Params]:
    """Build a policy with nearly constant mean actions and noise."""
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = mlp_policy(
        *spaces, hidden=(8,), output_gain=0.1, init_std=std, generator=seeded(0)
    )
    return policy, tree.expand(params, sampler.num_tasks)


def roll(sampler: Sampler, tasks: list[dict[str, Any]]) -> Rollout:
    return sampler.rollout(*guesses(sampler), tasks, seeded(0))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* is -?infinity:UserWarning")
@runs(
    PAGE,
    "playground.py",
    "train",
    "commands",
    "level.py",
    "level",
    "adapt",
    "record",
    "export",
    "async",
    "batched",
    "video",
)
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged except for the sizes; see also rl/test_vector_envs.py."""
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    monkeypatch.chdir(tmp_path)
    with playground(tmp_path):
        the_page_runs(tmp_path)
    assert Path("runs/pendulum/media/pendulum.gif").stat().st_size > 10_000


def the_page_runs(folder: Path) -> None:
    check_env(gymnasium.make(ENV).unwrapped)
    train = block(PAGE, "train")
    assert "ITERATIONS = 30\n" in train
    scope: dict[str, Any] = {}
    exec(train.replace("ITERATIONS = 30\n", "ITERATIONS = 2\n"), scope)
    assert scope["metrics"]["return/step_1"].isfinite()
    run_in_small(block(PAGE, "commands"))
    with saved(PAGE, "level", folder, namespace="level"):
        the_reward_is_changed()
        run_in_small(block(PAGE, "level"))
    exec(block(PAGE, "adapt"), scope)
    assert len(scope["adapted"].returns) == 3
    start = scope["policy"].params.model
    assert tree.norm(tree.add(scope["adapted"].params, start, scale=-1.0)) > 0
    assert scope["action"].shape == (1,)
    exec(block(PAGE, "record"), scope)
    assert scope["adapted"].steps == 1
    exec(block(PAGE, "export"), scope)
    assert scope["means"].shape == (5, 1)
    exec(block(PAGE, "async"), scope)
    exec(block(PAGE, "batched"), {})
    fast = make_sampler("playground/FastPendulum-v0", num_tasks=1, episodes_per_task=2)
    assert isinstance(fast.env, BatchedTaskEnv)
    assert roll(fast, [{"angle": 0.8, "length": 1.2}]).rewards.isfinite().all()
    run_in_small(block(PAGE, "video"), {"render": "--episodes-per-task 2"})


def the_reward_is_changed() -> None:
    """The scalar and the vectorized environment subtract the same penalty from the reward."""
    sizes = {"num_tasks": 1, "episodes_per_task": 2}
    task = [{"direction": 1}]
    level = roll(make_sampler("level:level/LevelCheetahDir-v0", **sizes), task)
    plain = roll(make_sampler("metarl/HalfCheetahDir-v1", **sizes), task)
    scalar = make_sampler("level/LevelCheetahDir-v0", **sizes, vectorization_mode="sync")
    tilt = level.observations[0, ..., 1]
    torch.testing.assert_close(level.observations, plain.observations)
    torch.testing.assert_close(roll(scalar, task).rewards, level.rewards)
    penalty = (plain.rewards - level.rewards)[
        0, :-1
    ]  # the tilt after a step is observed in the next
    torch.testing.assert_close(penalty, 0.5 * tilt[1:] ** 2, atol=1e-5, rtol=1e-4)


def test_the_pendulum_is_drawn_with_its_angle_and_the_target_angle(
    folder: Path,
) -> None:
    env: Any = gymnasium.make(ENV, render_mode="rgb_array").unwrapped
    env.task = {"angle": np.pi / 2, "length": 1.5}
    env.reset(seed=0)
    env.angle = 0.0
    image = env.render()
    rod, asked = (np.argwhere((image == color).all(-1)) for color in (BLUE, YELLOW))
    middle = (image.shape[0] - 1) / 2
    per_meter = middle / 1.7
    assert np.ptp(rod, axis=0) == pytest.approx((1.5 * per_meter, 0.12 * per_meter), abs=2)
    assert rod.mean(axis=0) == pytest.approx((middle + 0.75 * per_meter, middle), abs=1)
    assert asked.mean(axis=0) == pytest.approx((middle, middle + 0.75 * per_meter), abs=2.5)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("env_id", "vectorization", "kind"),
    [(ENV, "auto", SyncVectorEnv), (ENV, "async", AsyncVectorEnv), (ROBOT, "sync", SyncVectorEnv)],
)
def test_a_flag_selects_the_vector_environment(
    env_id: str, vectorization: Any, kind: type, folder: Path
) -> None:
    config = MAMLTRPO(env=env_id, vectorization=vectorization, hidden=(4,))
    env: Any = build(config, num_tasks=1, episodes=2).sampler.env
    assert type(env) is kind
    env.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_worker_processes_do_not_change_results(folder: Path, tmp_path: Path) -> None:
    for mode in ("sync", "async"):
        flags = ["--iterations", 1, "--vectorization", mode, "--out", tmp_path / mode]
        metarl(*TRAIN, "--env", ENV, *flags)
    assert history(tmp_path / "sync") == history(tmp_path / "async")


def test_wrappers_pass_the_task_to_the_environment() -> None:
    wrappers = (ClipAction.wrapper_spec(), FlattenObservation.wrapper_spec())
    env_id = register("Mark", additional_wrappers=wrappers)
    sampler = make_sampler(env_id, num_tasks=3, episodes_per_task=2)
    marks = torch.tensor([-0.7, 0.0, 0.6])
    rollout = roll(sampler, [{"mark": mark} for mark in marks.tolist()])
    guess = rollout.actions[..., 0].clamp(-1, 1)
    assert rollout.mask.all()  # clipped actions are at most 1
    torch.testing.assert_close(rollout.rewards, -(guess - marks[:, None, None]).abs())


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_dictionaries_are_flattened_in_the_order_of_the_space(mode: str) -> None:
    mark = {"mark": 0.5}
    options: Any = {"num_tasks": 1, "episodes_per_task": 2, "vectorization_mode": mode}
    plain, structured = (
        roll(make_sampler(register(name), **options), [mark]).observations
        for name in ("Mark", "DictObservation")
    )
    part = torch.tensor([0.0, 1.0, 0.0]).expand(*structured.shape[:3], 3)
    assert torch.equal(structured[..., :3], part)
    assert torch.equal(structured[:, 0, :, 3:], plain[:, 0])


def test_arguments_of_the_vectorized_environment_are_kept() -> None:
    options = {"autoreset_mode": AutoresetMode.DISABLED}
    env = make_vector_env(register("Mark"), 2, vectorization_mode="sync", vector_kwargs=options)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_divergence_reported_as_numpy_boolean_is_counted() -> None:
    sampler = make_sampler(register("Tells"), num_tasks=2, episodes_per_task=20)
    rollout = roll(sampler, [{"mark": 0.0}] * 2)
    expected = rollout.mask & (rollout.actions[..., 0] > 0.5)
    assert rollout.diverged.equal(expected)
    assert 0 < expected.sum() < rollout.mask.sum()


@pytest.mark.parametrize("options", [{}, SPAWN], ids=["sync", "async"])
def test_errors_of_an_environment_name_it(options: dict[str, Any]) -> None:
    sampler = make_sampler(register("Raises"), num_tasks=1, episodes_per_task=2, **options)
    with pytest.raises(RuntimeError, match=r"own/Raises-v0 failed in step: KeyError: .*'wheel'"):
        roll(sampler, [{"mark": 0.0}])


def test_a_dead_worker_is_an_error_and_not_a_hang() -> None:
    sampler = make_sampler(register("Dies"), num_tasks=1, episodes_per_task=2, **SPAWN)
    expected = r"failed in step: process \d of 2 exited with 1 in task {\"mark\": 0.0}; vec"
    with pytest.raises(RuntimeError, match=expected):
        roll(sampler, [{"mark": 0.0}])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NoTask", "own/NoTask-v0 has no tasks: expected an attribute `task` and a method"),
        ("NoSampling", "own/NoSampling-v0 has no tasks: expected an attribute `task` and a method"),
        ("FewTasks", "sample_tasks(2, rng) of own/FewTasks-v0 must return a list of 2"),
        ("ArrayTasks", "(numbers and lists, no numpy arrays), got [{'mark': array("),
        ("ImageObservation", "wrap the environment in gymnasium.wrappers.FlattenObservation"),
        (
            "IntegerActions",
            "must be a one-dimensional Box of floating-point numbers",
        ),
        ("ManyActions", "Discrete space with start=0, got MultiDiscrete"),
        (
            "CountsFromOne",
            "Discrete space with start=0, got Discrete(3, start=1",
        ),
        ("Raises", "own/Raises-v0 failed in step: KeyError: 'wheel'"),
    ],
)
def test_violations_of_the_interface_give_one_line_errors(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *TRAIN, "--env", register(name), "--out", tmp_path / "run")


def test_the_horizon_is_found_in_every_supported_place() -> None:
    many = {"num_tasks": 1, "episodes_per_task": 2}
    assert make_sampler(register("Mark"), **many).horizon == 5
    assert make_sampler(register("Mark"), **many, max_episode_steps=7).horizon == 7
    assert make_sampler(register("Mark", horizon=None), **many, max_episode_steps=7).horizon == 7
    rows = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(register("Mark"))] * 2)
    assert Sampler(rows, episodes_per_task=2).horizon == 5
    with pytest.raises(ValueError, match="no horizon"):
        make_sampler(register("Mark", horizon=None), **many)


def test_the_environment_rejects_invalid_task_descriptions() -> None:
    sampler = make_sampler(register("Mark"), num_tasks=1, episodes_per_task=1)
    before = roll(sampler, [{"mark": 1.0}])
    with pytest.raises(RuntimeError, match="own/Mark-v0 failed in reset: KeyError: 'mark'"):
        roll(sampler, [{"goal": 0.0}])
    assert roll(sampler, [{"mark": 1.0}]).rewards.equal(before.rewards)


def test_policies_with_one_action_support_chunks_of_several_tasks() -> None:
    """With one action, ambiguous strides have caused an error in a view."""
    policy, params = Policy.of(GaussianMLP((3, 8, 1), activation="relu").double())
    objective = PostAdaptationObjective(policy, InnerLoop(reinforce(policy), sgd(0.1), num_steps=1))
    meta = objective.loop.init(params)
    tasks = random_meta_batch(policy, objective.loop, meta, num_tasks=2)
    expected = objective.products(meta, tasks, meta)
    at_old = objective.linearize(meta, tasks)
    assert relative_error(at_old.gradient, expected[1]) < 1e-12
    assert relative_error(at_old.fisher(meta), expected[2]) < 1e-12
