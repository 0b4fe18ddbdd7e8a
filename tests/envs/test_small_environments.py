"""Bandits, tabular MDPs and the sparse point: known values and both implementations."""

import itertools
import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from metarl.core import tree
from metarl.envs import ENVIRONMENTS, bandit, sparse_point, tabular_mdp
from metarl.envs.base import BatchedTaskEnv, TaskEnv
from metarl.rl.networks import mlp_policy
from metarl.rl.sampler import make_sampler
from tests.support.environments import draw, make, make_rows
from tests.support.problems import seeded


BANDIT, MDP, POINT = "metarl/Bandit-v0", "metarl/TabularMDP-v0", "metarl/SparsePoint-v0"
NAMES = [BANDIT, MDP, POINT]
HORIZONS = {row.id: row.horizon for row in ENVIRONMENTS}
ARMS = {"means": [0.0, 0.1, 0.5, 0.9, 1.0]}
NORTHEAST = {"goal": [2.0, 2.0]}

every_id = pytest.mark.parametrize("name", NAMES)
oracle_or_not = pytest.mark.parametrize("observe_task", [False, True])


def random_actions(rows: Any, seed: int, steps: int) -> list[Any]:
    """Sample actions for every step; continuous actions can be out of bounds."""
    rng, space = np.random.default_rng(seed), rows.single_action_space
    shape = (steps, *rows.action_space.shape)
    if isinstance(space, gymnasium.spaces.Discrete):
        return list(rng.integers(space.n, size=shape))
    return list(rng.uniform(-2, 2, shape).astype(np.float32))


# Tests of all three.


@every_id
@oracle_or_not
@pytest.mark.filterwarnings(r"ignore:.*Box observation space (minimum|maximum) value is")
def test_gymnasium_checker_passes(name: str, observe_task: bool) -> None:
    draws = {"render_mode": "rgb_array"} if name == POINT else {}
    env = gymnasium.make(name, observe_task=observe_task, **draws).unwrapped
    check_env(env, skip_render_check=not draws)
    assert isinstance(env, TaskEnv)


def assert_faces_agree(rows: Any, scalars: list[Any], *, seed: int, steps: int) -> None:
    """Step both implementations with the same actions until one step after the episode."""
    first, _ = rows.reset(seed=[seed + row for row in range(len(scalars))])
    assert np.array_equal(first, [env.reset(seed=seed + row)[0] for row, env in enumerate(scalars)])
    for time, actions in enumerate(random_actions(rows, seed, steps), 1):
        seen, rewards, terminated, truncated, _ = rows.step(actions)
        assert seen.dtype == np.float32
        assert rewards.dtype == np.float64
        for row, env in enumerate(scalars):
            one = env.step(actions[row])
            assert np.array_equal(seen[row], one[0])
            assert (rewards[row], terminated[row], truncated[row]) == one[1:4]
            assert one[2:4] == (False, time == steps)
    seen_after, rewards, *ends = rows.step(actions)[:4]
    assert np.array_equal(seen_after, seen)
    assert not np.any([rewards, *ends])


@every_id
@oracle_or_not
@pytest.mark.parametrize("horizon", [None, 1, 7, 23])
def test_scalar_and_vectorized_environments_are_bit_identical(
    name: str, observe_task: bool, horizon: int | None
) -> None:
    tasks = draw(name, 6)
    options = {"observe_task": observe_task, "max_episode_steps": horizon or HORIZONS[name]}
    rows = make_rows(name, [*tasks, tasks[0]], **options)
    scalars = [make(name, task, **options) for task in [*tasks, tasks[0]]]
    steps = options["max_episode_steps"]
    for seed in (0, 5):  # the second episode follows the first
        assert_faces_agree(rows, scalars, seed=seed, steps=steps)


@pytest.mark.parametrize(
    ("name", "size"), [(BANDIT, {"num_arms": 50}), (MDP, {"num_states": 3, "num_actions": 2})]
)
def test_both_implementations_agree_at_other_sizes(name: str, size: dict[str, int]) -> None:
    rows = gymnasium.make_vec(name, num_envs=2, observe_task=True, **size)
    tasks = rows.call("sample_tasks", 2, np.random.default_rng(3))[0]
    rows.set_attr("task", tasks)
    scalars = [make(name, task, observe_task=True, **size) for task in tasks]
    assert_faces_agree(rows, scalars, seed=0, steps=10)
    assert rows.single_action_space.n == next(reversed(size.values()))


@every_id
@oracle_or_not
def test_make_vec_creates_the_vectorized_environment(name: str, observe_task: bool) -> None:
    rows = gymnasium.make_vec(name, num_envs=3, observe_task=observe_task)
    env = make(name, observe_task=observe_task)
    assert isinstance(rows.unwrapped, BatchedTaskEnv)
    assert type(rows.unwrapped.formulas) is type(env.unwrapped)
    assert rows.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert rows.spec.max_episode_steps == env.spec.max_episode_steps == HORIZONS[name]
    assert rows.single_observation_space == env.observation_space
    assert rows.single_action_space == env.action_space
    assert rows.observation_space.contains(rows.reset(seed=0)[0])
    for actions in random_actions(rows, 0, HORIZONS[name]):
        assert rows.observation_space.contains(rows.step(actions)[0])


def episode(name: str, task: Any, seeds: list[int], actions: list[Any]) -> list[Any]:
    """Run one task per row with the same actions in all rows; return rewards (row, time)."""
    rows = make_rows(name, [task] * len(seeds))
    first = rows.reset(seed=seeds)[0]
    steps = [rows.step(np.stack([action] * len(seeds)))[:2] for action in actions]
    return [[first[row], *(x[row] for step in steps for x in step)] for row in range(len(seeds))]


@every_id
def test_a_row_depends_only_on_its_own_seed(name: str) -> None:
    task = draw(name, 1)[0]
    actions = [x[0] for x in random_actions(make_rows(name, [task]), 1, HORIZONS[name])]
    (alone,) = episode(name, task, [7], actions)
    *others, among = episode(name, task, [1, 2, 3, 4, 7], actions)
    same = [all(map(np.array_equal, alone, row)) for row in (among, *others)]
    assert same == [True, False, False, False, False]
    one, two = episode(name, task, [7, 7], actions)
    assert all(map(np.array_equal, one, two))


@every_id
def test_rows_without_seeds_and_consecutive_episodes_differ(name: str) -> None:
    rows, env = make_rows(name, draw(name, 1) * 2), make(name)
    actions = random_actions(rows, 0, HORIZONS[name])
    pairs, played = [], []
    for _ in range(20):  # two episodes of a bandit can be equal by chance
        rows.reset()
        pairs += [rows.step(np.stack([x[0], x[0]]))[1] for x in actions]
    assert any(one != two for one, two in pairs)
    for seed in (3, *[None] * 20):
        env.reset(seed=seed)
        played.append([env.step(x[0])[1] for x in actions])
    assert any(other != played[0] for other in played[1:])


@every_id
def test_tasks_are_json_serializable_and_depend_on_the_generator(name: str) -> None:
    tasks = draw(name, 3, seed=1)
    assert json.loads(json.dumps(tasks)) == tasks == draw(name, 3, seed=1)
    assert draw(name, 50, seed=1)[:3] == tasks
    assert draw(name, 3, seed=2) != tasks
    rows = make_rows(name, tasks)
    assert rows.call("sample_tasks", 3, np.random.default_rng(1))[0] == tasks


@every_id
def test_a_task_takes_effect_at_the_next_reset(name: str) -> None:
    old, new = draw(name, 2, seed=8)
    assert old != new
    env, rows = make(name, old, observe_task=True), make_rows(name, [old], observe_task=True)
    action = np.zeros(rows.action_space.shape, rows.action_space.dtype)
    shown = {}
    for when, task in (("old", new), ("new", old)):
        env.reset(seed=0)
        rows.reset(seed=0)
        env.unwrapped.task = task
        rows.set_attr("task", [task])
        shown[when] = env.step(action[0])[0]
        assert np.array_equal(shown[when], rows.step(action)[0][0])
    assert not np.array_equal(shown["old"], shown["new"])


def mdp_with(field: str, value: Any) -> Any:
    return {**draw(MDP, 1)[0], field: value}


LOOKS = "a task of this environment must have the form "
SHAPES = LOOKS + "{'transitions': [10][5][10], 'rewards': [10][5]}, got "
UNEVEN = [[[0.1] * 10] * 5] * 9 + [[[0.1] * 10] * 4 + [[0.2] * 10]]
NEGATIVE = [[[0.1] * 10] * 5] * 9 + [[[0.1] * 10] * 4 + [[-1.0, 2.0, *[0.0] * 8]]]
PROBABILITIES = (
    "the transitions of a task must be probabilities that sum to 1 over next states, got "
)
MALFORMED = [
    (BANDIT, {}, LOOKS + "{'means': [0.0, 0.0, 0.0, 0.0, 0.0]}, got {}"),
    (BANDIT, {"means": [0.5, 0.5]}, "got {'means': [0.5, 0.5]}"),
    (BANDIT, {"means": [0.5] * 50}, "got {'means': [50]}"),
    (
        BANDIT,
        {"means": [1.5] * 5},
        "means of a task must be between 0 and 1, got {'means': [1.5, 1.5",
    ),
    (BANDIT, {"means": [-0.1] * 5}, "means of a task must be between 0 and 1, got {'means': [-0.1"),
    (BANDIT, {"means": [np.nan] * 5}, "got {'means': [nan, nan, nan, nan, nan]}"),
    (BANDIT, {"means": "what we all would like to know " * 9}, "got {'means': 'what we all"),
    (MDP, {}, SHAPES + "{}"),
    (MDP, {"rewards": [0.0]}, SHAPES + "{'rewards': [0.0]}"),
    (MDP, {"transitions": 1, "rewards": 1, "x": 1}, SHAPES + "{'transitions': 1, 'rewards': 1, 'x"),
    (
        MDP,
        mdp_with("rewards", [[0.0] * 5] * 9),
        SHAPES + "{'transitions': [10][5][10], 'rewards': [9]",
    ),
    (
        MDP,
        mdp_with("rewards", [[np.inf] * 5] * 10),
        "'rewards': [10][5] with numbers that are not fin",
    ),
    (MDP, mdp_with("transitions", UNEVEN), PROBABILITIES + f"{[0.2] * 10} for state 9, action 4"),
    (MDP, mdp_with("transitions", NEGATIVE), PROBABILITIES + "[-1.0, 2.0, 0.0"),
    (POINT, {"goal": [0.0]}, LOOKS + "{'goal': [0.0, 0.0]}, got {'goal': [0.0]}"),
    (
        POINT,
        {"goal": [2.0, 1.0]},
        "goal of a task must be a corner (±2, ±2), got {'goal': [2.0, 1.0]}",
    ),
]


@pytest.mark.parametrize(("name", "task", "wanted"), MALFORMED)
def test_a_malformed_task_gives_a_one_line_error(name: str, task: Any, wanted: str) -> None:
    good = draw(name, 1)[0]
    rows, env = make_rows(name, [good, good]), make(name, task)
    for refuse in (lambda: rows.set_attr("task", [good, task]), env.reset):
        with pytest.raises(ValueError, match=r"\A.+got .+\Z") as caught:
            refuse()
        assert wanted in str(caught.value)
        assert len(str(caught.value)) < 250
    assert rows.get_attr("task") == (good, good)


@every_id
@oracle_or_not
def test_sampler_supports_the_policies_of_the_environment(name: str, observe_task: bool) -> None:
    sampler = make_sampler(name, num_tasks=3, episodes_per_task=4, observe_task=observe_task)
    spaces = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = mlp_policy(*spaces, hidden=(8,), generator=seeded(0))
    tasks, params = sampler.sample_tasks(np.random.default_rng(0)), tree.expand(params, 3)
    first, again = (sampler.rollout(policy, params, tasks, seeded(1)) for _ in range(2))
    assert first.mask.all()
    assert first.rewards.shape == (3, HORIZONS[name], 4)
    assert first.actions.is_floating_point() == (name == POINT)
    assert all(map(torch.equal, tree.leaves(first), tree.leaves(again)))
    replayed = replay(name, tasks, first, seeded(1), observe_task=observe_task)
    assert np.array_equal(replayed, first.rewards.numpy())


def replay(name: str, tasks: list[Any], rollout: Any, generator: Any, **options: Any) -> Any:
    """Replay the recorded actions in the scalar environment with the sampler's seeds."""
    shape = rollout.mask.shape
    seeds = torch.randint(2**31, (shape[0] * shape[2],), generator=generator).tolist()
    rewards = np.zeros(shape, np.float32)
    for row, (task, number) in enumerate(np.ndindex(shape[0], shape[2])):
        env = make(name, tasks[task], **options)
        seen = env.reset(seed=seeds[row])[0]
        for time in range(shape[1]):
            assert np.array_equal(rollout.observations[task, time, number].numpy(), seen)
            action = rollout.actions[task, time, number].numpy()
            action = action if name == POINT else action.item()
            seen, rewards[task, time, number], *_ = env.step(action)
    return rewards


# The bandit.


def test_arms_pay_with_their_mean_probability() -> None:
    rows = make_rows(BANDIT, [ARMS] * 2000)
    rows.reset(seed=0)
    for arm, mean in enumerate(ARMS["means"]):
        rewards = np.stack([rows.step(np.full(2000, arm))[1] for _ in range(2)])
        assert set(rewards.flat) <= {0.0, 1.0}
        assert rewards.mean() == pytest.approx(mean, abs=0 if mean in (0, 1) else 0.03)
        correlation = np.corrcoef(rewards)[0, 1] if 0 < mean < 1 else 0.0
        assert abs(correlation) < 0.1  # pulls of one row are independent


def test_bandit_returns_of_the_optimal_and_the_uniform_policy() -> None:
    assert bandit.optimal_return(ARMS) == 10
    assert bandit.uniform_return(ARMS) == pytest.approx(5)
    assert bandit.optimal_return({"means": [0.2, 0.4]}, horizon=3) == pytest.approx(1.2)
    tasks = draw(BANDIT, 4000)
    means = np.array([task["means"] for task in tasks])
    assert means.shape == (4000, 5)
    assert np.abs(means.mean(0) - 0.5).max() < 0.02
    # The largest of five draws from U(0, 1) is 5/6 on average.
    assert np.mean([bandit.optimal_return(t) for t in tasks]) == pytest.approx(50 / 6, abs=0.1)


def test_bandit_observes_a_constant_and_the_oracle_the_means() -> None:
    env = make(BANDIT, ARMS)
    assert env.reset(seed=0)[0].tolist() == env.step(0)[0].tolist() == [1.0]
    oracle = make(BANDIT, ARMS, observe_task=True)
    assert oracle.reset(seed=0)[0].tolist() == pytest.approx([1.0, *ARMS["means"]])


def test_gradient_reaches_every_layer_of_a_policy_for_the_bandit() -> None:
    env = make(BANDIT, ARMS)
    policy, params = mlp_policy(env.observation_space, env.action_space, generator=seeded(0))
    reached = {}

    def log_prob(params: Any, seen: Any) -> Any:
        return policy(params, seen).log_prob(torch.tensor(1))

    for seen in (torch.zeros(1), torch.from_numpy(env.reset()[0])):
        gradient = torch.func.grad(log_prob)(params, seen)
        reached[seen.item()] = {name for name, x in gradient.items() if x.any()}
    assert reached == {0.0: {"network.4.bias"}, 1.0: set(params)}


# Tabular MDPs.


def tiny_mdp(seed: int, states: int = 2, actions: int = 2) -> Any:
    env = make(MDP, num_states=states, num_actions=actions).unwrapped
    return env.sample_tasks(1, np.random.default_rng(seed))[0]


def return_of_plan(task: Any, plan: Any) -> float:
    """Propagate the state distribution under actions (time, state)."""
    transitions, rewards = np.array(task["transitions"]), np.array(task["rewards"])
    states, total = np.arange(len(rewards)), 0.0
    odds = np.eye(len(rewards))[0]
    for actions in plan:
        total += odds @ rewards[states, actions]
        odds = odds @ transitions[states, actions]
    return float(total)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("horizon", "states"), [(1, 2), (4, 2), (3, 3)])
def test_optimal_return_matches_exhaustive_search(seed: int, horizon: int, states: int) -> None:
    task = tiny_mdp(seed, states)
    plans = itertools.product(itertools.product(range(2), repeat=states), repeat=horizon)
    returns = [return_of_plan(task, plan) for plan in plans]
    assert tabular_mdp.optimal_return(task, horizon=horizon) == pytest.approx(max(returns))
    # A uniform policy is the uniform mixture of all deterministic policies.
    assert tabular_mdp.uniform_return(task, horizon=horizon) == pytest.approx(np.mean(returns))


def test_random_actions_earn_the_uniform_return() -> None:
    task = draw(MDP, 1)[0]
    rows = make_rows(MDP, [task] * 1500)
    rows.reset(seed=0)
    returns = sum(rows.step(actions)[1] for actions in random_actions(rows, 0, 10))
    error = returns.std() / 1500**0.5
    assert returns.mean() == pytest.approx(tabular_mdp.uniform_return(task), abs=4 * error)


def test_states_follow_the_transition_probabilities_and_rewards_their_means() -> None:
    task, count = draw(MDP, 1)[0], 3000
    rows = make_rows(MDP, [task] * count)
    assert rows.reset(seed=0)[0].argmax(1).tolist() == [0] * count
    seen, first, *_ = rows.step(np.full(count, 3))
    assert set(seen.sum(1)) == {1.0}
    states = seen.argmax(1)
    assert np.abs(seen.mean(0) - task["transitions"][0][3]).max() < 0.04
    _, second, *_ = rows.step(np.full(count, 1))
    noise = np.stack([first - task["rewards"][0][3], second - np.array(task["rewards"])[states, 1]])
    assert np.abs(noise.mean(1)).max() < 0.08
    assert np.abs(noise.std(1) - 1).max() < 0.06
    # Noise is independent of other steps and of the next state.
    assert np.abs(np.corrcoef([*noise, *seen.T])[:2, 1:] - np.eye(2, 11, -1)).max() < 0.08


def test_next_states_have_positive_probability() -> None:
    never = [1 / 3, 0.0, 1 / 3, 1 / 3 - 5e-7, 0.0]  # sums to slightly less than 1
    task = {"transitions": [[never]] * 5, "rewards": [[0.0]] * 5}
    env = make(MDP, num_states=5, num_actions=1).unwrapped
    for chance, state in ((0.0, 0), (0.34, 2), (1 - 2**-53, 3)):
        assert env.advance(env.task_values(task), (0, 0), np.array([chance, 0.0]))[0] == state


def test_mdp_tasks_have_the_published_distribution() -> None:
    tasks = draw(MDP, 200)
    transitions, rewards = (np.array([t[key] for t in tasks]) for key in ("transitions", "rewards"))
    assert transitions.shape == (200, 10, 5, 10)
    assert rewards.shape == (200, 10, 5)
    assert np.allclose(transitions.sum(-1), 1)
    assert transitions.mean((0, 1, 2)) == pytest.approx(np.full(10, 0.1), abs=0.005)
    # Every marginal of Dirichlet(1) over ten values is Beta(1, 9).
    assert transitions.std() == pytest.approx((9 / (100 * 11)) ** 0.5, abs=0.002)
    assert rewards.mean() == pytest.approx(1, abs=0.05)
    assert rewards.std() == pytest.approx(1, abs=0.05)


def test_mdp_oracle_observes_rewards_and_transitions() -> None:
    task = draw(MDP, 1)[0]
    seen = make(MDP, task, observe_task=True).reset(seed=0)[0]
    assert seen.shape == (560,)
    assert np.array_equal(seen[10:60].reshape(10, 5), np.float32(task["rewards"]))
    assert np.array_equal(seen[60:].reshape(10, 5, 10), np.float32(task["transitions"]))


# The sparse point.


@pytest.mark.parametrize(
    ("before", "action", "after", "reward"),
    [
        ((0.0, 0.0), (1, 1), (0.2, 0.2), 0.0),  # ‖p‖₁ = 0.4 is too close to the start
        ((0.2, 0.2), (1, 1), (0.4, 0.4), 0.2 * 2**0.5),
        ((0.4, 0.4), (-1, -1), (0.2, 0.2), 0.0),  # the position after the step counts
        ((1.0, 1.0), (-1, -1), (0.8, 0.8), -0.2 * 2**0.5),
        ((1.0, 2.0), (1, 0), (1.2, 2.0), 0.2),
        ((1.0, 2.0), (9, 0), (1.2, 2.0), 0.2),  # clipped
        ((1.0, 2.0), (0.5, 0), (1.1, 2.0), 0.1),
        ((1.9, 2.0), (1, 0), (2.1, 2.0), 0.0),  # equally far on the other side of the goal
        ((-1.0, 2.0), (1, 0), (-0.8, 2.0), 0.0),  # closer, but a different corner is nearest
        ((-1.0, -1.0), (-1, -1), (-1.2, -1.2), 0.0),
        ((-0.1, 2.0), (1, 0), (0.1, 2.0), 0.2),  # over the border
        ((0.1, 2.0), (-1, 0), (-0.1, 2.0), 0.0),  # and back without a penalty
        ((-0.2, 2.0), (1, 0), (0.0, 2.0), 0.2),  # two corners are equally close
    ],
)
def test_reward_is_progress_towards_the_nearest_corner(
    before: Any, action: Any, after: Any, reward: float
) -> None:
    for sign in np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
        moved, earned, _ = sparse_point.SparsePoint().move(before * sign, action * sign, 2.0 * sign)
        assert moved == pytest.approx(after * sign)
        assert earned == pytest.approx(reward)


def test_reward_matches_distances_to_all_corners() -> None:
    rng = np.random.default_rng(0)
    before, actions = rng.uniform(-3, 3, (500, 2)), rng.uniform(-1, 1, (500, 2))

    def distances(points: Any) -> Any:
        return np.linalg.norm(points[:, None] - sparse_point.CORNERS, axis=2)

    for index, goal in enumerate(sparse_point.CORNERS):
        moved, rewards, _ = sparse_point.SparsePoint().move(before, actions, goal)
        paid = (distances(moved).argmin(1) == index) & (np.abs(moved).sum(1) >= 0.5)
        progress = distances(before)[:, index] - distances(moved)[:, index]
        assert rewards == pytest.approx(np.where(paid, progress, 0))
        assert 50 < paid.sum() < 250


def test_start_distribution_and_hand_computed_rewards() -> None:
    rows = make_rows(POINT, [NORTHEAST] * 1000)
    starts, _ = rows.reset(seed=0)
    assert np.abs(starts).max() <= 0.2
    assert np.abs(starts.mean(0)).max() < 0.02
    assert np.abs(starts.std(0) - 0.4 / 12**0.5).max() < 0.01
    env = make(POINT, NORTHEAST)
    seen, rewards = env.reset(seed=0)[0], []
    for _ in range(100):
        seen, reward, terminated, truncated, _ = env.step(np.clip((2 - seen) / 0.2, -1, 1))
        rewards.append(reward)
        assert not terminated
    assert truncated
    assert 2.4 < sum(rewards) < 2.83
    assert seen.tolist() == pytest.approx([2, 2])


def test_corners_have_equal_probability() -> None:
    drawn, counts = np.unique(
        [task["goal"] for task in draw(POINT, 4000)], axis=0, return_counts=True
    )
    assert drawn.tolist() == [[-2, -2], [-2, 2], [2, -2], [2, 2]]
    assert np.abs(counts - 1000).max() < 120


@pytest.mark.parametrize(
    ("name", "task", "goal"),
    [(POINT, NORTHEAST, (220, 20)), ("metarl/Navigation2D-v0", {"goal": [0.5, 0.5]}, (220, 20))],
)
def test_images_show_the_goal_and_the_point(name: str, task: Any, goal: tuple[int, int]) -> None:
    env = make(name, task, render_mode="rgb_array")
    env.reset(seed=0)
    image, (x, y) = env.render(), goal
    assert image.shape == (240, 240, 3)
    assert image[y, x].tolist() == [214, 39, 40]
    blue = np.argwhere((image == [31, 119, 180]).all(2))
    rows, columns = blue.mean(0)
    half_width = 2.4 if name == POINT else 0.6
    x, y = env.unwrapped._position
    assert (columns - 120, 120 - rows) == pytest.approx(np.array([x, y]) * 120 / half_width, abs=1)
