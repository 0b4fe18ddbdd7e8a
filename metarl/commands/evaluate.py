"""Evaluate a run as in the papers: the return after 0, 1, ..., K steps on test tasks.

``metarl evaluate runs/quick``
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from metarl.core.optimizers import LEARNED_RATES
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.experiments.launch import experiment_of, require_fitting
from metarl.experiments.meta_rl import RLConfig, paper_loop
from metarl.rl.evaluate import AdaptationCurve, adaptation_curve, paper_episodes, paper_tasks
from metarl.rl.sampler import TaskDescription
from metarl.runs.config import require
from metarl.runs.folder import Run, command, versions
from metarl.runs.loading import Loaded, load
from metarl.util.console import print_table
from metarl.util.output import require_writable
from metarl.util.ranges import at_least


TUNING_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Evaluate:
    """Adapt the policy of a run to test tasks, and report every return.

    The tasks are drawn from the same distribution by another stream than training's: velocities and
    goals it has never met, but there are only two directions. Every step is taken on fresh
    episodes: the first with the training step size, later ones with half of it (Finn et al. 2017);
    rates that were learned stay what they are.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    inner_steps: int | None = None
    """Adaptation steps; by default 3, and 0 for an oracle."""
    num_tasks: int = 40
    """Test tasks; 40 with seed 1 are the paper's own."""
    episodes_per_task: int | None = None
    """Episodes of each task before and after each step; by default as many as have 4,000 steps
    (Finn et al. 2017): 40 of 100 steps, 20 of 200."""
    seed: int = 1
    """Seed of tasks and episodes."""
    inner_lr: float | None = None
    """Step size of the first step, instead of the run's."""
    tune_inner_lr: bool = False
    """Choose the step size first, for what a pretrained policy is fine-tuned with: the best of
    eight, evaluated in the same way on as many tasks of its own."""
    checkpoint: int | None = None
    """Iteration of the checkpoint, by default the last; 0 is the random initialization."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy lives."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(1), "num_tasks", "episodes_per_task")
        require(self, at_least(0), "inner_steps", "inner_lr")
        if self.tune_inner_lr and self.inner_lr is not None:
            raise ValueError("--tune-inner-lr chooses the step size; leave out --inner-lr")


def main(args: Evaluate) -> None:
    """Evaluate, print the table and write it to the run folder."""
    began = time.perf_counter()
    experiment, kind = experiment_of(Run.open(args.run))
    loaded: Loaded[Any] = load(kind, args.run, iteration=args.checkpoint, device=args.device)
    num_steps = steps_to_take(args, loaded.config)
    require_writable(loaded.run.evaluation_path("new"))
    one = experiment.build(loaded.config, num_tasks=1, episodes=1)
    episodes = args.episodes_per_task or paper_episodes(one.sampler.horizon)
    parts = experiment.build(loaded.config, num_tasks=args.num_tasks, episodes=episodes)
    require_fitting(parts, loaded.params)

    def evaluate(tasks: list[TaskDescription], rate: float, role: str) -> AdaptationCurve:
        """Run the paper's protocol with first step size `rate`."""
        sampler, policy, process = parts.sampler, parts.policy, parts.process
        loop = paper_loop(loaded.config, parts.loop, num_steps=num_steps, rate=rate)
        generator = torch_generator(args.seed, 0, role, device=sampler.device)
        return adaptation_curve(
            sampler, policy, loop, loaded.params, tasks, generator, process=process
        )

    rate = loaded.config.inner_lr if args.inner_lr is None else args.inner_lr
    if args.tune_inner_lr:
        # Another stream than the test tasks and their episodes.
        others = parts.sampler.sample_tasks(numpy_generator(args.seed, 0, "tuning"))
        scores = [evaluate(others, each, "tuning").mean[1:].mean() for each in TUNING_RATES]
        rows = [[f"{r:g}", f"{s:.2f}"] for r, s in zip(TUNING_RATES, scores, strict=True)]
        print_table("step size, on tasks of its own", ["inner lr", "mean return"], rows)
        rate = TUNING_RATES[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]
    curve = evaluate(paper_tasks(parts.sampler, args.seed), rate, "evaluation")
    label = f"{args.run}, iteration {loaded.iteration}: return on {curve.described}"
    steps = enumerate(zip(curve.mean, curve.interval, strict=True))
    curve_rows = [[step, f"{mean:.2f}", f"± {half:.2f}"] for step, (mean, half) in steps]
    print_table(label, ["adaptation steps", "mean return", "95 % interval"], curve_rows)
    seconds = time.perf_counter() - began
    name = f"iteration-{loaded.iteration}_steps-{num_steps}_tasks-{args.num_tasks}"
    name += f"_episodes-{episodes}_seed-{args.seed}"
    name += f"_lr-{rate:g}" if rate != loaded.config.inner_lr else ""
    name += "_tuned" if args.tune_inner_lr else ""  # also where it is the run's own
    path = loaded.run.write_evaluation(name, report(loaded, args, curve, rate, episodes, seconds))
    print(f"written to {path} after {seconds:.0f} s")


def steps_to_take(args: Evaluate, config: RLConfig) -> int:
    """Return the number of adaptation steps; refuse step sizes that nothing would use."""
    oracle = config.observe_task and config.inner_steps == 0
    num_steps = args.inner_steps if args.inner_steps is not None else 0 if oracle else 3
    if config.inner in LEARNED_RATES and (args.inner_lr is not None or args.tune_inner_lr):
        raise ValueError(
            f"{args.run} learned its rates (--inner {config.inner}); leave out --inner-lr and "
            "--tune-inner-lr"
        )
    if args.tune_inner_lr and num_steps == 0:
        raise ValueError("--tune-inner-lr needs --inner-steps of at least 1")
    return num_steps


def report(
    loaded: Loaded[Any],
    args: Evaluate,
    curve: AdaptationCurve,
    rate: float,
    episodes: int,
    seconds: float,
) -> dict[str, Any]:
    """Describe an evaluation so that it can be repeated and plotted."""
    return {
        "command": command(),
        "iteration": loaded.iteration,
        "env": loaded.config.env,
        "num_tasks": args.num_tasks,
        "episodes_per_task": episodes,
        "seed": args.seed,
        "inner_lr": rate,
        "tuned": args.tune_inner_lr,
        "mean": curve.mean.tolist(),
        "interval95": curve.interval.tolist(),
        "tasks": curve.tasks,
        "returns": curve.returns.tolist(),
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
