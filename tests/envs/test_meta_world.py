"""Meta-World's benchmarks: goals, determinism and numbers equal Meta-World's own."""

import json
import pickle
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl.envs import META_WORLD
from metarl.envs.meta_world import MetaWorld


REACH = "metarl/ML1-reach-v3"


def played(env: Any, task: dict[str, Any], steps: int = 30) -> list[Any]:
    """Return observations, rewards and successes under a fixed sequence of actions."""
    env.unwrapped.task = task
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)
    found: list[Any] = [env.reset()[0]]
    for action in actions:
        observation, reward, *_, info = env.step(action)
        found += [observation, reward, info["success"]]
    return found


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_registration_does_not_import_metaworld() -> None:
    code = f"import sys, metarl.envs, gymnasium; gymnasium.spec('{REACH}'); print(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'metaworld'" not in done.stdout


def test_missing_package_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match=r"require metaworld; run pip install 'metarl-torch\[met"):
        MetaWorld("ML1-push-v3")


class TestInstalled:
    """Tests that require Meta-World."""

    @pytest.fixture(autouse=True)
    def metaworld(self) -> Any:
        return pytest.importorskip("metaworld")

    def test_all_classes_of_metaworld_are_registered(self, metaworld: Any) -> None:
        assert {f"ML1-{name}" for name in metaworld.ML1.ENV_NAMES} == {*META_WORLD[2:]}
        assert all(f"metarl/{name}" in gymnasium.registry for name in META_WORLD)

    @pytest.mark.filterwarnings("ignore:.*Box observation space m.*imum value is -?inf:UserWarning")
    @pytest.mark.filterwarnings("ignore:.*not within the observation space:UserWarning")
    def test_environment_passes_the_checker_of_gymnasium(self) -> None:
        env = gymnasium.make(REACH)
        check_env(env.unwrapped, skip_render_check=True)
        env.reset()
        *_, truncated, _ = [env.step(env.action_space.sample()) for _ in range(500)][-1]
        assert truncated

    def test_goals_equal_those_of_metaworld(self, metaworld: Any) -> None:
        theirs = metaworld.ML1("reach-v3", seed=3)
        for split in ("train", "test"):
            env = MetaWorld("ML1-reach-v3", split=split, goal_seed=3)
            goals = [pickle.loads(x.data)["rand_vec"] for x in getattr(theirs, f"{split}_tasks")]
            known = {json.dumps({"rand_vec": goal.tolist()}) for goal in goals}
            drawn = {json.dumps(x) for x in env.sample_tasks(400, np.random.default_rng(0))}
            assert len(known) == 50
            assert drawn == known
        assert [x["rand_vec"] for x in env.test_tasks(40)] == [x.tolist() for x in goals[:40]]

    def test_episodes_equal_those_of_metaworld(self, metaworld: Any) -> None:
        theirs = metaworld.ML1("push-v3", seed=0)
        simulator = theirs.train_classes["push-v3"]()
        simulator.set_task(theirs.train_tasks[7])
        simulator.unwrapped.task = None
        env = gymnasium.make("metarl/ML1-push-v3")
        vector = pickle.loads(theirs.train_tasks[7].data)["rand_vec"].tolist()
        mine = played(env, {"rand_vec": vector})
        assert equal(mine, played(simulator, {}))
        assert np.array_equal(mine[0][-3:], np.zeros(3))

    def test_tasks_choose_the_class_and_simulators_are_reused(self) -> None:
        env, other = gymnasium.make("metarl/ML10"), gymnasium.make("metarl/ML10")
        tasks = env.unwrapped.sample_tasks(10, np.random.default_rng(0))  # type: ignore[attr-defined]
        assert len({task["name"] for task in tasks}) == 10
        first = [played(env, task) for task in json.loads(json.dumps(tasks))[:3]]
        assert not equal(first[0], first[1])
        used = env.unwrapped._simulator  # type: ignore[attr-defined]
        env.close()
        again = [played(other, task) for task in reversed(tasks[:3])]  # from idle simulators
        assert again[0][0] is not None
        assert all(equal(a, b) for a, b in zip(first, reversed(again), strict=True))
        assert used is not None
        tests = env.unwrapped.test_tasks(40)  # type: ignore[attr-defined]
        assert (len(tests), len({task["name"] for task in tests})) == (200, 5)
        assert not {task["name"] for task in tests} & {task["name"] for task in tasks}

    def test_images_are_rendered_and_their_simulators_are_not_reused(self) -> None:
        env = gymnasium.make(REACH, render_mode="rgb_array")
        env.reset()
        used = env.unwrapped._simulator  # type: ignore[attr-defined]
        image: Any = env.render()
        env.close()
        assert (image.shape, image.std() > 1) == ((480, 480, 3), True)
        other = gymnasium.make(REACH)
        other.reset()
        assert other.unwrapped._simulator is not used  # type: ignore[attr-defined]

    def test_oracles_observe_the_goal(self) -> None:
        env = gymnasium.make(REACH, observe_task=True)
        task: dict[str, Any] = env.unwrapped.task  # type: ignore[attr-defined]
        assert np.allclose(played(env, task, 1)[0][-3:], task["rand_vec"][-3:])

    @pytest.mark.parametrize(
        ("env", "task", "message"),
        [
            (REACH, {"goal": [0, 0]}, r"must have the form \{'rand_vec': \[0.0"),
            ("metarl/ML10", {"rand_vec": [0.0]}, "the name of a task must be one of reach-v3"),
            ("metarl/ML10", {"name": "reach-v3", "rand_vec": [1.0]}, "'rand_vec'"),
        ],
    )
    def test_malformed_tasks_are_rejected(self, env: str, task: Any, message: str) -> None:
        made = gymnasium.make(env)
        made.unwrapped.task = task  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=message):
            made.reset()

    def test_unknown_splits_are_rejected(self) -> None:
        with pytest.raises(ValueError, match="split must be train or test, got 'valid'"):
            gymnasium.make(REACH, split="valid")
