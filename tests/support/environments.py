"""Creation of registered environments, scalar and vectorized, with tasks."""

from functools import cache
from typing import Any

import gymnasium
import numpy as np


def make(name: str, task: Any = None, **options: Any) -> Any:
    env = gymnasium.make(name, **options)
    if task is not None:
        env.unwrapped.task = task
    return env


def make_rows(name: str, tasks: list[Any], **options: Any) -> Any:
    rows = gymnasium.make_vec(name, num_envs=len(tasks), **options)
    rows.set_attr("task", tasks)
    return rows


def draw(name: str, count: int, seed: int = 0) -> list[Any]:
    tasks: list[Any] = lender(name).sample_tasks(count, np.random.default_rng(seed))
    return tasks


@cache  # only for rendering
def lender(name: str) -> Any:
    return make(name).unwrapped
