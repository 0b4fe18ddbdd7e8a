"""Meta-World's benchmarks for meta-RL, ML1, ML10 and ML45: a robot arm and 50 classes of tasks."""

import pickle
from collections import defaultdict
from functools import cache
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array, TaskDescription, brief, task_array


Goals: TypeAlias = dict[str, Array]
"""For each class of tasks, one row per goal: the random vector that defines the goal."""

_IDLE = defaultdict[str, list[Any]](list)
"""Simulators that no environment uses, by class. A simulator takes 20 MB, so that a simulator of
every class in every environment would not fit into memory."""


class MetaWorld(gymnasium.Env[Array, Array]):
    """A robot arm that solves manipulation tasks of Meta-World (Yu et al. 2019, arXiv:1910.10897).

    ## Tasks
    `{"rand_vec": [...]}` in ML1, and `{"name": "reach-v3", "rand_vec": [...]}` in ML10 and ML45,
    where `rand_vec` contains the positions of the goal and the objects in m. Meta-World samples 50
    goals per class for training and 50 for testing.

    ## Actions
    4 numbers in [−1, 1]: the motion of the hand along three axes in cm, and the torque of the
    gripper.

    ## Observations
    39 numbers: the hand, the gripper and the objects, now and one step before, and three zeros in
    place of the position of the goal.

    ## Rewards
    The dense reward of the class, between 0 and 10.

    ## Episodes
    500 time steps without terminations. Episodes on the same task start in the same state.
    `info["success"]` is 1 if the task is solved at this time step.

    ## Arguments
    - `benchmark`: `"ML1-reach-v3"` (or a different class), `"ML10"` or `"ML45"`.
    - `split`: `sample_tasks` samples `"train"` or `"test"` tasks.
    - `goal_seed`: Meta-World's seed for the training and test goals.
    - `observe_task`: whether observations contain the position of the goal.
    - `render_mode`: `"rgb_array"`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (Gymnasium's name)

    def __init__(
        self,
        benchmark: str,
        *,
        split: str = "train",
        goal_seed: int = 0,
        observe_task: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment with the first goal of the first class as its task.

        Args:
            benchmark: ``"ML1-reach-v3"`` (or a different class), ``"ML10"`` or ``"ML45"``.
            split: ``"train"`` or ``"test"``: goals, and in ML10 and ML45 also classes, that
                `sample_tasks` samples from.
            goal_seed: Meta-World's seed for the goals.
            observe_task: Whether observations contain the position of the goal.
            render_mode: ``"rgb_array"``, or None to disable rendering.

        Raises:
            ImportError: If Meta-World is not installed.
            ValueError: If `split` is unknown.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split must be train or test, got {split!r}")
        self.split, self.observe_task, self.render_mode = split, observe_task, render_mode
        self._one_class = benchmark.startswith("ML1-")
        self._goals = fixed_goals(benchmark, goal_seed)
        self.observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        name, goals = next(iter(self._goals[split].items()))
        self.task: TaskDescription = self._description(name, goals[0])
        self._name, self._simulator = "", None

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample `num_tasks` tasks of `split`, with equal numbers of tasks of each class.

        If `num_tasks` is not a multiple of the number of classes, the
        remaining tasks belong to random classes.
        """
        names = [*(goals := self._goals[self.split])]
        rounds = -(-num_tasks // len(names))
        order = [index for _ in range(rounds) for index in rng.permutation(len(names))]
        chosen = [names[index] for index in order[:num_tasks]]
        return [self._description(name, rng.choice(goals[name])) for name in chosen]

    def test_tasks(self, goals_per_class: int) -> list[TaskDescription]:
        """Return the first test tasks of each class, in Meta-World's order."""
        goals = self._goals["test"]
        return [self._description(n, row) for n in goals for row in goals[n][:goals_per_class]]

    def task_values(self, task: TaskDescription) -> tuple[str, Array]:
        """Validate a task and return the name of the class and the random vector.

        Raises:
            ValueError: If the task is malformed, or the benchmark does not contain its class.
        """
        classes = self._goals["train"] | self._goals["test"]
        name: Any = next(iter(classes))
        rest = task
        if not self._one_class:
            name = task.get("name") if isinstance(task, dict) else None
            if name not in classes:
                raise ValueError(
                    f"the name of a task must be one of {', '.join(classes)}, got {brief(task)}"
                )
            rest = {key: value for key, value in task.items() if key != "name"}
        return name, task_array(rest, "rand_vec", classes[name].shape[1:])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode on the current `task`.

        Args:
            seed: Seed of Gymnasium's random generator, which the episode does not use.
            options: Ignored.

        Raises:
            ValueError: If the task is malformed.
        """
        super().reset(seed=seed)
        name, vector = self.task_values(self.task)
        if name != self._name:
            self._release()
            self._name, self._simulator = name, _simulator(name, self.render_mode)
        simulator: Any = self._simulator
        simulator.set_task(_task(name, vector, hidden=not self.observe_task))
        observation, info = simulator.reset()
        return observation, info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance the episode by one time step of 0.0125 s; actions are clipped to [−1, 1]."""
        simulator: Any = self._simulator
        observation, reward, terminated, truncated, info = simulator.step(np.clip(action, -1, 1))
        return observation, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """Return an image of the scene, of shape (480, 480, 3), or None without a render mode."""
        simulator: Any = self._simulator
        return simulator.render()

    def close(self) -> None:
        """Release the simulator for other environments in this process, or close its renderer."""
        self._release()

    def _description(self, name: str, vector: Array) -> TaskDescription:
        numbers: TaskDescription = {"rand_vec": vector.tolist()}
        return numbers if self._one_class else {"name": name} | numbers

    def _release(self) -> None:
        if self._simulator is not None and self.render_mode is None:
            _IDLE[self._name].append(self._simulator)
        elif self._simulator is not None:
            self._simulator.close()
        self._name, self._simulator = "", None


@cache
def fixed_goals(benchmark: str, seed: int) -> dict[str, Goals]:
    """Return Meta-World's goals for training and testing, which are sampled once per process.

    Args:
        benchmark: ``"ML1-reach-v3"`` (or a different class), ``"ML10"`` or ``"ML45"``.
        seed: Meta-World's seed for the goals.

    Returns:
        For ``"train"`` and ``"test"``, an array of shape (50, numbers) for each class.

    Raises:
        ImportError: If Meta-World is not installed.
    """
    metaworld, (kind, _, name) = _metaworld(), benchmark.partition("-")
    found = getattr(metaworld, kind)(*([name] if name else []), seed=seed)
    return {"train": _by_class(found.train_tasks), "test": _by_class(found.test_tasks)}


def _by_class(tasks: list[Any]) -> Goals:
    rows = defaultdict[str, list[Any]](list)
    for task in tasks:
        rows[task.env_name].append(pickle.loads(task.data)["rand_vec"])  # pickled by Meta-World
    return {name: np.array(vectors) for name, vectors in rows.items()}


def _simulator(name: str, render_mode: str | None) -> Any:
    """Return an idle simulator of a class, or a new one."""
    if render_mode is None and (idle := _IDLE[name]):
        return idle.pop()
    simulator = _metaworld().env_dict.ALL_V3_ENVIRONMENTS[name](render_mode=render_mode)
    simulator.observation_space  # noqa: B018 (set_task deletes the cached space)
    return simulator


def _task(name: str, vector: Array, *, hidden: bool) -> Any:
    """Return a task as Meta-World's ``set_task`` expects it."""
    metaworld = _metaworld()
    cls = metaworld.env_dict.ALL_V3_ENVIRONMENTS[name]
    data = {"rand_vec": vector, "env_cls": cls, "partially_observable": hidden}
    return metaworld.types.Task(env_name=name, data=pickle.dumps(data))


def _metaworld() -> Any:
    try:
        import metaworld
    except ImportError as error:
        raise ImportError(
            f"Meta-World environments require {error.name}; run pip install "
            "'metarl-torch[metaworld]' in a new virtual environment"
        ) from None
    return metaworld
