"""``metarl headstart``: compare the returns of adaptation and of training from scratch.

``metarl headstart runs/maml --scratch runs/ppo-forwards runs/ppo-backwards --out headstart.png``
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray

from metarl.core import torch_generator
from metarl.drawing import (
    PANEL,
    label_ticks,
    save_figure,
    shared_legend,
    styled,
    task_words,
    with_minus,
)
from metarl.experiments.load import load
from metarl.rl import AdaptationCurve
from metarl.runs import Run, command, versions
from metarl.util import Ranged, at_least, optional, print_table, replacing, require_writable, say


@dataclass(frozen=True)
class Headstart(Ranged):
    """Compare the returns of an adapting policy with the returns of policies trained from scratch.

    Train the policies from scratch with `metarl train sb3 --task JSON`;
    several runs on the same task are treated as different seeds. Returns of
    these policies are measured without exploration noise, whereas returns of
    the adapted policy are measured with exploration noise.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a meta-learned policy."""
    scratch: tuple[Path, ...]
    """Run folders of `metarl train sb3 --task JSON`, one per policy trained from scratch."""
    out: Path
    """Output figure: .png, .pdf or .svg. The table is written to a .json file
    with the same name."""
    episodes: Annotated[int, at_least(1)] = 20
    """Number of episodes per adaptation step."""
    inner_steps: Annotated[int, at_least(1)] = 3
    """Number of adaptation steps."""
    repeats: Annotated[int, at_least(1)] = 20
    """Number of adaptations per task, each with newly sampled episodes."""
    seed: int = 1
    """Random seed for the episodes of the adapted policy."""
    trust_env: bool = False
    """Import the module in the environment ID of a pulled run and run its code;
    set this flag only if you trust the module."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        if not self.scratch:
            raise ValueError(
                "`scratch` requires runs of `metarl train sb3 --task JSON`, got none. Add at least "
                "one run folder"
            )
        if self.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"`out` must end in .png, .pdf or .svg, got {self.out}")


class Learning(NamedTuple):
    """The learning curve of one run from scratch.

    Attributes:
        steps: Cumulative number of environment steps at each evaluation, of shape (evaluations,).
        returns: Mean return at each evaluation, of shape (evaluations,).
    """

    steps: NDArray[np.float64]
    returns: NDArray[np.float64]

    def reaches(self, level: float) -> float | None:
        """Return the number of environment steps at which the return first reaches `level`.

        The result is None if no evaluation reaches `level`.
        """
        there = self.steps[self.returns >= level]
        return float(there[0]) if len(there) else None


def main(args: Headstart) -> None:
    """Adapt the policy to the tasks of the runs from scratch, and write the figure and table."""
    began, table = time.perf_counter(), args.out.with_suffix(".json")
    for path in (args.out, table):
        require_writable(path)
    sizes = {"num_tasks": args.repeats, "episodes": args.episodes}
    policy = load(args.run, device="cpu", trust_env=args.trust_env, **sizes)
    learned, curves = by_task(args, policy.config.env), {}
    for task in learned:
        generator = torch_generator(args.seed, 0, "headstart")
        tasks = [json.loads(task)] * args.repeats
        curves[task] = policy.curve(policy.loop(args.inner_steps), tasks, generator)
    steps = args.episodes * policy.sampler.horizon
    rows = [row_of(task, curves[task], learned[task], steps) for task in learned]
    draw(args.out, steps, curves, learned)
    show(args, steps, rows)
    about = {"command": command(), "iteration": Run.open(args.run).choose_checkpoint(None),
             "rows": rows, "versions": versions(),
             "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
    with replacing(table) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")
    say(f"written to {args.out} and {table}")


def by_task(args: Headstart, env: str) -> dict[str, list[Learning]]:
    """Return the learning curves of the runs from scratch, grouped by task.

    Args:
        args: Options of the command.
        env: Gymnasium ID of the environment of the meta-learned policy.

    Returns:
        Learning curves by task description in JSON format.

    Raises:
        ValueError: If a run was not trained on a single task of `env`, or has no metrics.
    """
    found: dict[str, list[Learning]] = {}
    for folder in args.scratch:
        run = Run.open(folder)
        about, history = run.read_config(), run.metrics()
        config = about["config"]
        if about["experiment"] != "sb3" or config.get("task") is None or config["env"] != env:
            raise ValueError(
                f"{folder} is not a run on one task of {env}. Use a run of `metarl train sb3 "
                f"--env {env} --task JSON --out DIR`"
            )
        if not history:
            raise ValueError(
                f"{folder} has no metrics yet: expected at least one evaluation. Continue the "
                f"training with `metarl resume {folder}`"
            )
        steps = np.cumsum([entry["env/steps"] for entry in history])
        returns = np.array([entry["return/step_0"] for entry in history])
        key = json.dumps(json.loads(config["task"]), sort_keys=True)
        found.setdefault(key, []).append(Learning(steps, returns))
    return found


def row_of(task: str, curve: AdaptationCurve, runs: list[Learning], steps: int) -> dict[str, Any]:
    """Return the results for one task as a dictionary of JSON values.

    For each run from scratch, ``scratch_steps`` contains the number of
    environment steps after which the run reaches the return after the first
    adaptation step, or None if the run never reaches this return.

    Args:
        task: Task description in JSON format.
        curve: Returns of the adapted policy.
        runs: Learning curves of the runs from scratch on this task.
        steps: Number of environment steps per adaptation step.
    """
    reached = [run.reaches(float(curve.mean[1])) for run in runs]
    return {
        "task": task,
        "adaptation_steps": steps,
        "returns": curve.mean.tolist(),
        "interval95": curve.interval.tolist(),
        "scratch_steps": sorted(reached, key=lambda taken: np.inf if taken is None else taken),
        "scratch_best": [float(run.returns.max()) for run in runs],
        "scratch_trained": [float(run.steps[-1]) for run in runs],
    }


def show(args: Headstart, steps: int, rows: list[dict[str, Any]]) -> None:
    """Print a table with one row per task.

    Args:
        args: Options of the command.
        steps: Number of environment steps per adaptation step.
        rows: Results from :func:`row_of`.
    """
    columns = ["task", f"return after {args.episodes} episodes", "steps from scratch", "ratio"]
    lines = []
    for row in rows:
        taken = row["scratch_steps"]
        text = ", ".join("never" if number is None else f"{number:,.0f}" for number in taken)
        ratio = "" if None in taken else f"{np.median(taken) / steps:.0f}"
        after = f"{row['returns'][1]:.1f} ± {row['interval95'][1]:.1f}"
        lines.append([task_words(json.loads(row["task"])), after, text, ratio])
    print_table(f"{args.run}: {steps:,} environment steps of adaptation", columns, lines)


def draw(
    out: Path, steps: int, curves: dict[str, AdaptationCurve], learned: dict[str, list[Learning]]
) -> None:
    """Draw mean returns over environment steps, with one panel per task.

    Args:
        out: Image file to write.
        steps: Number of environment steps per adaptation step.
        curves: Returns of the adapted policy by task.
        learned: Learning curves of the runs from scratch by task.
    """
    height = PANEL["default"][1] + 0.4
    size = (PANEL["default"][0] * len(curves), height)
    with styled("default"):
        canvas, panels = optional.pyplot().subplots(
            1, len(curves), figsize=size, squeeze=False, layout="constrained"
        )
        for axes, (task, curve) in zip(panels[0], curves.items(), strict=True):
            draw_task(axes, steps, curve, learned[task])
            axes.set_title(with_minus(task_words(json.loads(task))))
        shared_legend(canvas)
        save_figure(canvas, out)


def draw_task(axes: Any, steps: int, curve: AdaptationCurve, learned: list[Learning]) -> None:
    """Draw the returns on one task: of the adapted policy, and of the runs from scratch."""
    for run in learned:
        begun = run.steps > 0  # a logarithmic axis has no 0
        look = {"color": "C1", "alpha": 0.7, "label": "from scratch, one line per seed"}
        axes.plot(run.steps[begun], run.returns[begun], **look)
    # The point before adaptation is drawn at steps / 10 instead of 0, for the same reason.
    taken = np.maximum(steps * np.arange(len(curve.mean)), steps / 10)
    axes.plot(taken[:2], curve.mean[:2], color="C0", ls=":", lw=1)
    for part, face, name in ((slice(1), "white", "before adaptation, 0 steps"),
                             (slice(1, None), "C0", "adapted")):  # fmt: skip
        look = {"color": "C0", "marker": "o", "mfc": face, "capsize": 3, "zorder": 3}
        axes.errorbar(taken[part], curve.mean[part], curve.interval[part], label=name, **look)
    axes.axhline(curve.mean[1], color="C0", ls=":", lw=1, label="return after the first step")
    axes.set(xscale="log", xlabel="environment steps on this task", ylabel="mean return")
    label_ticks(axes.xaxis, log=True)
    label_ticks(axes.yaxis)
