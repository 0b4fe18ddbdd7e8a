"""Meta-World's protocol for meta-RL: success rates on fixed test goals after adaptation."""

from dataclasses import replace
from typing import Any, TypeVar

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.core import InnerLoop, tree
from metarl.envs import META_WORLD
from metarl.experiments.rl_settings import RLConfig
from metarl.models import MetaPolicy
from metarl.rl import AdaptationCurve, Episodes, TaskDescription, mean_return
from metarl.rl.infos import episode_infos
from metarl.util import Table


ADAPTATION, EVALUATION = 10, 3
"""Numbers of episodes per goal for each adaptation step, and after the last one."""
TEST_CLASSES = 5  # of ML10 and ML45
AT_ONCE = 20  # goals that are simulated at the same time, because a simulator takes 20 MB


Options = TypeVar("Options")


def sized(options: Options, config: RLConfig, *, trials: bool) -> Options:
    """Return evaluation flags with the protocol's sizes in place of the usual defaults.

    Args:
        options: The flags of ``metarl evaluate``; ``options.num_tasks`` is the number of goals per
            class, and becomes the number of goals that are simulated at the same time.
        config: The settings of the run.
        trials: Whether the method is RL², whose default is 10 episodes before the evaluation.

    Raises:
        ValueError: If the environment is not a benchmark of Meta-World.
    """
    given: Any = options
    benchmark = config.env.removeprefix("metarl/")
    if benchmark not in META_WORLD:
        raise ValueError(
            "protocol metaworld requires an environment of Meta-World, such as "
            f"metarl/ML1-reach-v3, got env={config.env}"
        )
    classes = 1 if benchmark.startswith("ML1-") else TEST_CLASSES
    steps = given.inner_steps
    if steps is None:
        steps = ADAPTATION if trials else config.inner_steps
    found: Options = replace(
        given,
        num_tasks=min(AT_ONCE, given.num_tasks * classes),
        episodes_per_task=1 if trials else given.episodes_per_task or ADAPTATION,
        inner_steps=steps + EVALUATION - 1 if trials else steps,
    )
    return found


def success_curve(
    policy: MetaPolicy,
    loop: InnerLoop,
    goals: int,
    generator: torch.Generator,
    *,
    trials: bool,
) -> AdaptationCurve:
    """Return returns and success rates on the test goals before and after adaptation.

    A rate is the mean over three episodes; for RL², over the last three
    episodes of the trial, and one value for each episode before them.

    Args:
        policy: The policy, whose sampler collects ``info["success"]``.
        loop: The inner loop.
        goals: Number of test goals of each test class, in Meta-World's order.
        generator: Random generator for the actions.
        trials: Whether the method is RL².
    """
    tasks: list[TaskDescription] = policy.sampler.env.call("test_tasks", goals)[0]
    size, measured = policy.num_tasks, []
    for start in range(0, len(tasks), size):
        rows = tasks[start : start + size]
        batches = policy.play(loop, [*rows, *tasks * size][:size], generator)  # always `size` tasks
        kept = _last_together(batches) if trials else [_first(batch) for batch in batches]
        found = [{"return": mean_return(x), **episode_infos(x)} for x in kept]
        columns = {n: torch.stack([each[n] for each in found], 1)[: len(rows)] for n in found[0]}
        measured.append({n: x.double().numpy(force=True) for n, x in columns.items()})
    whole = {name: np.concatenate([part[name] for part in measured]) for name in measured[0]}
    return AdaptationCurve(tasks, whole.pop("return"), whole)


def class_rates(curve: AdaptationCurve, env: str) -> dict[str, float]:
    """Return the success rate after adaptation by class; ML1 has a single class."""
    usual = env.removeprefix("metarl/ML1-")
    names = [task.get("name", usual) for task in curve.tasks]
    last = curve.infos["success"][:, -1]
    return {n: float(last[[name == n for name in names]].mean()) for n in dict.fromkeys(names)}


def by_class(curve: AdaptationCurve, env: str) -> tuple[dict[str, Any], Table]:
    """Return the values to write and the table of success rates by class."""
    rates, physics = class_rates(curve, env), f"mujoco {mujoco.__version__}"
    title = f"success rates after adaptation, {physics}"
    table = Table(title, ["class", "rate"], [[n, f"{rate:.3f}"] for n, rate in rates.items()])
    return {"protocol": "metaworld", "success_by_class": rates, "physics": physics}, table


def _first(batch: Episodes) -> Episodes:
    """Return the first evaluation episodes of every task."""
    kept: Episodes = tree.map_leaves(lambda x: x[:, :, :EVALUATION], batch)
    return kept


def _last_together(batches: list[Episodes]) -> list[Episodes]:
    """Return batches of one episode, with the last ones joined to one batch."""

    def joined(*parts: Tensor) -> Tensor:
        return torch.cat(parts, 2)

    return [*batches[:-EVALUATION], tree.map_leaves(joined, *batches[-EVALUATION:])]
