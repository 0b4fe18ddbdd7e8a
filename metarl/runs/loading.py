"""Functions that load and validate the configuration and the checkpoints of a run."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch

from metarl.runs import checkpoint
from metarl.runs.config import NEUTRAL, Kind, RunConfig, from_json, to_json
from metarl.runs.folder import Run


Result = TypeVar("Result")


def read_config(kind: type[Kind], run: Run) -> Kind:
    """Load and validate the configuration of a run.

    Args:
        kind: Configuration dataclass of the experiment.
        run: The run.

    Raises:
        ValueError: If config.json is damaged or was written by a different version.
    """
    return from_json(kind, run.read_config()["config"], run.folder / "config.json")


def load_checkpoint(
    run: Run, config: Kind, iteration: int, *, device: torch.device | str = "cpu"
) -> checkpoint.Checkpoint:
    """Load a checkpoint and check that it matches the run.

    The configuration in the checkpoint must equal `config`, except for the
    number of iterations, the folders of the data and the encoder, and the settings in
    :data:`~metarl.runs.config.NEUTRAL`. Missing fields have their default
    values.

    Args:
        run: The run.
        config: Configuration of the run.
        iteration: Iteration of the checkpoint.
        device: Device of the loaded tensors.

    Raises:
        ValueError: If the checkpoint is damaged, was renamed, or was copied from a different run.

    Example::

        run = Run.open(Path("runs/quick"))
        config = metarl.experiments.experiment_of(run).config
        saved = load_checkpoint(run, config, run.choose_checkpoint(None))
    """
    path = run.checkpoint_path(iteration)
    saved = checkpoint.load(path, device=device)
    current, stored = to_json(config), to_json(from_json(type(config), saved.config, path))
    changed = {name for name in current if current[name] != stored[name]}
    different = sorted(changed - NEUTRAL - {"iterations", "data_root", "encoder"})
    if saved.iteration != iteration or different:
        raise ValueError(
            f"{path} does not match this run: it was written at iteration {saved.iteration}"
            + (f" and differs from config.json in {different}" if different else "")
            + ". Restore the file from a backup"
        )
    return saved


def despite_pruning(run: Run, read: Callable[[], Result]) -> Result:
    """Call a function that reads checkpoints; repeat it if a checkpoint was deleted meanwhile.

    With ``keep_checkpoints``, an active run deletes old checkpoints.

    Args:
        run: The run.
        read: Function that chooses checkpoints of the run and reads them.

    Returns:
        The result of `read`.
    """
    while True:
        before = run.checkpoints()
        try:
            return read()
        except (ValueError, OSError):
            if set(before) <= set(run.checkpoints()):  # nothing was deleted
                raise


def read_chosen(
    run: Run, checkpoint: int | None, read: Callable[[Run, int], Result]
) -> tuple[int, Result]:
    """Read a checkpoint of a run, which may be active.

    Args:
        run: The run.
        checkpoint: Iteration of the checkpoint; None for the last checkpoint.
        read: Function of the run and an iteration, such as ``experiment.read``.

    Returns:
        The iteration of the checkpoint, and the result of `read`.

    Raises:
        ValueError: If the run has no such checkpoint.
    """

    def attempt() -> tuple[int, Result]:
        chosen = run.choose_checkpoint(checkpoint)
        return chosen, read(run, chosen)

    return despite_pruning(run, attempt)


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if an active run has just deleted the file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def require_plausible_size(run: Run, config: RunConfig) -> None:
    """Raise a ValueError if the configured network is much larger than the checkpoints.

    A damaged or hostile configuration could declare a network that is too
    large for the memory. Networks are built before their parameters are
    compared with those of a checkpoint.

    Args:
        run: The run.
        config: Configuration of the run.

    Raises:
        ValueError: If the number of parameters exceeds both 2**24 and the number of bytes in the
            largest checkpoint.
    """
    widths = (getattr(config, "context_size", 0), *config.widths, 1)
    elements = sum(math.prod(pair) for pair in pairwise(widths))
    files = (run.folder / "checkpoints").glob("[0-9]*")
    if elements > max(2**24, *map(_size, files), 0):
        raise ValueError(
            f"{run.folder / 'config.json'} declares a network with at least {elements} parameters, "
            "more than the checkpoints contain. Restore the file from a backup"
        )
