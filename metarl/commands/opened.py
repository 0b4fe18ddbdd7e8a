"""Run folders that a command line names, opened once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl.experiment import Experiment
from metarl.experiments import experiment_of
from metarl.runs import Run


class Opened(NamedTuple):
    """A run and its experiment."""

    run: Run
    experiment: Experiment[Any]


def opened(folder: Path) -> Opened:
    """Open a run folder.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If its experiment is unknown, or config.json is damaged.
    """
    run = Run.open(folder)
    return Opened(run, experiment_of(run))


def first_run(words: Sequence[str]) -> Opened | None:
    """Return the run that a command line names first: its experiment decides which flags there are.

    Raises:
        FileNotFoundError: If the line begins with a folder that contains no run.
    """
    for index, word in enumerate(words):
        if (Path(word) / "config.json").is_file() or (index == 0 and not word.startswith("-")):
            return opened(Path(word))
    return None
