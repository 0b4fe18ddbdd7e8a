"""Configurations of runs: frozen dataclasses that are validated, saved and loaded as JSON."""

import json
import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from metarl.util import Conflicts, Ranged, at_least


def unset(meaning: str) -> Any:
    """Return an annotation for a field that describes the default None or () in ``--help``.

    Args:
        meaning: Description of the behavior at this default, such as ``"all"``.

    Returns:
        Metadata for :data:`typing.Annotated`.

    Example::

        keep: Annotated[int | None, unset("all")] = None  # help: (default: all)
    """
    return tyro.conf.arg(
        help_behavior_hint=lambda value: f"(default: {meaning if value in ('None', '') else value})"
    )


@dataclass(frozen=True)
class RunConfig(Ranged):
    """The settings that all experiments share; experiments add settings in a subclass.

    The default of a new field must keep the behavior of older versions,
    because configurations without the field are loaded with this default.

    Example::

        RunConfig(iterations=500, seed=1, checkpoint_every=50)
        RunConfig(seed=-1)  # ValueError: `seed` must be at least 0, got -1
    """

    iterations: Annotated[int, at_least(1)] = 100
    """Number of meta-updates to train for."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed for all random number generators."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the parameters; auto uses a GPU if available and the CPU otherwise."""
    checkpoint_every: Annotated[int, at_least(1)] = 10
    """Number of iterations between checkpoints; must be a multiple of --log-every."""
    keep_checkpoints: Annotated[int | None, at_least(1), unset("all")] = None
    """Number of most recent checkpoints to keep; the initialization is always kept."""
    log_every: Annotated[int, at_least(1)] = 1
    """Number of iterations between lines of metrics.jsonl. A line contains
    the means of the metrics since the previous line."""
    track: Literal["none", "tensorboard", "wandb"] = "none"
    """Experiment tracker that receives metrics, figures and videos. Metrics are
    always written to metrics.jsonl, too."""
    media_every: Annotated[int | None, at_least(1), unset("never")] = None
    """Number of iterations after which figures of the learning curves and, for
    policies, of episodes before and after adaptation are created. The figures
    are created at the next checkpoint and saved in the folder media/ of the run."""
    media_format: Literal["png", "gif"] = "png"
    """Format in which --media-every draws episodes: png for an image, gif for a video."""

    group: ClassVar[str] = "run"
    """Heading above the settings of this class in ``--help``."""
    scheduled: ClassVar[dict[str, Any]] = {}
    """Values that disable the schedules that depend on `iterations`, by name of the setting."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of units in consecutive layers of the network, used to detect damaged files."""
        memory = getattr(self, "memory", 1)  # a recurrent cell has memory² weights per gate
        return (*(getattr(self, "hidden", None) or ()), memory, memory)

    def filled(self) -> Any:
        """Return the configuration with all defaults that depend on other settings filled in."""
        return self

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        every = self.checkpoint_every
        error = f"checkpoint_every must be a multiple of log_every={self.log_every}, got {every}"
        return [(every % self.log_every, error)]


Kind = TypeVar("Kind", bound=RunConfig)
NEUTRAL = frozenset({
    "device", "track", "checkpoint_every", "keep_checkpoints", "media_every", "media_format",
    "info", "worker_timeout",
})  # fmt: skip
"""Settings that do not affect the training result."""


def to_json(config: RunConfig) -> dict[str, Any]:
    """Return the fields of the configuration `config` as JSON values, by field name.

    Example::

        to_json(RunConfig(seed=1))["seed"]  # 1
    """
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def from_json(kind: type[Kind], values: Any, source: Path) -> Kind:
    """Build a configuration from JSON values, with the defaults for missing fields.

    Args:
        kind: Configuration dataclass of the experiment.
        values: Fields as JSON values.
        source: File with the values, for error messages.

    Raises:
        ValueError: If a field is unknown or has an invalid value.
    """
    if not isinstance(values, dict):
        got = str(values)[:60]
        raise ValueError(
            f"{source} is damaged: `config` must be a JSON object, got {got!r}. Restore the file "
            "from a backup"
        )
    if unknown := sorted(set(values) - set(kind.__dataclass_fields__)):
        raise ValueError(
            f"{source} has unknown fields {unknown}. Use the version of metarl that wrote the file"
        )
    try:
        types = get_type_hints(kind)
        return kind(**{name: _read(name, types[name], value) for name, value in values.items()})
    except (ValueError, OverflowError) as error:  # OverflowError: an integer too large for float
        raise ValueError(f"{source} is damaged: {error}. Restore the file from a backup") from None


def _read(name: str, kind: Any, value: Any) -> Any:
    """Convert the JSON value of field `name` to `kind`, such as a list to a tuple or 1 to 1.0."""
    options = (kind,) if get_origin(kind) in (None, tuple, Literal) else get_args(kind)
    for option in options:
        origin, inner = get_origin(option), get_args(option)
        if origin is tuple and isinstance(value, list):  # tuple[T, ...]
            return tuple(_read(name, inner[0], item) for item in value)
        if origin is Literal and any(type(value) is type(c) and value == c for c in inner):
            return value
        if (option, type(value)) in ((Path, str), (float, int)):
            return option(value)
        if type(value) is option:
            return value
    text = " or ".join(str(getattr(o, "__name__", o) if not get_args(o) else o) for o in options)
    raise ValueError(f"`{name}` must be {text.replace('typing.', '')}, got {value!r}")


def command() -> str:
    """Return the command line of this process, quoted for a shell.

    Example::

        command()  # such as 'metarl evaluate runs/quick'
    """
    return shlex.join(["metarl", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions, by name, of Python and the packages that affect results.

    Example::

        versions()["torch"]  # such as "2.9.1"
    """
    packages = ("metarl-torch", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
