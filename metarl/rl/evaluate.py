"""Adaptation curves: mean returns and infos on test tasks after 0, 1, ..., K inner steps."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float

from metarl.core import InnerLoop, MetaParams
from metarl.rl.baseline import Process
from metarl.rl.episodes import mean_return
from metarl.rl.infos import episode_infos
from metarl.rl.policies import Policy
from metarl.rl.sampler import Sampler, TaskDescription
from metarl.rl.vector_env import brief
from metarl.util import interval95, parse_json, summary


class AdaptationCurve(NamedTuple):
    """The mean return for each test task after 0, 1, ..., K inner steps.

    Attributes:
        tasks: Descriptions of the test tasks.
        returns: Mean returns over episodes, of shape (tasks, K + 1).
        infos: Entries of the environment's info by name, of shape (tasks, K +
            1): means over episodes of the maximum in the episode, such as
            success rates.
    """

    tasks: list[TaskDescription]
    returns: Float[np.ndarray, "task steps"]
    infos: dict[str, Float[np.ndarray, "task steps"]] = {}  # noqa: RUF012 (never written to)

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """Statistics over tasks of the return and the infos; see :func:`metarl.util.summary`."""
        measured = {"return": self.returns, **self.infos}
        return {name: summary(values) for name, values in measured.items()}

    @property
    def mean(self) -> Float[np.ndarray, " steps"]:
        """Mean return over tasks after each inner step, of shape (K + 1,)."""
        return np.asarray(self.returns.mean(0))

    @property
    def interval(self) -> Float[np.ndarray, " steps"]:
        """Half-width of the 95 % confidence interval over tasks, of shape (K + 1,)."""
        return interval95(self.returns)

    @property
    def described(self) -> str:
        """Text with the number of tasks and, if tasks repeat, the number of distinct tasks."""
        distinct = len({json.dumps(task, sort_keys=True) for task in self.tasks})
        some = f"{len(self.tasks)} test tasks"
        return some if distinct == len(self.tasks) else f"{some}, {distinct} different ones"


def paper_tasks(sampler: Sampler, seed: int = 1) -> list[TaskDescription]:
    """Sample ``sampler.num_tasks`` test tasks as in the test scripts of Finn et al. 2017.

    The scripts sample 40 tasks after ``np.random.seed(1)``. This function
    uses a generator with the same random numbers, so that 40 tasks with seed
    1 are exactly the test tasks in the paper.
    """
    bits = np.random.MT19937()
    bits.state = cast(Any, np.random.RandomState(seed).get_state(legacy=False))
    return sampler.sample_tasks(np.random.Generator(bits))


def paper_episodes(horizon: int) -> int:
    """Return the number of episodes per gradient step in Finn et al. 2017.

    One gradient step uses a batch of 4000 transitions. The result is therefore
    4000 divided by `horizon`, rounded down, but at least 1.
    """
    return max(1, 4000 // horizon)


def paper_rates(inner_lr: float, trained_steps: int = 1) -> tuple[float, ...]:
    """Return the step sizes at test time for :func:`sgd`, such as ``(α, α/2)``.

    The inner steps of training use α = `inner_lr`, and all later steps use α/2. Finn et al. 2017
    trained for one step.

    Args:
        inner_lr: Step size α of training.
        trained_steps: Number of inner steps in training. 0, for a policy that is trained without
            adaptation, has the same result as 1.
    """
    return (inner_lr,) * max(1, trained_steps) + (inner_lr / 2,)


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
    """Adapt to each test task, and measure the mean return after 0, 1, ..., K inner steps.

    New episodes are collected after each step; the inner step is computed on the previous episodes.

    Args:
        sampler: The sampler; ``sampler.num_tasks`` must equal the number of test tasks.
        policy: The policy.
        loop: The inner loop; ``loop.num_steps`` is K. The step sizes can differ
            from the step sizes used in training.
        meta: The meta-parameters.
        tasks: The test tasks.
        generator: Random generator for the actions and the environment seeds.
        process: Function that computes advantages, such as the result of
            ``advantages()``, or a pair of functions for the support and the
            query episodes.
    """
    task, _ = sampler.collect(policy, loop, meta, list(tasks), generator, process)
    measured = [
        {"return": mean_return(batch), **episode_infos(batch)}
        for batch in (*task.support, task.query)
    ]
    columns = {
        name: torch.stack([each[name] for each in measured], 1).double().numpy(force=True)
        for name in measured[0]
    }
    return AdaptationCurve(list(tasks), columns.pop("return"), columns)


def read_task(text: str, sampler: Sampler) -> TaskDescription:
    """Parse a task description from JSON text.

    The values are validated later, when an environment's task is set.

    Args:
        text: A JSON object, such as ``'{"direction": -1}'``.
        sampler: A sampler that provides an example task for the error message.

    Raises:
        ValueError: If `text` is not a JSON object.
    """
    try:
        return {**parse_json(text)}
    except (TypeError, ValueError) as error:
        example = json.dumps(sampler.sample_tasks(np.random.default_rng(0))[0])
        raise ValueError(
            f"`task` must be a JSON object such as '{brief(example)}', got {brief(repr(text))} "
            f"({error})"
        ) from None
