"""Reading a run: its configuration, and a checkpoint that belongs to it."""

import torch

from metarl.runs import checkpoint
from metarl.runs.config import NEUTRAL, Kind, from_json, to_json
from metarl.runs.folder import Run


def read_config(kind: type[Kind], run: Run) -> Kind:
    """Read the configuration of a run.

    Raises:
        ValueError: If config.json is damaged, or written by a different version.
    """
    return from_json(kind, run.read_config()["config"], run.folder / "config.json")


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
    mine, theirs = to_json(config), to_json(from_json(type(config), saved.config, path))
    different = {name for name in mine if mine[name] != theirs[name]} - NEUTRAL - {"iterations"}
    if saved.iteration != iteration or different:
        raise ValueError(
            f"{path} does not match this run: it was written at iteration {saved.iteration}"
            + (f" and differs from config.json in {sorted(different)}" if different else "")
        )
    return saved
