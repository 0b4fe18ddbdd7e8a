"""Compare methods over seeds: ``metarl compare maml-trpo promp --preset navigation-quick --out D``.

Every argument before the flags is a method as ``metarl train`` knows it, with flags of its own in
the same quotes: ``metarl compare maml-trpo "maml-trpo --first-order" "promp --epochs 3" ...``.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
import torch
import tyro

from metarl import cli
from metarl.config import NEUTRAL, at_least, flag, require, to_json
from metarl.console import print_table
from metarl.output import require_writable
from metarl.plot import figure, furthest_evaluations
from metarl.statistics import interval95
from metarl.tracking import Run


Execute: TypeAlias = Callable[[Path, list[str]], None]
"""``(run folder, words of a command) -> None``."""


@dataclass(frozen=True)
class Compare:
    """Train methods over seeds, evaluate each run, and show them in one table and one figure.

    Put flags of one method in quotes with it: "maml-trpo --first-order". The same command again
    goes on where it stopped; with more seeds or methods it adds them. What it makes are plain run
    folders, OUT/METHOD-SEED.
    """

    methods: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Methods, such as maml-trpo promp "maml-trpo --first-order"."""
    out: Path
    """Folder of the runs, table.md and curves.png."""
    preset: str | None = None
    """Settings that all methods start from; `metarl train` lists them."""
    env: str | None = None
    """Environment of all methods; of supervised ones leave it out."""
    iterations: int | None = None
    """Meta-updates of all methods."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each method for each of these."""
    evaluate: str = ""
    """Flags for `metarl evaluate`, after an equals sign: --evaluate="--num-tasks 100"."""
    jobs: int = 1
    """Runs at a time, each in a process with its part of the cores, or a GPU of its own in turn;
    what they print goes into OUT/METHOD-SEED.log."""

    def __post_init__(self) -> None:
        """Refuse a comparison of nothing."""
        if not self.methods:
            raise ValueError('compare needs methods: metarl compare maml-trpo "promp --epochs 3"')
        if not self.seeds:
            raise ValueError("--seeds needs at least one")
        require(self, at_least(0), "seeds")
        require(self, at_least(1), "iterations", "jobs")


class Entry(NamedTuple):
    """One method with its flags."""

    name: str
    experiment: str
    flags: list[str]


def main(args: Compare) -> None:
    """Train what is missing, evaluate what is new, and draw."""
    entries = [read_entry(text) for text in args.methods]
    planned = [
        (folder_of(args, entry, seed), words_of(args, entry, seed))
        for seed in args.seeds  # all methods of one seed before the next: a first look comes early
        for entry in entries
    ]
    for folder, words in planned:  # a mistake in the last method costs no time
        require_same(folder, words)
    args.out.mkdir(parents=True, exist_ok=True)
    require_writable(args.out / "curves.png")
    execute = typed if args.jobs == 1 else _processes(args.jobs)

    def work(item: tuple[Path, list[str]]) -> None:
        finish(*item, execute)
        evaluate(item[0], shlex.split(args.evaluate), execute)

    with ThreadPoolExecutor(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        list(pool.map(work, planned) if pool else map(work, planned))
    groups = {e.name: [Run.open(folder_of(args, e, s)) for s in args.seeds] for e in entries}
    show(groups, args.out)


def read_entry(text: str) -> Entry:
    """Read ``METHOD --FLAG VALUE ...``; its name in tables and folders is made of all words.

    Raises:
        ValueError: If there is no such experiment.
    """
    experiment, *flags = shlex.split(text) or [""]
    if experiment not in cli.EXPERIMENTS:
        raise ValueError(
            f"there is no method {experiment!r}; choose of {', '.join(cli.EXPERIMENTS)}, with its "
            'flags in the same quotes: "maml-trpo --first-order"'
        )
    named = [re.sub(r"[^\w.+]+", "-", word).strip("-") for word in flags]
    return Entry("-".join([experiment, *named]), experiment, flags)


def folder_of(args: Compare, entry: Entry, seed: int) -> Path:
    """Return the run folder of one method and seed."""
    return args.out / f"{entry.name}-{seed}"


def words_of(args: Compare, entry: Entry, seed: int) -> list[str]:
    """Return the words of ``metarl train`` for one method and seed."""
    shared = {"--preset": args.preset, "--env": args.env, "--iterations": args.iterations}
    given = [w for flag, value in shared.items() if value is not None for w in (flag, str(value))]
    own = ["--seed", str(seed), "--out", str(folder_of(args, entry, seed))]
    return [entry.experiment, *given, *entry.flags, *own]


def require_same(folder: Path, words: list[str]) -> None:
    """Refuse settings that are impossible, or not those that a run was started with.

    Raises:
        ValueError: If they are.
    """
    module, given = cli.parse_train(words)
    asked = to_json(module.complete(given) if hasattr(module, "complete") else given)
    if not (folder / "config.json").exists():
        return
    kept = Run.open(folder).read_config()["config"]
    # None takes what the method chose when the run was started.
    wanted = {n: v for n, v in asked.items() if v is not None} | {"iterations": kept["iterations"]}
    different = {n for n, v in wanted.items() if kept.get(n) != v} - NEUTRAL
    if different:
        raise ValueError(
            f"{folder} was started with another {', '.join(map(flag, sorted(different)))}; repeat "
            "the command it was started with, or choose another --out"
        )


def finish(folder: Path, words: list[str], execute: Execute) -> None:
    """Train a run, or resume it; a complete one is left alone."""
    if not (folder / "config.json").exists():
        print(f"\n{folder}")
        execute(folder, ["train", *words])
        return
    iterations = cli.parse_train(words)[1].iterations
    if Run.open(folder).checkpoints()[-1:] < [iterations]:
        execute(folder, ["resume", str(folder), "--iterations", str(iterations)])


def evaluate(folder: Path, flags: list[str], execute: Execute) -> None:
    """Evaluate a run, unless its last checkpoint has such an evaluation."""
    run, words = Run.open(folder), ["evaluate", str(folder), *flags]
    command, last = shlex.join(["metarl", *words]), run.checkpoints()[-1]
    if not any((e["iteration"], e["command"]) == (last, command) for e in run.evaluations()):
        execute(folder, words)


def typed(folder: Path, words: list[str]) -> None:
    """Run a command as if it had been typed: runs and evaluations write down what made them."""
    del folder
    before, sys.argv = sys.argv, ["metarl", *words]
    try:
        cli.run(words)
    finally:
        sys.argv = before


def _processes(jobs: int) -> Execute:
    """Return what runs a command in a process of its own, with its part of the machine."""
    places: Queue[int] = Queue()
    for place in range(jobs):
        places.put(place)
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def execute(folder: Path, words: list[str]) -> None:
        place = places.get()
        own = {"OMP_NUM_THREADS": str(threads), "LOCAL_WORLD_SIZE": str(jobs)}
        if gpus := torch.cuda.device_count():
            own["CUDA_VISIBLE_DEVICES"] = str(place % gpus)
        try:
            with folder.with_name(f"{folder.name}.log").open("ab") as log:
                argv = [sys.executable, "-m", "metarl", *words]
                done = subprocess.run(argv, env=os.environ | own, stdout=log, stderr=log)
        finally:
            places.put(place)
        if done.returncode:
            last = Path(log.name).read_text().strip().splitlines()[-1:]
            raise RuntimeError(f"{folder} failed: {' '.join(last)} ({log.name} has the rest)")

    return execute


def show(groups: dict[str, list[Run]], out: Path) -> None:
    """Print the table, and write it and the figure."""
    rows, steps = [], 0
    for name, members in groups.items():
        entries = furthest_evaluations(members)
        means = np.array([entry["mean"] for entry in entries])
        halves = interval95(means)
        spent = [sum(e.get("env/steps", 0) for e in run.metrics()) for run in members]
        cells = [f"{m:.3g} ± {h:.2g}" for m, h in zip(means.mean(0), halves, strict=True)]
        rows.append([name, str(len(entries)), f"{np.mean(spent):.3g}", *cells])
        steps = max(steps, len(cells))
    rows = [row + [""] * (3 + steps - len(row)) for row in rows]
    heads = ["method", "seeds", "env steps", *(f"after {k}" for k in range(steps))]
    print_table("test tasks, by adaptation steps; ± 95 % over seeds", heads, rows)
    lines = [heads, ["---"] * len(heads), *rows]
    (out / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    figure([run for members in groups.values() for run in members], out / "curves.png")
    print(f"written to {out / 'table.md'} and {out / 'curves.png'}")


if __name__ == "__main__":
    cli.script("compare")
