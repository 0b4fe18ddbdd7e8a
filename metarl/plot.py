"""Learning curves and adaptation curves of runs, with 95 % intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl import optional
from metarl.config import NEUTRAL
from metarl.console import warn
from metarl.statistics import interval95
from metarl.tracking import Run, protocol


VARIES = NEUTRAL | {"seed"}  # not what is compared


def group_by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ in nothing but their seed; name a group by its first folder."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = {k: v for k, v in run.read_config()["config"].items() if k not in VARIES}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return {
        members[0].folder.name + (f" ({len(members)} seeds)" if len(members) > 1 else ""): members
        for members in groups.values()
    }


def figure(runs: Sequence[Run], out: Path) -> None:
    """Draw returns before and after adaptation against environment steps, and evaluations.

    Bands are 95 % intervals: over seeds where a setting has several runs, and for a single run
    over the tasks of its evaluation.

    Raises:
        ValueError: If a run has no metrics yet.
        ImportError: If matplotlib is missing; the message has the command.
    """
    plt = optional.pyplot()
    drawn, (learning, adapting) = plt.subplots(1, 2, figsize=(11, 4.2))
    for index, (name, members) in enumerate(group_by_setting(runs).items()):
        color = f"C{index}"
        _draw_learning(learning, name, members, color)
        _draw_adaptation(adapting, name, members, color)
    learning.set(xlabel="environment steps", ylabel="mean return", title="meta-training")
    adapting.set(xlabel="adaptation steps", ylabel="mean return", title="test tasks")
    adapting.xaxis.get_major_locator().set_params(integer=True)
    for axes in (learning, adapting):
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    if not adapting.lines:
        adapting.text(
            0.5,
            0.5,
            "run `metarl evaluate` first",
            ha="center",
            color="gray",
            transform=adapting.transAxes,
        )
    drawn.tight_layout()
    drawn.savefig(out, dpi=150)
    plt.close(drawn)


def _draw_learning(axes: Any, name: str, members: list[Run], color: str) -> None:
    histories = [run.metrics() for run in members]
    length = min(len(history) for history in histories)
    if length == 0:
        raise ValueError(
            f"{name} has no metrics yet; train it first: metarl resume {members[0].folder}"
        )
    first = histories[0][:length]
    steps_taken = [int(k.rpartition("_")[2]) for k in first[0] if k.startswith("return/step_")]
    last = f"return/step_{max(steps_taken)}"
    steps = np.cumsum([entry["env/steps"] for entry in first])
    for key in sorted({"return/step_0", last}):
        values = np.array([[entry[key] for entry in h[:length]] for h in histories])
        label, style = (name, "-") if key == last else (f"{name}, before adaptation", ":")
        _band(axes, steps, values.mean(0), interval95(values), label, color, style)


def _draw_adaptation(axes: Any, name: str, members: list[Run], color: str) -> None:
    newest = furthest_evaluations(members)
    if not newest:
        return
    if len(newest) < len(members):
        warn(f"{name}: {len(members) - len(newest)} runs have no evaluation like the others'")
    values = np.array([entry["mean"] for entry in newest])
    half = interval95(values) if len(newest) > 1 else np.array(newest[0]["interval95"])
    steps = np.arange(values.shape[1])
    if len(steps) == 1:  # an oracle does not adapt: a level, not a point
        axes.axhline(values.mean(), color=color, ls="--", label=name)
        return
    axes.errorbar(steps, values.mean(0), half, color=color, marker="o", capsize=3, label=name)


def furthest_evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the last evaluation of each run at its furthest checkpoint, all of one protocol.

    The protocol is that of the first run that was evaluated; a run without such an evaluation is
    left out.
    """
    chosen: list[dict[str, Any]] = []
    for run in runs:
        found = [e for e in run.evaluations() if not chosen or protocol(e) == protocol(chosen[0])]
        if found:
            chosen.append(max(found, key=lambda entry: int(entry["iteration"])))
    return chosen


def _band(axes: Any, x: Any, mean: Any, half: Any, label: str, color: str, style: str) -> None:
    axes.plot(x, mean, style, color=color, label=label, lw=1.5)
    axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)
