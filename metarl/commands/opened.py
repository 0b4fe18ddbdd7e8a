"""Access to the run folders of a command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl.experiment import Experiment
from metarl.experiments import experiment_of
from metarl.runs import Run


class Opened(NamedTuple):
    """A run with its experiment."""

    run: Run
    experiment: Experiment[Any]


def opened(folder: Path) -> Opened:
    """Open a run folder.

    Raises:
        FileNotFoundError: If the folder contains no run.
        ValueError: If its experiment is unknown, or config.json is damaged.
    """
    run = Run.open(folder)
    return Opened(run, experiment_of(run))


def first_run(words: Sequence[str]) -> Opened | None:
    """Return the first run in a command line; its experiment determines the flags.

    Raises:
        FileNotFoundError: If the first word is a folder that contains no run.
    """
    for index, word in enumerate(words):
        if (Path(word) / "config.json").is_file() or (index == 0 and not word.startswith("-")):
            return opened(Path(word))
    return None
