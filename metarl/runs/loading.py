"""Loading a run: its configuration, and its parameters at one checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, cast

import torch

from metarl.core.types import MetaParams
from metarl.runs import checkpoint
from metarl.runs.config import NEUTRAL, Kind, from_json, to_json
from metarl.runs.folder import Run
from metarl.util.device import resolve_device


@dataclass(frozen=True)
class Loaded(Generic[Kind]):
    """A run as it was at one checkpoint, its parameters on the device of `config`."""

    run: Run
    config: Kind
    iteration: int
    params: MetaParams


def load(
    kind: type[Kind], folder: Path, *, iteration: int | None = None, device: str = "auto"
) -> Loaded[Kind]:
    """Open a run at a checkpoint, by default the last.

    Args:
        kind: The configuration dataclass of the experiment.
        folder: The run folder.
        iteration: Which checkpoint; 0 is the initialization.
        device: Where to put the parameters: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If there is no such checkpoint, or it is damaged.
    """
    run = Run.open(folder)
    config = replace(read_config(kind, run), device=cast(Any, device))
    chosen = run.choose_checkpoint(iteration)
    place = resolve_device(device)
    try:
        saved = load_checkpoint(run, config, chosen, device=place)
    except ValueError as error:
        found = run.checkpoints()
        raise ValueError(f"{error}; choose another with --checkpoint: {found}") from None
    return Loaded(run, config, chosen, saved.params)


def read_config(kind: type[Kind], run: Run) -> Kind:
    """Read the configuration of a run.

    Raises:
        ValueError: If config.json is damaged, or of another version or experiment.
    """
    return from_json(kind, run.read_config()["config"], run.folder)


def load_checkpoint(
    run: Run, config: Kind, iteration: int, *, device: torch.device | str = "cpu"
) -> checkpoint.Checkpoint:
    """Read a checkpoint and make sure that it belongs to this run.

    Both configurations are compared as read, so that what both lack takes the same default, and
    what config.json alone has lost is found out.

    Raises:
        ValueError: If it is damaged, or was renamed or copied from elsewhere.
    """
    path = run.checkpoint_path(iteration)
    saved = checkpoint.load(path, device=device)
    mine = to_json(config)
    theirs = to_json(from_json(type(config), saved.config, run.folder, source=path))
    different = {name for name in mine if mine[name] != theirs[name]} - NEUTRAL - {"iterations"}
    if saved.iteration != iteration or different:
        raise ValueError(
            f"{path} belongs to another run or iteration: it is of iteration {saved.iteration}"
            + (f" and differs from config.json in {sorted(different)}" if different else "")
        )
    return saved
