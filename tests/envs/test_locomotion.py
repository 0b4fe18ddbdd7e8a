"""The robots: both implementations, rewards, tasks, divergence and pickling."""

import copy
import importlib
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl.envs import ENVIRONMENTS, Row
from metarl.envs.base import TaskEnv
from metarl.envs.batched_locomotion import BatchedLocomotion
from metarl.envs.locomotion import LocomotionEnv, States, quiet
from metarl.envs.planar import PlanarMass
from metarl.envs.tasks import Velocity
from tests.support import ROOT
from tests.support.environments import draw, make, make_rows


ROBOTS = [row for row in ENVIRONMENTS if issubclass(row.scalar(), LocomotionEnv)]
IDS = [row.id for row in ROBOTS]
RAND_PARAMS = ["metarl/HopperRandParams-v1", "metarl/Walker2dRandParams-v1"]
ANT, HOPPER, HUMANOID = "metarl/AntDir-v1", "metarl/HopperRandParams-v1", "metarl/HumanoidDir-v1"
CHEETAH, FINN = "metarl/HalfCheetahDir-v1", "metarl/RllabHalfCheetahDir-v0"

every_id = pytest.mark.parametrize("name", IDS)


def actions_of(rows: Any, rng: np.random.Generator, scale: float = 1.5) -> Any:
    """Sample actions, some of them out of bounds."""
    shape = rows.action_space.shape
    return rng.uniform(-scale, scale, shape).astype(np.float32)


def play(rows: Any, steps: int, *, seed: int = 0, scale: float = 1.5) -> list[Any]:
    """Run one episode of random actions; return (observations, rewards, ends) step by step."""
    rng = np.random.default_rng(seed)
    played = [(rows.reset(seed=seed)[0],)]
    for _ in range(steps):
        played.append(rows.step(actions_of(rows, rng, scale))[:4])
    return [x for step in played for x in step]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


# The scalar and the vectorized implementation.


@every_id
@pytest.mark.filterwarnings(r"ignore:.*Box observation space (minimum|maximum) value is")
def test_gymnasium_checker_passes(name: str) -> None:
    env = make(name).unwrapped
    check_env(env, skip_render_check=True)
    assert isinstance(env, TaskEnv)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (env.model.nu,), np.float32)


@every_id
def test_scalar_and_vectorized_environments_are_bit_identical(name: str) -> None:
    horizon, tasks = 25, draw(name, 3)
    tasks.append(tasks[0])
    rows = make_rows(name, tasks, num_threads=2, max_episode_steps=horizon)
    scalars = [make(name, task, max_episode_steps=horizon) for task in tasks]
    assert np.array_equal(
        rows.reset(seed=3)[0], [env.reset(seed=3 + row)[0] for row, env in enumerate(scalars)]
    )
    rng, last, running = np.random.default_rng(0), [None] * 4, [True] * 4
    for _ in range(horizon + 1):
        actions = actions_of(rows, rng)
        seen, rewards, terminated, truncated, info = rows.step(actions)
        assert seen.dtype == rewards.dtype == np.float64
        for row, env in enumerate(scalars):
            if running[row]:
                one = env.step(actions[row])
                assert np.array_equal(seen[row], one[0])
                assert (rewards[row], terminated[row], truncated[row]) == one[1:4]
                assert info["diverged"][row] == one[4]["diverged"] == False  # noqa: E712
                last[row], running[row] = seen[row], not (one[2] or one[3])
            else:  # frozen
                assert np.array_equal(seen[row], last[row])
                assert (rewards[row], terminated[row], truncated[row]) == (0, False, False)
    assert not any(running)


@every_id
def test_vectorized_environments_have_the_spaces_horizon_and_oracle_of_scalar_ones(
    name: str,
) -> None:
    task = draw(name, 1, seed=5)[0]
    first = {}
    for observe_task in (False, True):
        env = make(name, task, observe_task=observe_task)
        rows = make_rows(name, [task] * 2, observe_task=observe_task)
        assert isinstance(rows.unwrapped, BatchedLocomotion)
        assert rows.single_observation_space == env.observation_space
        assert rows.single_action_space == env.action_space
        assert rows.spec.max_episode_steps == env.spec.max_episode_steps
        first[observe_task] = rows.reset(seed=0)[0]
        assert rows.observation_space.contains(first[observe_task])
    values = env.unwrapped.task_values(task)
    oracle = np.concatenate([first[False], [values, values]], axis=1)
    assert np.array_equal(first[True], oracle)


@pytest.mark.parametrize("name", [FINN, CHEETAH, ANT, HUMANOID, HOPPER])
def test_number_of_threads_changes_nothing(name: str) -> None:
    tasks = draw(name, 4)
    one, two, three = (
        play(make_rows(name, tasks, num_threads=threads), 12) for threads in (1, 2, 3)
    )
    assert same(one, two)
    assert same(one, three)


@every_id
def test_equal_seeds_give_equal_episodes_and_rows_have_distinct_seeds(name: str) -> None:
    rows = make_rows(name, draw(name, 1) * 3)
    first, again, other = play(rows, 6, seed=1), play(rows, 6, seed=1), play(rows, 6, seed=2)
    assert same(first, again)
    assert np.array_equal(first[0][1:], other[0][:-1])  # row r of seed s has the seed s + r
    assert len(np.unique(first[0], axis=0)) == 3
    chosen = rows.reset(seed=[2, 9, 2])[0]
    assert np.array_equal(chosen[0], chosen[2])
    assert np.array_equal(chosen[0], first[0][1])
    assert not np.array_equal(rows.reset()[0], rows.reset()[0])


# Tasks.


@every_id
def test_a_task_takes_effect_at_the_next_reset(name: str) -> None:
    old, new = draw(name, 12)[0], None
    for task in draw(name, 12):
        new = task if task != old else new
    env, rows, still = make(name, old), make_rows(name, [old]), np.zeros((1, 20))

    def rewards(*, reset: bool) -> tuple[float, float]:
        if reset:
            env.reset(seed=0)
            rows.reset(seed=0)
        action = still[:, : env.action_space.shape[0]].astype(np.float32)
        return env.step(action[0])[1], float(rows.step(action)[1][0])

    (first, _), (second, _) = rewards(reset=True), rewards(reset=False)
    rewards(reset=True)
    env.unwrapped.task = new
    rows.set_attr("task", [new])
    assert rewards(reset=False) == (second, second)
    changed = rewards(reset=True)
    assert changed[0] == changed[1] != first


@every_id
def test_a_malformed_task_gives_a_one_line_error(name: str) -> None:
    good = draw(name, 1)[0]
    (field, value) = next(iter(good.items()))
    bad = [{}, {"speed": 1.0}, {**good, "speed": 1.0}, {field: None}, {field: [value]}]
    rows, env = make_rows(name, [good, good]), make(name)
    for task in [*bad, {field: np.nan}, {field: "fast"}]:
        env.unwrapped.task = task
        with pytest.raises(ValueError, match=r"\A.+got .+\Z"):
            rows.set_attr("task", [good, task])
        with pytest.raises(ValueError, match=r"\A.+got .+\Z"):
            env.reset()
        assert rows.get_attr("task") == (good, good)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf, "heavy"])
def test_factors_must_be_positive_numbers(wrong: Any) -> None:
    task = copy.deepcopy(draw(HOPPER, 1)[0])
    task["scales"]["body_mass"][2] = wrong
    positive = "factors for body_mass must be positive and of shape .*"
    wanted = rf"\A({positive}|a task of this environment must have the form .*'body_mass'.*)\Z"
    with pytest.raises(ValueError, match=wanted):
        make(HOPPER, task).reset()


@pytest.mark.parametrize("direction", [0, 2, -0.5])
def test_directions_must_be_1_or_minus_1(direction: float) -> None:
    with pytest.raises(ValueError, match="1 or -1"):
        make(ANT, {"direction": direction}).reset()


@every_id
def test_tasks_are_json_serializable_and_depend_on_the_generator(name: str) -> None:
    tasks = draw(name, 6)
    assert json.loads(json.dumps(tasks)) == tasks == draw(name, 6) != draw(name, 6, seed=1)


def test_task_distributions() -> None:
    for name, low, high in (
        ("metarl/RllabHalfCheetahVel-v0", 0, 2),
        ("metarl/HalfCheetahVel-v1", 0, 3),
        ("metarl/AntVel-v1", 0, 3),
        ("metarl/Walker2dVel-v1", 0, 10),
        ("metarl/SwimmerVel-v1", 0.1, 0.2),
    ):
        drawn = np.array([task["velocity"] for task in draw(name, 2000)])
        assert low <= drawn.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < drawn.max() <= high
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    directions = [task["direction"] for task in draw(ANT, 2000)]
    assert set(directions) == {1, -1}
    assert abs(sum(directions)) < 200
    radius = np.linalg.norm([task["goal"] for task in draw("metarl/AntGoal-v1", 4000)], axis=1)
    assert radius.max() <= 3
    assert np.mean(radius < 1.5) == pytest.approx(0.25, abs=0.03)  # uniform in area
    factors = [np.array(task["scales"]["dof_damping"]) for task in draw(HOPPER, 500)]
    exponents = np.log(factors) / np.log(1.3)
    assert np.abs(exponents).max() <= 3
    assert exponents.std() == pytest.approx(6 / 12**0.5, abs=0.1)


# Rewards and observations, recomputed from MuJoCo's data.


def body_velocity(model: Any, data: Any) -> float:
    """Return the x velocity of the center of mass, computed from the velocities of all bodies."""
    mujoco.mj_forward(model, data)
    total = 0.0
    for body in range(1, model.nbody):
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
        total += model.body_mass[body] * velocity[3]
    return float(total / model.body_mass.sum())


def body_center(model: Any, data: Any) -> float:
    mujoco.mj_forward(model, data)
    return float((model.body_mass @ data.xipos)[0] / model.body_mass.sum())


# By id: seconds per step, reward as a function of (velocity, squared action, task), velocity.
REWARDS: dict[str, tuple[float, Any]] = {
    "metarl/RllabHalfCheetahDir-v0": (0.01, lambda v, a, t: t["direction"] * v - 0.05 * a),
    "metarl/RllabHalfCheetahVel-v0": (0.01, lambda v, a, t: -abs(v - t["velocity"]) - 0.05 * a),
    "metarl/HalfCheetahDir-v1": (0.05, lambda v, a, t: t["direction"] * v - 0.05 * a),
    "metarl/HalfCheetahVel-v1": (0.05, lambda v, a, t: -abs(v - t["velocity"]) - 0.05 * a),
    "metarl/AntDir-v1": (0.05, lambda v, a, t: t["direction"] * v - 0.5 * a + 1),
    "metarl/AntVel-v1": (0.05, lambda v, a, t: 1 - abs(v - t["velocity"]) - 0.005 * a + 0.05),
    "metarl/Walker2dDir-v1": (0.016, lambda v, a, t: t["direction"] * v + 1 - 1e-3 * a),
    "metarl/Walker2dVel-v1": (0.016, lambda v, a, t: 15 - abs(v - t["velocity"]) - 1e-3 * a),
    "metarl/HumanoidDir-v1": (
        0.015,  # as in ProMP: a quarter of the displacement divided by one substep
        lambda v, a, t: 0.25 * t["direction"] * v * 5 - 0.1 * 0.16 * a + 5,
    ),
    "metarl/SwimmerVel-v1": (0.04, lambda v, a, t: -abs(v - t["velocity"]) - 1e-4 * a),
    "metarl/HopperRandParams-v1": (0.008, lambda v, a, t: v + 1 - 1e-3 * a),
    "metarl/Walker2dRandParams-v1": (0.008, lambda v, a, t: v + 1 - 1e-3 * a),
}


def by_hand(name: str, env: Any, before: float) -> float:
    """Return the rewarded velocity, given the position `before` the step."""
    if "Rllab" in name:
        return body_velocity(env.model, env.data)
    return (position(name, env) - before) / REWARDS[name][0]


def position(name: str, env: Any) -> float:
    return body_center(env.model, env.data) if name == HUMANOID else float(env.data.qpos[0])


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_match_hand_computed_values(name: str) -> None:
    task, rng = draw(name, 3)[2], np.random.default_rng(1)
    env = make(name, task).unwrapped
    assert env.dt == pytest.approx(REWARDS[name][0])
    env.reset(seed=0)
    for _ in range(4):
        before, action = position(name, env), rng.uniform(-2, 2, env.model.nu)
        reward = env.step(action)[1]
        square = np.square(np.clip(action, -1, 1)).sum()
        velocity = by_hand(name, env, before)
        assert reward == pytest.approx(REWARDS[name][1](velocity, square, task), abs=1e-9)


def test_goal_reward_is_the_l1_distance() -> None:
    env = make("metarl/AntGoal-v1", {"goal": [1.0, -2.0]}).unwrapped
    env.reset(seed=0)
    reward = env.step(np.full(8, 0.5))[1]
    x, y = env.data.qpos[:2]
    assert reward == pytest.approx(-abs(x - 1) - abs(y + 2) - 0.1 * 8 * 0.25)


def test_the_rewards_of_all_robots_are_tested() -> None:
    assert set(IDS) == {*REWARDS, "metarl/AntGoal-v1"}


def one_state(name: str, **positions: float) -> tuple[Any, States]:
    """Return an environment and its initial state as one row, with changed positions (q2=0.1)."""
    env = make(name).unwrapped
    qpos = env.init_qpos[None].copy()
    for key, value in positions.items():
        qpos[0, int(key[1:])] = value
    qvel, readings = np.zeros((1, env.model.nv)), np.zeros((1, env.model.nsensordata))
    return env, States(qpos, qvel, env.sense(qpos, qvel, readings))


def test_swimmer_reward_has_its_maximum_at_the_target_velocity() -> None:
    """ProMP's reward has the wrong sign in the first term."""
    rewards = []
    for velocity in (0.0, 0.1, 0.15, 0.2, 0.5):
        env, before = one_state("metarl/SwimmerVel-v1")
        after = one_state("metarl/SwimmerVel-v1", q0=velocity * env.dt)[1]
        rewards.append(env.rewards(before, after, np.zeros((1, 2)), np.array([[0.15]]))[0])
    assert rewards == pytest.approx([-0.15, -0.05, 0, -0.05, -0.35])


@pytest.mark.parametrize("name", [x for x in IDS if x != "metarl/AntGoal-v1"])
def test_absolute_positions_are_not_observed(name: str) -> None:
    """Other implementations observe it; here only the half-cheetah of Finn et al. 2017 does."""
    env, here = one_state(name)
    _, there = one_state(name, q0=5.0, **({"q1": 3.0} if env.hidden_positions == 2 else {}))
    changed = np.flatnonzero(env.features(here)[0] != env.features(there)[0])
    assert changed.tolist() == ([17] if "Rllab" in name else [])


@every_id
def test_no_observation_is_constant(name: str) -> None:
    """With some MuJoCo versions, other ants have 84 observations that are always 0."""
    rows = make_rows(name, draw(name, 3))
    played, rng = [rows.reset(seed=0)[0]], np.random.default_rng(0)
    played += [rows.step(actions_of(rows, rng))[0] for _ in range(3)]
    seen = np.concatenate(played)
    dead = np.flatnonzero(np.ptp(seen, axis=0) == 0)
    assert dead.tolist() == (
        [18] if "Rllab" in name else []
    )  # y of the half-cheetah of Finn et al. 2017


WALKERS = [name for name in IDS if "Walker2d" in name]
HEALTHY = [
    *[(ANT, {"q2": z}, ok) for z, ok in ((-0.01, 0), (0.0, 1), (1.0, 1), (1.01, 0))],
    *[("metarl/AntVel-v1", {"q2": z}, ok) for z, ok in ((0.19, 0), (0.2, 1), (1.01, 0))],
    *[("metarl/AntGoal-v1", {"q2": z}, 1) for z in (-1.0, 2.0)],
    *[(HUMANOID, {"q2": z}, ok) for z, ok in ((0.99, 0), (1.0, 1), (2.0, 1), (2.01, 0))],
    *[(x, {"q1": z}, ok) for x in WALKERS for z, ok in ((0.8, 0), (0.81, 1), (2.0, 0))],
    *[(x, {"q2": z}, ok) for x in WALKERS for z, ok in ((-1.0, 0), (0.99, 1), (1.0, 0))],
    *[(HOPPER, {"q1": z}, ok) for z, ok in ((0.7, 0), (0.71, 1), (9.0, 1))],
    *[(HOPPER, {"q2": z}, ok) for z, ok in ((-0.2, 0), (0.19, 1), (0.2, 0))],
    *[(HOPPER, {"q4": z}, ok) for z, ok in ((99.0, 1), (100.0, 0))],
]


@pytest.mark.parametrize(("name", "positions", "healthy"), HEALTHY)
def test_termination_bounds(name: str, positions: dict[str, float], healthy: int) -> None:
    env, state = one_state(name, **positions)
    assert env.healthy(state).tolist() == [bool(healthy)]


UNIT = {"metarl/HopperRandParams-v1": "Hopper-v5", "metarl/Walker2dRandParams-v1": "Walker2d-v5"}
PHYSICS = {CHEETAH: "HalfCheetah-v5", ANT: "Ant-v5", HUMANOID: "Humanoid-v5", **UNIT}


@pytest.mark.parametrize("name", [*PHYSICS, "metarl/SwimmerVel-v1"])
def test_physics_and_initial_states_match_gymnasium(name: str) -> None:
    """Controls of the humanoid are 0.4 times the actions, and factors of 1 have no effect."""
    env = make(name).unwrapped
    with quiet():  # Gymnasium's environment writes a log
        theirs = gymnasium.make(PHYSICS.get(name, "Swimmer-v5")).unwrapped
    if name in UNIT:
        scales = {k: np.ones_like(v).tolist() for k, v in env.task["scales"].items()}
        env.task = {"scales": scales}
    env.reset(seed=4)
    theirs.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert np.array_equal(env.data.qpos, theirs.data.qpos)
        assert np.array_equal(env.data.qvel, theirs.data.qvel)
        action = rng.uniform(-1.5, 1.5, env.model.nu)
        theirs.data.qacc_warmstart[:] = 0
        env.step(action)
        theirs.step(np.clip(action, -1, 1) * (0.4 if name == HUMANOID else 1))
        assert np.array_equal(env.data.ctrl, theirs.data.ctrl)


# The center of mass of a planar robot.


def test_planar_center_of_mass_matches_mujoco() -> None:
    env, rng = make(FINN).unwrapped, np.random.default_rng(0)
    qpos, qvel = rng.normal(size=(2, 50, 9)) * 3
    positions, velocities = PlanarMass(env.model).center(qpos, qvel)
    for row in range(50):
        env.data.qpos[:], env.data.qvel[:] = qpos[row], qvel[row]
        mujoco.mj_forward(env.model, env.data)
        mujoco.mj_subtreeVel(env.model, env.data)
        assert np.abs(positions[row] - env.data.subtree_com[1]).max() < 1e-12
        assert np.abs(velocities[row] - env.data.subtree_linvel[1]).max() < 1e-12


def test_half_cheetah_meets_the_assumptions_of_planar_mass() -> None:
    model = make(FINN).unwrapped.model
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    assert model.jnt_type.tolist() == [slide, slide, *[hinge] * 7]
    assert model.jnt_axis.tolist() == [[1, 0, 0], [0, 0, 1], *[[0, 1, 0]] * 7]
    assert model.body_jntnum.tolist() == [0, 3, *[1] * 6]
    assert not model.jnt_pos.any()
    assert not model.qpos0.any()
    assert not model.body_pos[:, 1].any()
    assert not np.abs(model.body_ipos[:, 1]).max() > 1e-15
    assert (model.body_quat == [1, 0, 0, 0]).all()


# Random parameters.


@pytest.mark.parametrize("name", RAND_PARAMS)
def test_a_task_scales_every_element_and_derived_constants(name: str) -> None:
    env = make(name).unwrapped
    task, other = draw(name, 2)
    nominal = copy.copy(env.model)
    model = env.task_model(task)
    for field, scales in task["scales"].items():
        assert np.array_equal(getattr(model, field), getattr(nominal, field) * scales)
        assert np.array_equal(getattr(env.nominal, field), getattr(nominal, field))
    assert model.body_subtreemass[1] == pytest.approx(model.body_mass.sum())
    assert (model.dof_invweight0 != nominal.dof_invweight0).all()
    for chosen in (task, other, task):  # factors do not accumulate
        env.task = chosen
        env.reset()
        assert env.mujoco_renderer.model is env.model
        assert np.array_equal(
            env.model.body_mass, nominal.body_mass * chosen["scales"]["body_mass"]
        )


def test_rows_with_the_same_task_share_a_model() -> None:
    first, second = draw(HOPPER, 2)
    rows = make_rows(HOPPER, [first, first, second])
    rows.reset(seed=0)
    models = rows.unwrapped._models
    assert models[0] is models[1] is not models[2]
    rows.set_attr("task", [second] * 3)
    rows.reset(seed=0)
    assert np.array_equal(rows.unwrapped._models[0].body_mass, models[2].body_mass)


# Divergence.


def explosive(env: Any) -> Any:
    """Make the motors so strong that every action makes the simulation diverge."""
    env.unwrapped.model.actuator_gear[:, 0] *= 1e13
    return env


@every_id
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_diverged_row_does_not_affect_other_rows(
    name: str, steps_before: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write its log
    tasks = draw(name, 3)
    rows = explosive(make_rows(name, tasks, num_threads=2))
    calm, env = make_rows(name, tasks), explosive(make(name, tasks[1]))
    last, _ = rows.reset(seed=0)
    calm.reset(seed=0)
    env.reset(seed=1)
    still = np.zeros(rows.action_space.shape, np.float32)
    for _ in range(steps_before):
        last, *_ = rows.step(still)
        calm.step(still)
        env.step(still[1])
    wild = still.copy()
    wild[1] = 1.0
    seen, rewards, terminated, truncated, info = rows.step(wild)
    one, expected = env.step(wild[1]), calm.step(still)
    assert info["diverged"].tolist() == terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert np.array_equal(seen[1], last[1])
    assert np.array_equal(one[0], last[1])
    assert rewards[1] == 0
    assert one[1:] == (0, True, False, {"diverged": True})
    for _ in range(2):
        others = [x[[0, 2]] for x in (seen, rewards, terminated)]
        assert same(others, [x[[0, 2]] for x in expected[:3]])
        assert np.isfinite(seen).all()
        seen, rewards, terminated, truncated, info = rows.step(still)
        expected = calm.step(still)
        assert np.array_equal(seen[1], last[1])
        assert (rewards[1], terminated[1], info["diverged"][1]) == (0, False, False)
    env.reset(seed=1)
    assert not env.step(still[1])[4]["diverged"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [FINN, CHEETAH, ANT, HUMANOID, HOPPER])
@pytest.mark.parametrize("speed", [1e6, 1e9, 9e9])
def test_extreme_velocities_give_equal_results_in_both_environments(
    name: str, speed: float
) -> None:
    tasks = draw(name, 1) * 2
    rows, env = make_rows(name, tasks), make(name, tasks[0])
    rows.reset(seed=0)
    env.reset(seed=1)
    rows.unwrapped._full[1, 1 + rows.unwrapped.model.nq :] = speed
    env.unwrapped.data.qvel[:] = speed
    still = np.zeros(rows.action_space.shape, np.float32)
    seen, rewards, terminated, _, info = rows.step(still)
    one = env.step(still[1])
    assert np.isfinite(seen).all()
    assert np.isfinite(rewards).all()
    assert np.array_equal(seen[1], one[0])
    assert (rewards[1], terminated[1], info["diverged"][1]) == (*one[1:3], one[4]["diverged"])
    assert terminated.tolist() == info["diverged"].tolist() == [False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -2e10])
def test_an_invalid_state_after_the_last_substep_is_a_divergence(bad: float) -> None:
    env, before = one_state(ANT)
    for after in (before._replace(qpos=before.qpos + bad), before._replace(qvel=before.qvel + bad)):
        tasks, late = np.ones((1, 1)), np.zeros(1)
        seen, rewards, ended, diverged = env.transition(
            before, after, np.zeros((1, 8)), tasks, late
        )
        assert np.array_equal(seen, env.features(before))
        assert (rewards[0], ended[0], diverged[0]) == (0, True, True)


def test_a_custom_warning_handler_is_kept() -> None:
    heard: list[str] = []
    mujoco.set_mju_user_warning(heard.append)
    try:
        env = explosive(make(CHEETAH))
        env.reset(seed=0)
        env.step(np.ones(6, np.float32))
        assert any("QACC" in message for message in heard)
    finally:
        mujoco.set_mju_user_warning(None)
    assert mujoco.get_mju_user_warning() is None


# Copies, arguments and rendering.


@every_id
def test_copies_and_pickles_keep_arguments_and_task(name: str) -> None:
    env = make(name, draw(name, 3)[2], observe_task=True)
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 0.3, np.float32)
    expected = env.step(action)[:2]
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env.unwrapped))):
        assert twin.unwrapped.task == env.unwrapped.task
        twin.reset(seed=0)
        seen, reward = twin.step(action)[:2]
        assert np.array_equal(seen, expected[0])
        assert reward == expected[1]


def test_unsupported_arguments_are_rejected() -> None:
    with pytest.raises(
        TypeError, match=r"AntDir only accepts the arguments observe_task, .*got .*ctrl_cost_weight"
    ):
        make(ANT, ctrl_cost_weight=0.1)
    with pytest.raises(TypeError, match="frame_skip"):
        make_rows(ANT, [{"direction": 1}], frame_skip=2)


@pytest.mark.parametrize("name", [HUMANOID, HOPPER])
def test_rgb_array_rendering(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = make(name, render_mode="rgb_array", width=96, height=64)
    env.reset(seed=0)
    try:
        first = env.render()
    except Exception as error:
        pytest.skip(f"no EGL: {error}")
    assert first.shape == (64, 96, 3)
    assert np.ptp(first) > 0
    env.unwrapped.task = draw(name, 4)[3]
    env.reset(seed=1)
    assert env.unwrapped.mujoco_renderer.viewer.model is env.unwrapped.model
    for _ in range(5):
        env.step(np.ones(env.action_space.shape, np.float32))
    assert not np.array_equal(env.render(), first)
    env.close()


# The documentation.


@pytest.mark.parametrize("row", ROBOTS, ids=IDS)
def test_docstrings_have_all_sections(row: Row) -> None:
    text, env = row.scalar().__doc__ or "", make(row.id)
    titles = ["Description", "Action space", "Observation space", "Rewards", "Tasks"]
    titles += ["Starting state", "Episode end", "Version history"]
    assert [line.strip()[3:] for line in text.splitlines() if "## " in line] == titles
    words = " ".join(text.split())
    assert f"`Box(-1, 1, {env.action_space.shape})`" in words
    assert f"`Box(-inf, inf, {env.observation_space.shape})`" in words
    assert f"truncated after {row.horizon} steps" in words
    assert f"{row.id[-2:]}: " in words
    if issubclass(row.scalar(), Velocity):
        low, high = row.scalar().velocity_range
        assert f"v* ~ U({low:g}, {high:g}) m/s" in words


def test_environment_table_matches_the_registry() -> None:
    page = (ROOT / "docs/environments.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| `metarl/")]
    table = {cells[0]: cells[1:5] for cells in map(cells_of, lines)}
    assert list(table) == [row.id for row in ENVIRONMENTS]
    for row in ENVIRONMENTS:
        env = make(row.id)
        step = f"{env.unwrapped.dt:g} s" if row in ROBOTS else "-"
        sizes = [size_of(env.observation_space), size_of(env.action_space)]
        assert table[row.id] == [str(row.horizon), step, *sizes]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("environment_table")


def test_environment_table_matches_the_docstrings(
    writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.main(["check"])
    other = tmp_path / "environments.md"
    other.write_text(writer.PAGE.read_text().replace("0.5 ‖action‖²", "0.6 ‖action‖²"))
    monkeypatch.setattr(writer, "PAGE", other)
    with pytest.raises(SystemExit, match=r"python docs/environment_table\.py write"):
        writer.main(["check"])
    writer.main(["write"])
    writer.main(["check"])
    with pytest.raises(ValueError, match="has no section 'Rewards'"):
        writer.opening("A robot.\n\n## Tasks\nNone.", "Rewards")


@pytest.mark.parametrize("row", ROBOTS, ids=IDS)
def test_documented_rewards_match_the_class_constants(row: Row, writer: Any) -> None:
    reward = writer.opening(inspect.getdoc(row.scalar()), "Rewards")
    cost, alive = row.scalar().control_cost_weight, row.scalar().alive_bonus
    shown = "0.0001" if cost == 1e-4 else f"{cost:g}"
    numbers = re.findall(r"([−+]) ([\d.]+) ?(‖(?:0.4 )?action‖²)?", reward)
    assert numbers == [*([("+", f"{alive:g}", "")] if alive else []), ("−", shown, numbers[-1][2])]
    if "Δx / " in reward:
        assert f"Δx / {make(row.id).unwrapped.dt:g} s" in reward


def size_of(space: gymnasium.Space[Any]) -> str:
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"1 of {space.n}"
    return " × ".join(map(str, space.shape or ()))


def cells_of(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip("|").split("|")]
