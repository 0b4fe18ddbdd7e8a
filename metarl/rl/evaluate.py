"""The adaptation curve: the return after 0, 1, ..., K gradient steps on test tasks."""

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
    """Mean return of each task after each number of steps; tasks in rows, steps in columns."""

    tasks: list[TaskDescription]
    returns: Float[np.ndarray, "task steps"]

    @property
    def mean(self) -> Float[np.ndarray, " steps"]:
        """Mean over tasks."""
        return np.asarray(self.returns.mean(0))

    @property
    def interval(self) -> Float[np.ndarray, " steps"]:
        """Half-width of the 95 % interval over tasks."""
        return interval95(self.returns)

    @property
    def described(self) -> str:
        """Count the tasks, and the different ones where they repeat: those were trained on."""
        distinct = len({json.dumps(task, sort_keys=True) for task in self.tasks})
        some = f"{len(self.tasks)} test tasks"
        return some if distinct == len(self.tasks) else f"{some}, {distinct} different ones"


def paper_tasks(sampler: Sampler, seed: int = 1) -> list[TaskDescription]:
    """Draw the test tasks of Finn et al. 2017: theirs exactly, for 40 tasks and seed 1.

    Their test scripts call ``np.random.seed(1)``; this generator yields the same stream.
    """
    bits = np.random.MT19937()
    bits.state = cast(Any, np.random.RandomState(seed).get_state(legacy=False))
    return sampler.sample_tasks(np.random.Generator(bits))


def paper_episodes(horizon: int) -> int:
    """Return how many full episodes have the paper's 4,000 transitions per gradient step."""
    return max(1, 4000 // horizon)


def paper_rates(inner_lr: float) -> tuple[float, float]:
    """Return the paper's test-time step sizes: α for the first step, α/2 for all later ones."""
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
    """Adapt to each task, every step on fresh episodes, and report every return.

    Args:
        sampler: Rolls out; its number of tasks is that of `tasks`.
        policy: The policy.
        loop: The inner loop; ``loop.num_steps`` is K. Step sizes may differ from training's.
        meta: Meta-parameters.
        tasks: Test tasks.
        generator: Source of actions and environment seeds.
        process: Baseline and advantages.
    """
    task, _ = sampler.collect(policy, loop, meta, list(tasks), generator, process)
    columns = [mean_return(batch).double().cpu() for batch in (*task.support, task.query)]
    return AdaptationCurve(list(tasks), torch.stack(columns, 1).numpy())


def read_task(text: str, sampler: Sampler) -> TaskDescription:
    """Read a task written as JSON; the environment checks its values when it is set.

    Args:
        text: A JSON object.
        sampler: Samples the example of the error message.

    Raises:
        ValueError: If it is no JSON object; the message has a task of this environment.
    """
    try:
        return {**parse_json(text)}
    except (TypeError, ValueError) as error:
        example = json.dumps(sampler.sample_tasks(np.random.default_rng(0))[0])
        raise ValueError(
            f"`task` must be JSON such as '{brief(example)}', got {brief(repr(text))}: {error}"
        ) from None
