"""Options that the commands of all experiments share, and the result of an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import tyro

from metarl.runs.config import unset
from metarl.util import Ranged, Table, at_least


Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Evaluation(Ranged):
    """Evaluate a run on test tasks.

    Most flags depend on the experiment: run `metarl evaluate RUN --help` to
    list the flags for a run.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run to evaluate, such as runs/quick."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed for the test tasks and all other random numbers in the evaluation."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint to evaluate; 0 is the untrained initialization."""
    device: Device = "auto"
    """Device for the computation; auto selects CUDA if it is available and the CPU otherwise."""
    trust_env: bool = False
    """Import the module in the environment ID or the encoder module:function of
    a pulled run and run its code; set this flag only if you trust the module."""


@dataclass(frozen=True)
class Rendering(Ranged):
    """Render the policies from one or more runs as an image or a video, with one row per run."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs to render; all runs must use the same environment."""
    out: Path
    """Output file: an image (.png, .pdf, .svg) or a video (.mp4, .gif)."""
    task: Annotated[str | None, unset("the run's task, or test tasks")] = None
    """Task to render, as a JSON object such as '{"direction": -1}'."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed for the test tasks and the episodes."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint to render; 0 is the untrained policy."""
    device: Device = "auto"
    """Device for the policy; auto selects CUDA if it is available and the CPU otherwise."""
    trust_env: bool = False
    """Import the module in the environment ID or the encoder module:function of
    a pulled run and run its code; set this flag only if you trust the module."""


class Report(NamedTuple):
    """The result of an evaluation.

    Attributes:
        name: Part of the file name that contains the settings of the
            evaluation, so that different evaluations of a checkpoint are
            written to different files.
        values: JSON values to write to the file, including the ``mean`` and the
            half-width ``interval95`` of the 95 % confidence interval after each
            adaptation step.
        tables: Tables to print. ``metarl evaluate`` adds the run and the
            iteration to the title of the last table.
    """

    name: str
    values: dict[str, Any]
    tables: list[Table]
