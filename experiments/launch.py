"""Starting a run, whatever it trains, and finding the experiment of a run folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch

from metarl.core.types import MetaParams, MetaState
from metarl.experiment import SUPERVISED
from metarl.experiments import experiments
from metarl.runs import checkpoint
from metarl.runs.config import RunConfig, to_json
from metarl.runs.folder import Run
from metarl.runs.trackers import require_tracker


@runtime_checkable
class Startable(Protocol):
    """The parts of an experiment, as far as starting one needs to know them."""

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""

    def init(self) -> MetaState:
        """Return the state before the first iteration."""


@runtime_checkable
class Experiment(Protocol):
    """The module of an experiment: its file defines these functions."""

    def build(self, config: Any, **options: Any) -> Any:
        """Build the parts of a run; of a policy, also for other numbers of tasks and episodes."""

    def train(self, config: Any, parts: Any, run: Run, state: MetaState, *, start: int) -> None:
        """Train from iteration `start` + 1 on."""


def launch(name: str, config: RunConfig, parts: Startable, module: Experiment) -> None:
    """Make the run folder, save the initialization, and train.

    Args:
        name: The experiment, as ``metarl train`` knows it.
        config: Its settings.
        parts: What they mean; built before, so that an impossible setting leaves no folder behind.
        module: The experiment's own module, whose `train` is called.
    """
    require_tracker(config.track)
    # What "auto" meant is part of the run: the generators of devices differ.
    config = replace(config, device=cast(Any, parts.device.type))
    with Run.create(config.out, name, to_json(config)) as run:
        state = parts.init()
        checkpoint.save(run.checkpoint_path(0), state, iteration=0, config=to_json(config))
        module.train(config, parts, run, state, start=0)


def experiment_of(run: Run) -> tuple[Experiment, type[RunConfig]]:
    """Return the module and the configuration class of the experiment that a run belongs to.

    Raises:
        ValueError: If this version has no such experiment.
    """
    name = run.read_config()["experiment"]
    known = experiments()
    if name not in known:
        raise ValueError(
            f"{run.folder} is of an experiment {name!r} that this version does not have; it has "
            f"{', '.join(known)}"
        )
    found: tuple[Experiment, type[RunConfig]] = known[name].load()
    return found


def copying(experiment: Experiment) -> dict[str, Any]:
    """Return how the checkpoints of an experiment are copied, where it has a format of its own."""
    own = getattr(experiment, "copy_checkpoint", None)
    return {} if own is None else {"copy_checkpoint": own}


def require_fitting(parts: Startable, params: MetaParams) -> None:
    """Make sure that the parameters of a checkpoint are such as the run's configuration means.

    Raises:
        ValueError: If they are not, as when another version wrote them.
    """
    for mine, theirs in zip(parts.init().params, params, strict=True):
        checkpoint.require_same_form(mine, theirs)


def require_policy(folder: Path) -> None:
    """Refuse a run that did not train a policy.

    Raises:
        ValueError: If it is of a supervised experiment.
    """
    name = Run.open(folder).read_config()["experiment"]
    if name in SUPERVISED:
        raise ValueError(
            f"{folder} is a run of `metarl train {name}` and has no policy; see it with "
            f"`metarl plot {folder} --out FILE.png`"
        )
