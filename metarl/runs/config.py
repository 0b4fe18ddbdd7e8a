"""Configurations: frozen dataclasses whose fields are flags, checked when made and when read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from metarl.util import Conflicts, Ranged, at_least


@dataclass(frozen=True)
class RunConfig(Ranged):
    """What every run is given, whatever it trains; an experiment adds its own fields.

    A field that is added later needs a default that does what was done before: configurations
    written without it are read with the default.
    """

    iterations: Annotated[int, at_least(1)] = 100
    """Meta-updates."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the parameters live."""
    checkpoint_every: Annotated[int, at_least(1)] = 10
    """Iterations between checkpoints."""
    keep_checkpoints: Annotated[int | None, at_least(1)] = None
    """Keep so many checkpoints, the newest, and the initialization; by default all."""
    log_every: Annotated[int, at_least(1)] = 1
    """Iterations that one line of metrics.jsonl averages."""
    track: Literal["none", "tensorboard", "wandb"] = "none"
    """Also send metrics to a tracker."""
    media_every: Annotated[int | None, at_least(1)] = None
    """Every so many iterations, or at the next checkpoint, evaluate on a few test tasks and draw
    media/ITERATION-curves.png and, of a policy before and after adaptation, ITERATION-adaptation;
    a tracker gets them too. By default never."""
    media_format: Literal["png", "gif"] = "png"
    """What shows a policy: a picture, or a video."""

    scheduled: ClassVar[dict[str, Any]] = {}
    """Settings that depend on the number of iterations, and the values with which they do not."""

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
