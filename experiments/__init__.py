"""Experiments: settings that become an :class:`~metarl.experiment.Experiment`, and their registry.

Importing this package imports none of them.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl.rl.methods import METHODS


if TYPE_CHECKING:
    from metarl.experiment import Experiment
    from metarl.runs import Run


class Entry(NamedTuple):
    """A row of the registry.

    Attributes:
        kind: Its :class:`~metarl.experiment.Experiment`, as ``module:name`` of this package; the
            module is imported when it is first used.
        summary: One line of help.
        method: Name of the meta-RL method; None for other experiments.
    """

    kind: str
    summary: str
    method: str | None = None

    def load(self) -> tuple[Any, Any]:
        """Return the experiment's class and its configuration dataclass."""
        module, _, name = self.kind.partition(":")
        kind = getattr(importlib.import_module(f"metarl.experiments.{module}"), name)
        return kind, kind.settings(self.method) if self.method else kind.settings


OTHERS = {
    "sb3": Entry("sb3:StableBaselines", "Stable-Baselines3 on one task, or with task observed"),
    "regression": Entry("regression:SinusoidRegression", "few-shot regression of sinusoids"),
    "fewshot": Entry("fewshot:ImageClassification", "few-shot classification of images"),
    "text": Entry("text:TextClassification", "few-shot classification of sentences"),
}
"""Experiments besides the meta-RL methods, which are rows of :data:`metarl.rl.methods.METHODS`."""


def experiments() -> dict[str, Entry]:
    """Return every experiment that ``metarl train`` knows, registered methods included."""
    rows = {name: Entry("meta_rl:MetaRL", row.summary, name) for name, row in METHODS.items()}
    return rows | OTHERS


def experiment_of(run: "Run") -> "Experiment[Any]":
    """Return the experiment of a run folder, as it was trained.

    Raises:
        ValueError: If there is no such experiment, or config.json is damaged.
    """
    from metarl.runs import read_config

    name = run.read_config()["experiment"]
    known = experiments()
    if name not in known:
        raise ValueError(
            f"{run.folder} was trained with {name!r}, which is not registered: expected one of "
            f"{', '.join(known)}. Import the module that registers it first (--import MODULE)"
        )
    kind, config = known[name].load()
    experiment: Experiment[Any] = kind(read_config(config, run))
    return experiment


def settings(name: str, *, preset: str | None = None, **changed: Any) -> Any:
    """Return the configuration of an experiment: the preset's values, then the given ones.

    Args:
        name: A name of :func:`experiments`.
        preset: A name of :mod:`metarl.experiments.presets`; values without a field are left out.
        changed: Fields of the configuration.
    """
    from metarl.experiments import presets

    _, config = experiments()[name].load()
    chosen = presets.preset(preset, name) if preset else {}
    known = config.__dataclass_fields__
    return config(**{n: v for n, v in chosen.items() if n in known} | changed)


def train(name: str, out: str | Path, *, preset: str | None = None, **changed: Any) -> None:
    """Train an experiment into a new run folder, as ``metarl train`` does.

    Args:
        name: A method of meta-RL, or ``"sb3"``, ``"regression"``, ``"fewshot"`` or ``"text"``.
        out: The run folder.
        preset: Named settings to start from.
        changed: Fields of the configuration, such as ``iterations=50``.

    Raises:
        ValueError: If a setting is impossible.
        FileExistsError: If the folder contains something already.

    Example::

        metarl.train("promp", "runs/promp", preset="navigation-quick", iterations=50)
    """
    from metarl.experiment import start

    kind, _ = experiments()[name].load()
    start(kind(settings(name, preset=preset, **changed)), Path(out))
