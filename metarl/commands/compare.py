"""``metarl compare``: train methods with several seeds and compare the results.

Each positional argument is a method of ``metarl train``, quoted together with
its flags: ``metarl compare maml-trpo "maml-trpo --first-order" "promp --epochs
3" --out DIR``.
"""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import tyro

from metarl.commands import cli
from metarl.commands.comparison import show
from metarl.commands.side_by_side import SideBySide
from metarl.commands.usage import unknown
from metarl.core.speed import processes
from metarl.experiments import experiments
from metarl.runs import NEUTRAL, Run, to_json, unset
from metarl.supervised.methods import METHODS
from metarl.util import Overall, Ranged, at_least, require_writable


Execute: TypeAlias = Callable[[Path, list[str]], None]
"""Function ``(folder, words)`` that runs a command for a run folder.

The words are the command-line arguments after ``metarl``.
"""


@dataclass(frozen=True)
class Compare(Ranged):
    """Train methods with several seeds, and compare the evaluated runs in tables and figures.

    Every run is an ordinary run folder, OUT/METHOD-SEED. After an interruption,
    run the same command again to continue. To extend a comparison, add methods
    or seeds to the command; existing runs are reused.
    """

    methods: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Methods to compare. Quote a method with its flags, as in maml-trpo "promp --epochs 3"."""
    out: Path
    """Output folder for the runs, table.md, curves.png and, for meta-RL, profiles.png."""
    preset: Annotated[str | None, unset("none")] = None
    """Preset for all methods; run `metarl train` to list the presets."""
    env: Annotated[str | None, unset("from the preset or the method")] = None
    """Gymnasium ID of the environment for all methods; not supported by supervised methods."""
    iterations: Annotated[int | None, at_least(1), unset("from the preset or the method")] = None
    """Number of meta-updates for all methods."""
    info: Annotated[tuple[str, ...], unset("from the preset or the method")] = ()
    """Entries of the environment's info that all methods report, such as
    success; only supported by meta-RL."""
    seeds: Annotated[tuple[int, ...], at_least(0)] = (0, 1, 2)
    """Random seeds; every method is trained once per seed."""
    evaluate: str = ""
    """Flags for `metarl evaluate` as one string, after an equals sign, as in
    --evaluate="--num-tasks 100". If not set, no flags are passed."""
    jobs: Annotated[int, at_least(1)] = 1
    """Number of runs to execute in parallel. If greater than 1, every run uses
    an equal share of the CPU cores and at most one GPU, and the output is
    appended to OUT/METHOD-SEED.log."""

    def __post_init__(self) -> None:
        """Validate the methods and the seeds."""
        super().__post_init__()
        if not self.methods:
            raise ValueError(
                "compare requires at least one method, got none. Example: "
                'metarl compare maml-trpo "promp --epochs 3" --out DIR'
            )
        if not self.seeds:
            raise ValueError("`seeds` must contain at least one seed, got none")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"`seeds` must be distinct, got {self.seeds}")


class Entry(NamedTuple):
    """A method in a comparison.

    Attributes:
        name: Name in tables and run folders, which contains the method and all flags.
        experiment: Name of the method, as in ``metarl train NAME``.
        flags: Flags of the method and their values, one element per command-line argument.
    """

    name: str
    experiment: str
    flags: list[str]


class Planned(NamedTuple):
    """A run to train and evaluate.

    Attributes:
        folder: Run folder to create or to complete.
        words: Command-line arguments after ``metarl train`` in the command that starts the run.
        iterations: Total number of iterations.
    """

    folder: Path
    words: list[str]
    iterations: int


def main(args: Compare) -> None:
    """Train and evaluate all incomplete runs, print the table and draw the figure."""
    processes.require_single_process("comparisons")
    entries = read_entries(args.methods)
    planned = [  # all settings are validated before the first run
        plan(folder_of(args, entry, seed), words_of(args, entry, seed))
        for seed in args.seeds  # seed by seed, for early results of all methods
        for entry in entries
    ]
    flags = shlex.split(args.evaluate)
    args.out.mkdir(parents=True, exist_ok=True)
    require_writable(args.out / "curves.png")
    overall = Overall(len(planned), args.jobs)
    if args.jobs == 1:
        for run in planned:
            with overall.run(run.folder):
                make(run, flags, run_in_process)
    else:
        beside = SideBySide(args.jobs)

        def complete(run: Planned) -> None:
            with overall.run(run.folder):
                make(run, flags, beside.execute)

        beside.map(complete, planned)
    groups = {e.name: [Run.open(folder_of(args, e, s)) for s in args.seeds] for e in entries}
    show(groups, lambda run: evaluations(run, flags)[0], args.out)


def make(planned: Planned, flags: list[str], execute: Execute) -> None:
    """Complete a planned run: train or resume the run, and evaluate the last checkpoint.

    Steps that were completed by a previous command are skipped.

    Args:
        planned: The run to complete.
        flags: Flags for ``metarl evaluate``.
        execute: Function ``(folder, words)`` that runs a command, see :data:`Execute`.
    """
    folder, words, iterations = planned
    if not (folder / "config.json").exists():
        execute(folder, ["train", *words])
    elif Run.open(folder).checkpoints()[-1:] < [iterations]:
        execute(folder, ["resume", str(folder), "--iterations", str(iterations)])
    evaluate(folder, flags, execute)


def read_entries(texts: Sequence[str]) -> list[Entry]:
    """Parse the methods on the command line, each of the form ``METHOD --FLAG VALUE ...``.

    Raises:
        ValueError: If a method does not exist, or two methods would use the same run folders.
    """
    entries: dict[str, Entry] = {}
    for text in texts:
        entry = read_entry(text)
        if entry.name in entries:
            raise ValueError(f"{text!r} has the same run folders {entry.name}-SEED as a previous "
                             "method. List every method only once")  # fmt: skip
        entries[entry.name] = entry
    return list(entries.values())


def read_entry(text: str) -> Entry:
    """Parse a method with its flags, ``METHOD --FLAG VALUE ...``.

    The name of the entry in tables and folders contains the method and all flags.

    Raises:
        ValueError: If the method does not exist.
    """
    experiment, *flags = shlex.split(text) or [""]
    if experiment not in experiments():
        example = f"fewshot --method {experiment}" if experiment in METHODS else "promp --epochs 3"
        raise ValueError(
            f"{unknown('method', experiment, list(experiments()))}. Quote a method together with "
            f'its flags: "{example}"'
        )
    signed = [re.sub(r"(?<!\w)-(?=\.?\d)", "minus", word) for word in flags]
    named = [re.sub(r"[^\w.+]+", "-", word).strip("-") for word in signed]
    return Entry("-".join([experiment, *named]), experiment, flags)


def folder_of(args: Compare, entry: Entry, seed: int) -> Path:
    """Return the run folder for a method and a seed."""
    return args.out / f"{entry.name}-{seed}"


def words_of(args: Compare, entry: Entry, seed: int) -> list[str]:
    """Return the command-line arguments after ``metarl train`` for a method and a seed."""
    shared = {"--preset": args.preset, "--env": args.env, "--iterations": args.iterations}
    given = [w for flag, value in shared.items() if value is not None for w in (flag, str(value))]
    given += ["--info", *args.info] if args.info else []
    own = ["--seed", str(seed), "--out", str(folder_of(args, entry, seed))]
    return [entry.experiment, *given, *entry.flags, *own]


def plan(folder: Path, words: list[str]) -> Planned:
    """Validate the settings of a run, and return the planned run.

    Args:
        folder: Run folder. A run that exists in this folder must have the same
            settings, except for the number of iterations and settings that do
            not affect the training result.
        words: Command-line arguments after ``metarl train``.

    Raises:
        ValueError: If a setting is invalid, or differs from the setting of the existing run.
    """
    kind, config, _ = cli.parse_train(words)
    config = kind(config).config
    planned = Planned(folder, words, config.iterations)
    if not (folder / "config.json").exists():
        return planned
    kept = Run.open(folder).read_config()["config"]
    # None stands for the value that the method set when the run was started.
    values = {n: v for n, v in to_json(config).items() if v is not None}
    if different := {n for n, v in values.items() if kept.get(n) != v} - NEUTRAL - {"iterations"}:
        names = ", ".join(f"`{name}`" for name in sorted(different))
        raise ValueError(
            f"{folder} was started with different values of {names}. Repeat the original command "
            "or choose a different `out`"
        )
    return planned


def evaluate(folder: Path, flags: list[str], execute: Execute) -> None:
    """Evaluate a run, unless the last checkpoint was already evaluated with the same flags.

    Args:
        folder: Run folder to evaluate.
        flags: Flags for ``metarl evaluate``.
        execute: Function ``(folder, words)`` that runs a command, see :data:`Execute`.
    """
    run = Run.open(folder)
    if [e["iteration"] for e in evaluations(run, flags)[:1]] != run.checkpoints()[-1:]:
        execute(folder, ["evaluate", str(folder), *flags])


def evaluations(run: Run, flags: list[str]) -> list[dict[str, Any]]:
    """Return the evaluations of a run by ``metarl evaluate`` commands with exactly these flags.

    Evaluations of the last checkpoint come first, followed by evaluations of
    earlier checkpoints. Within both groups, newer evaluations come first.
    """
    command = shlex.join(["metarl", "evaluate", str(run.folder), *flags])
    found = [entry for entry in run.evaluations() if entry["command"] == command]
    return sorted(found, key=lambda entry: entry["iteration"] != run.checkpoints()[-1])


def run_in_process(folder: Path, words: list[str]) -> None:
    """Run a command in this process; `folder` is not used.

    During the command, ``sys.argv`` contains ``metarl`` and `words`, so that
    the run folder records the command.
    """
    del folder
    before, sys.argv = sys.argv, ["metarl", *words]
    try:
        cli.run(words)
    finally:
        sys.argv = before
