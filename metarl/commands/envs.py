"""``metarl envs [ID]``: list the environments of metarl, or describe one environment."""

import inspect
import json
import re
from dataclasses import dataclass
from textwrap import shorten
from typing import Annotated, Any

import gymnasium
import numpy as np
import tyro

from metarl.commands.usage import UsageError
from metarl.envs import ENVIRONMENTS
from metarl.runs import unset
from metarl.util import print_table, say


@dataclass(frozen=True)
class Envs:
    """List the environments that metarl registers, or describe one environment."""

    id: Annotated[str | None, tyro.conf.Positional, unset("all environments")] = None
    """Gymnasium ID to describe, such as metarl/AntDir-v1: an example task, spaces and rewards."""


def main(args: Envs) -> None:
    """Print the table of all environments, or the details of one environment."""
    if args.id is not None:
        show(args.id)
        return
    rows = [
        [row.id, plain((row.scalar().__doc__ or "").partition("\n")[0]), row.horizon]
        for row in ENVIRONMENTS
    ]
    rows.append(["metarl/ML1-reach-v3, ML10, ...", "Meta-World; see docs/meta-world.md", 500])
    print_table("environments of metarl", ["id", "task", "horizon"], rows, left=2)
    say("metarl envs ID shows an example task, the spaces and the rewards")


def show(env_id: str) -> None:
    """Print an example task, the spaces, the horizon and the rewards of an environment.

    Args:
        env_id: Gymnasium ID, such as ``metarl/AntDir-v1`` or ``module:Name-v0``.

    Raises:
        UsageError: If the environment is not registered, or has no tasks.
    """
    if ":" not in env_id and env_id not in gymnasium.registry:
        from metarl.experiments.environment_errors import closest_environment  # slow

        close = closest_environment(env_id)
        hint = f"did you mean {close!r}?" if close else "run `metarl envs` to list all environments"
        raise UsageError(f"unknown environment {env_id!r}: {hint}")
    env: Any = gymnasium.make(env_id)
    if not hasattr(env.unwrapped, "sample_tasks"):
        raise UsageError(f"{env_id} has no tasks: expected a method `sample_tasks`")
    text = inspect.getdoc(type(env.unwrapped)) or ""
    (task,) = env.unwrapped.sample_tasks(1, np.random.default_rng(0))
    rows = {
        "example": f"--task '{json.dumps(_rounded(task))}'",
        "tasks": opening(text, "Tasks"),
        "observations": str(env.observation_space),
        "actions": str(env.action_space),
        "horizon": f"{env.spec.max_episode_steps or 'not limited:'} steps",
        "rewards": opening(text, "Rewards"),
        "train": f"metarl train maml-trpo --env {env_id} --out runs/new",
    }
    env.close()
    say(f"{env_id}: {plain(text.partition(chr(10))[0])}")
    for name, line in rows.items():
        if line:
            say(f"{name:<13} {shorten(line, 400, placeholder=' ...')}")


def opening(docstring: str, title: str) -> str:
    """Return the first sentence of a section of a docstring, up to the word "where".

    The result is empty if the docstring has no such section.
    """
    found = re.search(rf"^## {title}\n(.+?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    sentence = re.split(r"\.(?:\s|$)|, where\s", found[1], maxsplit=1)[0] if found else ""
    return " ".join(sentence.split())


def plain(text: str) -> str:
    """Return a sentence without the markup of Sphinx: ``:class:`~a.B``` becomes ``B``."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)


def _rounded(value: Any) -> Any:
    """Return a task description with numbers of three significant digits."""
    return json.loads(json.dumps(value), parse_float=lambda digits: float(f"{float(digits):.3g}"))
