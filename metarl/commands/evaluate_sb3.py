"""Evaluate a run of Stable-Baselines3: the return on its task, or on test tasks.

``metarl evaluate runs/ppo``
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float

from metarl.experiments.sb3 import SB3, build
from metarl.rl.episodes import masked
from metarl.rl.evaluate import paper_episodes, paper_tasks
from metarl.runs.config import require
from metarl.runs.folder import Run, command, versions
from metarl.runs.loading import read_config
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.util.console import print_table
from metarl.util.output import require_writable
from metarl.util.ranges import at_least
from metarl.util.statistics import interval95


@dataclass(frozen=True)
class EvaluateSB3:
    """Measure the return of a policy that Stable-Baselines3 trained.

    On the run's --task if it has one, else on test tasks, those that meta-learned policies are
    evaluated on. Actions are the most likely ones, as SB3 evaluates.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    num_tasks: int = 40
    """Test tasks, of a run without --task; 40 with seed 1 are those of Finn et al. 2017."""
    episodes_per_task: int | None = None
    """Episodes of each task; by default as many as have 4,000 steps."""
    seed: int = 1
    """Seed of tasks and episodes."""
    explore: bool = False
    """Draw the actions, as in training, and as meta-learned policies are evaluated."""
    checkpoint: int | None = None
    """Iteration of the checkpoint, by default the last; 0 is the untrained policy."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the policy lives."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(1), "num_tasks", "episodes_per_task")
        require(self, at_least(0), "seed")


def main(args: EvaluateSB3) -> None:
    """Evaluate, print the result and write it to the run folder."""
    began = time.perf_counter()
    run = Run.open(args.run)
    config = replace(read_config(SB3, run), device=args.device)
    iteration = run.choose_checkpoint(args.checkpoint)
    require_writable(run.evaluation_path("new"))
    episodes = args.episodes_per_task or paper_episodes(build(config, num_tasks=1).sampler.horizon)
    num_tasks = args.num_tasks if config.task is None else 1
    parts = build(config, num_tasks=num_tasks, episodes=episodes)
    sb3_checkpoint.restore(run, parts.model, iteration, replay=False)
    tasks = paper_tasks(parts.sampler, args.seed) if parts.task is None else [parts.task]
    rollout = parts.play(tasks, seed=args.seed, explore=args.explore)
    returns = masked(rollout.rewards, rollout.mask).sum(1).double().cpu().numpy()  # task, episode
    entry: dict[str, Any] = {"iteration": iteration, "env": config.env, "num_tasks": num_tasks}
    entry |= {"episodes_per_task": episodes, "tasks": tasks} | report(args, returns)
    what = f"{num_tasks} test tasks" if config.task is None else config.task
    title = f"{args.run}, iteration {iteration}: return on {what}"
    (mean,), (half,) = entry["mean"], entry["interval95"]
    print_table(title, ["mean return", "95 % interval"], [[f"{mean:.2f}", f"± {half:.2f}"]])
    name = f"iteration-{iteration}_tasks-{num_tasks}_episodes-{episodes}_seed-{args.seed}"
    seconds = round(time.perf_counter() - began, 1)
    path = run.write_evaluation(
        name + ("_explore" if args.explore else ""), {**entry, "seconds": seconds}
    )
    print(f"written to {path} after {seconds:.0f} s")


def report(args: EvaluateSB3, returns: Float[np.ndarray, "task episode"]) -> dict[str, Any]:
    """Describe an evaluation so that it can be repeated and plotted."""
    # Tasks differ more than their episodes do; of one task there are only its episodes.
    half = interval95(returns.mean(1) if len(returns) > 1 else returns[0])
    return {
        "command": command(),
        "seed": args.seed,
        "explore": args.explore,
        "mean": [float(returns.mean())],
        "interval95": [float(half)],
        "returns": returns.mean(1, keepdims=True).tolist(),
        "versions": versions(),
    }
