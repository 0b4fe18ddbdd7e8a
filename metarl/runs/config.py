"""Configurations: frozen dataclasses whose fields are flags, validated when created or read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from metarl.util import Conflicts, Ranged, at_least


def unset(meaning: str) -> Any:
    """Annotate a field that may be None with the default that ``--help`` prints.

    Args:
        meaning: What None stands for, such as ``"all"``.
    """
    return tyro.conf.arg(
        help_behavior_hint=lambda value: f"(default: {meaning if value == 'None' else value})"
    )


@dataclass(frozen=True)
class RunConfig(Ranged):
    """The settings of every run; an experiment adds its own fields.

    A new field needs a default with the behavior of older versions: configurations that lack the
    field are read with its default.
    """

    iterations: Annotated[int, at_least(1)] = 100
    """Number of meta-updates."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the parameters; auto uses a GPU if there is one."""
    checkpoint_every: Annotated[int, at_least(1)] = 10
    """Iterations between checkpoints; a multiple of --log-every."""
    keep_checkpoints: Annotated[int | None, at_least(1), unset("all")] = None
    """Number of most recent checkpoints to keep; the initialization is always kept."""
    log_every: Annotated[int, at_least(1)] = 1
    """Iterations averaged in one line of metrics.jsonl."""
    track: Literal["none", "tensorboard", "wandb"] = "none"
    """Tracker that also receives the metrics."""
    media_every: Annotated[int | None, at_least(1), unset("never")] = None
    """Iterations between pictures in media/: learning curves and, for policies, episodes before and
    after adaptation on a few test tasks. They are drawn at the next checkpoint."""
    media_format: Literal["png", "gif"] = "png"
    """Format of the pictures of a policy: an image or a video."""

    group: ClassVar[str] = "run"
    """Heading of the settings in ``--help``."""
    scheduled: ClassVar[dict[str, Any]] = {}
    """Settings that depend on the number of iterations, with the values that disable them."""

    def filled(self) -> Any:
        """Return the configuration with the values of fields whose default depends on others."""
        return self

    def conflicts(self) -> Conflicts:
        """Return the combinations of settings that are errors."""
        every = self.checkpoint_every
        error = f"checkpoint_every must be a multiple of log_every={self.log_every}, got {every}"
        return [(every % self.log_every, error)]


Kind = TypeVar("Kind", bound=RunConfig)
NEUTRAL = frozenset({
    "device", "track", "checkpoint_every", "keep_checkpoints", "chunk_size", "media_every",
    "media_format",
})  # fmt: skip
"""Settings that do not change what is learned."""


def to_json(config: RunConfig) -> dict[str, Any]:
    """Return the fields of a configuration as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def from_json(kind: type[Kind], values: Any, source: Path) -> Kind:
    """Rebuild a configuration; fields that are missing take their defaults.

    Args:
        kind: The configuration dataclass of the experiment.
        values: Its fields as JSON values.
        source: The file that they were read from.

    Raises:
        ValueError: If there are unknown fields or impossible values.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} is damaged: its configuration is {str(values)[:60]!r}")
    if unknown := sorted(set(values) - set(kind.__dataclass_fields__)):
        raise ValueError(
            f"{source} has unknown fields {unknown}; it may have been written by another version"
        )
    try:
        types = get_type_hints(kind)
        return kind(**{name: _read(name, types[name], value) for name, value in values.items()})
    except (ValueError, OverflowError) as error:  # OverflowError: an integer for a float
        raise ValueError(f"{source} is damaged: {error}") from None


def _read(name: str, kind: Any, value: Any) -> Any:
    """Turn a JSON value into one of type `kind`; JSON has no tuples and may write 1 for 1.0."""
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
