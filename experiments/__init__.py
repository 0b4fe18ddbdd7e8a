"""Registry of the experiments that ``metarl train`` runs, and the function :func:`train`.

The modules of the experiments are imported on first use.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl.rl.methods import METHODS


if TYPE_CHECKING:
    from metarl.experiment import Experiment
    from metarl.runs import Run


class Entry(NamedTuple):
    """A registered experiment.

    Attributes:
        kind: Location ``module:name`` of the
            :class:`~metarl.experiment.Experiment` class, relative to
            ``metarl.experiments``. The module is imported on first use.
        summary: One-line description for the command-line help.
        method: Name of the meta-RL method; None for experiments that are not meta-RL.
    """

    kind: str
    summary: str
    method: str | None = None

    def load(self) -> tuple[Any, Any]:
        """Import the module; return the experiment class and the configuration dataclass."""
        module, _, name = self.kind.partition(":")
        kind = getattr(importlib.import_module(f"metarl.experiments.{module}"), name)
        return kind, kind.settings(self.method) if self.method else kind.settings


OTHERS = {
    "sb3": Entry("sb3:StableBaselines", "Stable-Baselines3 on one task or on all tasks"),
    "regression": Entry("regression:SinusoidRegression", "few-shot sinusoid regression"),
    "fewshot": Entry("fewshot:ImageClassification", "few-shot image classification"),
    "text": Entry("text:TextClassification", "few-shot sentence classification"),
}
"""Experiments other than meta-RL, by name.

The function :func:`experiments` adds one entry per meta-RL method."""


def experiments() -> dict[str, Entry]:
    """Return all experiments by name, including one for every registered meta-RL method."""
    rows = {name: Entry("meta_rl:MetaRL", row.summary, name) for name, row in METHODS.items()}
    return rows | OTHERS


def experiment_of(run: "Run") -> "Experiment[Any]":
    """Create the experiment that produced a run folder, with the settings in config.json.

    Raises:
        ValueError: If the experiment is not registered, or config.json is
            damaged or describes a network that is much larger than the
            networks in the checkpoints.
    """
    from metarl.runs.loading import read_config, require_plausible_size

    about = run.read_config()
    name = about["experiment"]
    known = experiments()
    if name not in known:
        raise ValueError(
            f"{run.folder} was trained with the experiment {name!r}, which is not registered: "
            f"expected one of {', '.join(known)}. Import the module that registers {name!r}, with "
            "--import MODULE on the command line"
        )
    kind, config = known[name].load()
    chosen = _with_data_found(read_config(config, run), run.folder)
    require_plausible_size(run, chosen)
    experiment: Experiment[Any] = kind(chosen)
    experiment.stored = about
    return experiment


def _with_data_found(config: Any, folder: "Path") -> Any:
    """Return `config` with a relative ``data_root`` resolved against a parent of the run folder.

    Older versions store ``data_root`` relative to the folder in which the run was started. A
    ``data_root`` that exists in the current folder is not changed.
    """
    root = getattr(config, "data_root", None)
    if root is None or root.is_absolute() or root.exists():
        return config
    found = (parent / root for parent in folder.resolve().parents)
    return replace(config, data_root=next(filter(Path.exists, found), root))


def settings(name: str, *, preset: str | None = None, **changed: Any) -> Any:
    """Create the configuration of an experiment from a preset and individual settings.

    Args:
        name: Name of the experiment, a key of the dictionary that :func:`experiments` returns.
        preset: Name of a preset; preset values for settings that the
            experiment does not have are ignored. Default: the default
            settings of the experiment.
        **changed: Settings that override the preset, by field name of the
            configuration dataclass.

    Returns:
        An instance of the configuration dataclass of the experiment.

    Raises:
        KeyError: If the experiment does not exist.
        TypeError: If the experiment does not have one of the settings.
        ValueError: If the preset does not exist or a value is invalid.
    """
    from metarl.experiments import presets

    _, config = experiments()[name].load()
    chosen = presets.preset(preset, name) if preset else {}
    known = config.__dataclass_fields__
    return config(**{n: v for n, v in chosen.items() if n in known} | changed)


def train(name: str, out: str | Path, *, preset: str | None = None, **changed: Any) -> None:
    """Train an experiment in a new run folder, like ``metarl train``.

    Args:
        name: Name of a meta-RL method (run ``metarl methods`` to list all
            methods), or ``"sb3"``, ``"regression"``, ``"fewshot"`` or
            ``"text"``.
        out: The run folder, which must be empty or not exist.
        preset: Name of a preset (run ``metarl train`` to list all presets).
            Default: the default settings of the experiment.
        **changed: Settings that override the preset, such as ``iterations=50``.

    Raises:
        KeyError: If the experiment does not exist.
        TypeError: If the experiment does not have one of the settings.
        ValueError: If the preset does not exist or a value is invalid.
        FileExistsError: If the folder exists and is not empty.

    Example::

        metarl.train("promp", "runs/promp", preset="navigation-quick", iterations=50)
    """
    from metarl.training import start

    kind, _ = experiments()[name].load()
    start(kind(settings(name, preset=preset, **changed)), Path(out))
