"""Functions that open the run folders named on a command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl.experiment import Experiment
from metarl.experiments import experiment_of
from metarl.runs import Run, require_known_module


class Opened(NamedTuple):
    """A run folder, and the experiment that is built from the run's configuration."""

    run: Run
    experiment: Experiment[Any]


def opened(folder: Path) -> Opened:
    """Open a run folder and build the experiment from the run's configuration.

    Raises:
        FileNotFoundError: If the folder contains no run.
        ValueError: If config.json is damaged or names an unknown experiment.
    """
    run = Run.open(folder)
    return Opened(run, experiment_of(run))


def require_trusted(named: Opened, *, trust_env: bool) -> None:
    """Raise a ValueError if the module of a pulled run's environment is not trusted.

    Every command calls this function before it creates the environment of a run.

    Args:
        named: The run and its experiment.
        trust_env: Whether to accept any module.
    """
    require_known_module(named.run, named.experiment.config, trusted=trust_env)


def first_run(words: Sequence[str]) -> Opened | None:
    """Return the first run on a command line, or None if no argument is a run folder.

    The experiment of this run determines the flags of the command.

    Args:
        words: Command-line arguments after the name of the command.

    Raises:
        FileNotFoundError: If the first argument is neither a flag nor a run folder.
    """
    for index, word in enumerate(words):
        if (Path(word) / "config.json").is_file() or (index == 0 and not word.startswith("-")):
            return opened(Path(word))
    return None
