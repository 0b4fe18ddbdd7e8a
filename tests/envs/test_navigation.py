"""2D navigation: dynamics, both implementations, and tasks."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import metarl.envs
from metarl.envs.base import TaskEnv, task_array
from tests.support import environments


ID = "metarl/Navigation2D-v0"
FAR = {"goal": [-0.5, 0.5]}
STEP = np.ones(2, np.float32)  # moves by (0.1, 0.1)


def make(task: dict[str, Any] = FAR, **options: Any) -> Any:
    return environments.make(ID, task, **options)


def make_rows(tasks: list[dict[str, Any]], **options: Any) -> Any:
    return environments.make_rows(ID, tasks, **options)


def goals(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return environments.draw(ID, count, seed)


@pytest.mark.parametrize("observe_task", [False, True])
def test_gymnasium_checker_passes(observe_task: bool) -> None:
    env = gymnasium.make(ID, observe_task=observe_task, render_mode="rgb_array").unwrapped
    check_env(env)
    assert isinstance(env, TaskEnv)


def run_both(tasks: list[dict[str, Any]], *, seed: int = 0, **options: Any) -> list[int]:
    """Step both implementations with the same actions; return the lengths of the episodes."""
    rows, scalars = make_rows(tasks, **options), [make(task, **options) for task in tasks]
    first, _ = rows.reset(seed=seed)
    seen = [env.reset(seed=seed)[0] for env in scalars]
    assert np.array_equal(first, seen)
    rng, lengths = np.random.default_rng(seed), [0] * len(tasks)
    running = list(range(len(tasks)))
    while running:
        actions = rng.uniform(-2, 2, (len(tasks), 2)).astype(np.float32)
        observations, rewards, terminated, truncated, _ = rows.step(actions)
        for row in running.copy():
            one = scalars[row].step(actions[row])
            assert np.array_equal(observations[row], one[0])
            assert observations.dtype == one[0].dtype == np.float32
            assert (rewards[row], terminated[row], truncated[row]) == one[1:4]
            lengths[row] += 1
            if one[2] or one[3]:
                running.remove(row)
    return lengths


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_scalar_and_vectorized_environments_are_bit_identical(
    observe_task: bool, seed: int
) -> None:
    tasks = [*goals(6, seed), {"goal": [0.0, 0.0]}]
    assert max(run_both(tasks, seed=seed, observe_task=observe_task)) == 100


def test_both_implementations_agree_at_other_horizons() -> None:
    assert run_both([FAR, FAR], max_episode_steps=7) == [7, 7]


def test_both_implementations_agree_if_the_goal_is_reached_in_the_last_step() -> None:
    task = {"goal": [0.1, 0.1]}
    env, rows = make(task, max_episode_steps=1), make_rows([task], max_episode_steps=1)
    env.reset()
    rows.reset()
    _, _, terminated, truncated, _ = rows.step(STEP[None])
    assert (terminated[0], truncated[0]) == env.step(STEP)[2:4]


def test_reward_is_the_distance_after_the_move_and_not_its_square() -> None:
    env = make({"goal": [0.4, 0.5]})
    env.reset()
    assert env.step(STEP)[1] == pytest.approx(-0.5, abs=1e-7)
    assert env.step(-STEP)[1] == pytest.approx(-(0.41**0.5), abs=1e-7)


@pytest.mark.parametrize(("action", "position"), [(0.5, 0.05), (3.0, 0.1), (-9.0, -0.1)])
def test_actions_are_scaled_and_clipped(action: float, position: float) -> None:
    env = make()
    env.reset()
    seen = env.step(np.array([action, 0.0], np.float32))[0]
    assert seen.tolist() == pytest.approx([position, 0])


@pytest.mark.parametrize(
    ("gap", "done"), [(0.0, True), (0.009, True), (-0.009, True), (0.011, False)]
)
def test_episode_terminates_inside_a_box_around_the_goal(gap: float, done: bool) -> None:
    env = make({"goal": [0.1 + gap, 0.1 - gap]})
    env.reset()
    _, _, terminated, truncated, _ = env.step(STEP)
    assert (terminated, truncated) == (done, False)
    one_sided = make({"goal": [0.1, 0.3]})
    one_sided.reset()
    assert not one_sided.step(STEP)[2]


def test_ended_rows_freeze_with_zero_reward() -> None:
    rows = make_rows([{"goal": [0.1, 0.1]}, {"goal": [0.2, 0.2]}, FAR], max_episode_steps=4)
    rows.reset()
    steps = [rows.step(np.stack([STEP] * 3))[:4] for _ in range(5)]
    observations, rewards, terminated, truncated = (np.stack(x) for x in zip(*steps, strict=True))
    assert terminated.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert truncated.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert (observations[:, 0] == observations[0, 0]).all()
    assert (observations[1:, 1] == observations[1, 1]).all()
    assert (rewards[1:, 0] == 0).all()
    assert (rewards[:4, 2] < -0.5).all()
    assert rewards[4, 2] == 0
    assert (rows.reset()[0] == 0).all()
    assert (rows.step(np.stack([STEP] * 3))[1][1:] < 0).all()


def test_a_task_takes_effect_at_the_next_reset() -> None:
    env, rows = make({"goal": [0.3, 0.4]}), make_rows([{"goal": [0.3, 0.4]}])
    still = np.zeros((1, 2), np.float32)
    for expected, task in ((-0.5, {"goal": [0.0, 0.1]}), (-0.1, FAR)):
        env.reset()
        rows.reset()
        env.unwrapped.task = task
        rows.set_attr("task", [task])
        assert env.step(still[0])[1] == rows.step(still)[1][0] == pytest.approx(expected)


MALFORMED = [
    *({}, {"goals": [0, 0]}, {"goal": [0.1, 0.1], "speed": 1}),
    *({"goal": [0.1]}, {"goal": [0.1, np.nan]}, {"goal": "here"}, {"goal": None}),
]


@pytest.mark.parametrize("task", MALFORMED)
def test_a_malformed_task_gives_a_one_line_error(task: Any) -> None:
    rows, env = make_rows([FAR, FAR]), make(task)
    wanted = r"\Aa task of this environment must have the form \{'goal': \[0\.0, 0\.0\]\}, got .*\Z"
    with pytest.raises(ValueError, match=wanted):
        rows.set_attr("task", [FAR, task])
    assert rows.get_attr("task") == (FAR, FAR)
    with pytest.raises(ValueError, match=wanted):
        env.reset()
    with pytest.raises(ValueError, match=wanted):
        task_array([0.1, 0.1], "goal", (2,))


def test_attributes_and_methods_of_rows() -> None:
    rows = make_rows([FAR] * 3)
    rows.set_attr("task", {"goal": [0.1, 0.2]})
    assert rows.get_attr("task") == rows.call("task") == ({"goal": [0.1, 0.2]},) * 3
    assert rows.call("max_episode_steps") == rows.get_attr("max_episode_steps") == (100,) * 3
    assert rows.call("sample_tasks", 2, np.random.default_rng(0)) == (goals(2),) * 3
    with pytest.raises(ValueError, match="expected 3 tasks, one per sub-environment, got 2"):
        rows.set_attr("task", [FAR] * 2)
    with pytest.raises(AttributeError, match="only the attribute 'task' can be set, got 'speed'"):
        rows.set_attr("speed", 1)
    with pytest.raises(AttributeError, match="speed"):
        rows.get_attr("speed")


@pytest.mark.parametrize("observe_task", [False, True])
def test_make_vec_creates_the_vectorized_environment(observe_task: bool) -> None:
    rows = gymnasium.make_vec(ID, num_envs=4, observe_task=observe_task)
    scalar = make(observe_task=observe_task)
    assert isinstance(rows.unwrapped, metarl.envs.point.BatchedPointEnv)
    assert rows.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert rows.spec.max_episode_steps == scalar.spec.max_episode_steps == 100
    assert rows.single_observation_space == scalar.observation_space
    assert rows.single_action_space == scalar.action_space
    observations, _ = rows.reset(seed=[1, 2, 3, 4])
    assert rows.observation_space.contains(observations)


def test_oracle_observes_the_goal() -> None:
    tasks = goals(3)
    seen, _ = make_rows(tasks, observe_task=True).reset()
    assert np.array_equal(seen[:, 2:], np.float32([task["goal"] for task in tasks]))


def test_goals_are_uniform_on_the_square() -> None:
    drawn = np.array([task["goal"] for task in goals(4000)])
    assert drawn.shape == (4000, 2)
    assert (np.abs(drawn) <= 0.5).all()
    assert np.abs(drawn.mean(0)).max() < 0.02
    assert np.abs(drawn.std(0) - 1 / 12**0.5).max() < 0.01
    assert goals(3, seed=5) == goals(3, seed=5) != goals(3, seed=6)


def test_positions_stay_in_the_observation_space() -> None:
    rows = make_rows([FAR, {"goal": [0.5, -0.5]}])
    rows.reset()
    for _ in range(100):
        seen = rows.step(np.array([STEP, -STEP]) * 5)[0]
        assert rows.observation_space.contains(seen)
    assert np.abs(seen).min() == pytest.approx(10)
