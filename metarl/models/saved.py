"""Reading and writing of adapted models as safetensors files, which contain no code."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metarl.core import MetaParams, Params
from metarl.runs import Checkpoint, RunConfig, checkpoint, to_json


class Saved(NamedTuple):
    """The contents of a file with an adapted model.

    Attributes:
        experiment: Name of the experiment, as in ``metarl train NAME``.
        config: Configuration of the run, as JSON values.
        params: Adapted parameters of the network.
        tensors: Other tensors that the model needs, such as batch-norm statistics.
        about: Other JSON values that the model needs, such as spaces or class names.
    """

    experiment: str
    config: dict[str, Any]
    params: Params
    tensors: dict[str, Tensor]
    about: dict[str, Any]


def write_adapted(
    path: str | Path,
    experiment: str,
    config: RunConfig,
    params: Params,
    *,
    tensors: dict[str, Tensor] | None = None,
    **about: Any,
) -> None:
    """Write an adapted model to a file, which :func:`read_adapted` reads.

    Args:
        path: The file to write; the parent folder is created.
        experiment: Name of the experiment, as in ``metarl train NAME``.
        config: Configuration of the run.
        params: Adapted parameters of the network.
        tensors: Other tensors that the model needs. Default: none.
        **about: Other JSON values that the model needs, such as class names.

    Raises:
        OSError: If the file cannot be written.
    """
    entries = {"experiment": experiment, "config": to_json(config), "about": about}
    contents = Checkpoint(MetaParams(dict(params), {}), {}, tensors or {}, 0, entries)
    checkpoint.write(Path(path), contents)


def read_adapted(path: str | Path, *, device: Any = "cpu") -> Saved:
    """Read a file with an adapted model.

    Args:
        path: The file.
        device: Device of the tensors.

    Raises:
        ValueError: If the file is missing, damaged or does not contain an adapted model.
    """
    contents = checkpoint.load(Path(path), device=device)
    entries = contents.config
    if entries.keys() != {"experiment", "config", "about"}:
        raise ValueError(
            f"{path} does not contain an adapted model. Use a file that an adapted model "
            "has written with `save`"
        )
    return Saved(params=contents.params.model, tensors=contents.own, **entries)
