"""Adaptation curves: returns after 0, 1, ..., K gradient steps on test tasks."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float

from metarl.core import InnerLoop, MetaParams
from metarl.rl.baseline import Process
from metarl.rl.episodes import mean_return
from metarl.rl.policies import Policy
from metarl.rl.sampler import Sampler, TaskDescription
from metarl.rl.vector_env import brief
from metarl.util import interval95, parse_json


class AdaptationCurve(NamedTuple):
    """Mean returns of shape (task, step): of each task after 0, 1, ..., K steps."""

    tasks: list[TaskDescription]
    returns: Float[np.ndarray, "task steps"]

    @property
    def mean(self) -> Float[np.ndarray, " steps"]:
        """Mean return over tasks, shape (step,)."""
        return np.asarray(self.returns.mean(0))

    @property
    def interval(self) -> Float[np.ndarray, " steps"]:
        """Half-width of the 95 % confidence interval over tasks, shape (step,)."""
        return interval95(self.returns)

    @property
    def described(self) -> str:
        """Number of tasks and, if tasks repeat, of distinct tasks, as text."""
        distinct = len({json.dumps(task, sort_keys=True) for task in self.tasks})
        some = f"{len(self.tasks)} test tasks"
        return some if distinct == len(self.tasks) else f"{some}, {distinct} different ones"


def paper_tasks(sampler: Sampler, seed: int = 1) -> list[TaskDescription]:
    """Sample test tasks; 40 tasks with seed 1 are exactly those of Finn et al. 2017.

    The test scripts of the paper call ``np.random.seed(1)``; the generator used here yields the
    same random numbers.
    """
    bits = np.random.MT19937()
    bits.state = cast(Any, np.random.RandomState(seed).get_state(legacy=False))
    return sampler.sample_tasks(np.random.Generator(bits))


def paper_episodes(horizon: int) -> int:
    """Return the number of episodes that together have 4000 transitions.

    This is the batch size of one gradient step in Finn et al. 2017.
    """
    return max(1, 4000 // horizon)


def paper_rates(inner_lr: float) -> tuple[float, float]:
    """Return the test-time step sizes of the paper: α for the first step, then α/2."""
    return inner_lr, inner_lr / 2


def adaptation_curve(
    sampler: Sampler,
    policy: Policy,
    loop: InnerLoop,
    meta: MetaParams,
    tasks: Sequence[TaskDescription],
    generator: torch.Generator,
    *,
    process: Process | tuple[Process, Process],
) -> AdaptationCurve:
    """Adapt to each task and measure the return after 0, 1, ..., K steps, each on new episodes.

    Args:
        sampler: The sampler, with as many tasks as `tasks`.
        policy: The policy.
        loop: The inner loop; ``loop.num_steps`` is K. Step sizes can differ from training.
        meta: The meta-parameters.
        tasks: The test tasks.
        generator: Generator of the actions and of the environments' seeds.
        process: The computation of advantages, such as ``advantages()``.
    """
    task, _ = sampler.collect(policy, loop, meta, list(tasks), generator, process)
    columns = [mean_return(batch).double().cpu() for batch in (*task.support, task.query)]
    return AdaptationCurve(list(tasks), torch.stack(columns, 1).numpy())


def read_task(text: str, sampler: Sampler) -> TaskDescription:
    """Parse a task from JSON. Its values are validated later, when the task is set.

    Args:
        text: A JSON object.
        sampler: Sampler that provides an example task for the error message.

    Raises:
        ValueError: If the text is not a JSON object.
    """
    try:
        return {**parse_json(text)}
    except (TypeError, ValueError) as error:
        example = json.dumps(sampler.sample_tasks(np.random.default_rng(0))[0])
        raise ValueError(
            f"`task` must be JSON such as '{brief(example)}', got {brief(repr(text))}: {error}"
        ) from None
