"""The experiment: all that the commands need of a configuration, and the only training loop.

Every command is written once against :class:`Experiment`. What differs between experiments (their
tasks, their learner, the flags and tables of an evaluation, their pictures) is a method or a value
of the experiment.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
import tyro

from metarl.core import MetaLearner, MetaParams, Metrics
from metarl.runs import (
    Journal,
    Run,
    RunConfig,
    Subject,
    checkpoint,
    load_checkpoint,
    require_tracker,
    to_json,
    unset,
)
from metarl.util import Ranged, Table, at_least, resolve_device


Config = TypeVar("Config", bound=RunConfig)
State: TypeAlias = Any
"""A :class:`~metarl.core.types.MetaState`; of Stable-Baselines3 its model."""
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Evaluation(Ranged):
    """Evaluate a run on test tasks. The other flags depend on the run: metarl evaluate RUN --help.

    An experiment adds its own fields.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed of the tasks and of all other random numbers."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint; 0 is the initialization."""
    device: Device = "auto"
    """Device of the parameters."""


@dataclass(frozen=True)
class Rendering(Ranged):
    """Show policies of one or more runs, side by side, as a picture or a video."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders with the same environment; each is one row."""
    out: Path
    """Output file: an image (.png, .pdf, .svg) or a video (.mp4, .gif)."""
    task: Annotated[str | None, unset("that of the run, or test tasks")] = None
    """Task as JSON, such as '{"direction": -1}'."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed of tasks and episodes."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint; 0 is the untrained policy."""
    device: Device = "auto"
    """Device of the policy."""


def best_rate(
    title: str, measure: str, rates: Sequence[float], results: Any, *, least: bool = False
) -> tuple[float, Table]:
    """Return the step size with the largest (or least) result, and a table of all results.

    Raises a ValueError if no result is finite.
    """
    if not np.isfinite(results).any():
        raise ValueError(f"every step size of {tuple(rates)} diverges; take fewer steps")
    rows = [[f"{rate:g}", f"{result:.4g}"] for rate, result in zip(rates, results, strict=True)]
    best = (np.nanargmin if least else np.nanargmax)(results)
    return rates[int(best)], Table(title, ["inner lr", measure], rows)


class Report(NamedTuple):
    """The result of an evaluation.

    Attributes:
        name: The settings that distinguish two evaluations of one checkpoint, for the file name.
        values: What is written, ``mean`` and ``interval95`` by step among it.
        tables: What is printed; the title of the last follows the run and the iteration.
    """

    name: str
    values: dict[str, Any]
    tables: list[Table]


class Experiment(ABC, Generic[Config]):
    """A configuration turned into values.

    Constructing one is cheap: environments, data and networks are built when they are first needed.

    Args:
        config: The settings of the run.
    """

    settings: ClassVar[Any]
    """The configuration dataclass; of meta-RL a function that returns a method's."""
    evaluation: ClassVar[type[Evaluation]]
    """Flags of ``metarl evaluate``."""
    rendering: ClassVar[type[Rendering]] = Rendering
    """Flags of ``metarl render``."""
    quick: ClassVar[tuple[str, ...]] = ("--num-tasks", "20")
    """Flags of an evaluation that does not hold up the training."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that ``metarl train`` uses."""

    @cached_property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return resolve_device(self.config.device)

    def changed(self, **settings: Any) -> "Experiment[Config]":
        """Return the same experiment with other settings."""
        return type(self)(replace(self.config, **settings))

    def prepare(self) -> dict[str, float]:
        """Fail early if something that training needs is missing, before there is a run folder.

        It also replaces settings that depend on the machine or the data by their values.

        Returns:
            The metrics of iteration 0; empty for most experiments.
        """
        self.config = replace(self.config, device=self.device.type)  # type: ignore[arg-type]
        return {}

    @abstractmethod
    def init(self) -> State:
        """Return the state before the first iteration."""

    @abstractmethod
    def draw(self, state: State, iteration: int) -> tuple[Any, Metrics]:
        """Draw the meta-batch of an iteration; policies collect it with the current parameters.

        All randomness comes from the seed and the iteration.

        Returns:
            The tasks, and metrics collected on the way.
        """

    @abstractmethod
    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-update of an iteration, from 1; schedules make it change."""

    def validate(self, state: State) -> Metrics:
        """Return metrics of validation tasks, measured at checkpoints; empty for most."""
        del state
        return {}

    def save(self, run: Run, iteration: int, state: State) -> None:
        """Write a checkpoint."""
        config = to_json(self.config)
        checkpoint.save(run.checkpoint_path(iteration), state, iteration=iteration, config=config)

    def restore(self, run: Run, iteration: int) -> State:
        """Return the state of a checkpoint, to train on.

        Raises:
            ValueError: If the checkpoint is damaged or does not match the run's configuration.
        """
        saved = load_checkpoint(run, self.config, iteration, device=self.device)
        return checkpoint.restore(self.init(), saved)

    def read(self, run: Run, iteration: int) -> MetaParams:
        """Return the parameters of a checkpoint; nothing is built.

        Raises:
            ValueError: If the checkpoint is damaged or belongs to a different run.
        """
        try:
            return load_checkpoint(run, self.config, iteration, device=self.device).params
        except ValueError as error:
            raise ValueError(f"{error}; choose another `checkpoint`: {run.checkpoints()}") from None

    def copy(self, run: Run, iteration: int, new: Run, config: RunConfig) -> None:
        """Copy the tensors of a checkpoint into a run with another configuration."""
        saved = load_checkpoint(run, self.config, iteration)
        path = new.checkpoint_path(iteration)
        checkpoint.write(path, saved._replace(config=to_json(config)))

    def require_fitting(self, params: MetaParams) -> None:
        """Make sure that parameters match the run's configuration.

        Raises:
            ValueError: If a name, shape or type differs, as when another version wrote them.
        """
        for mine, theirs in zip(self.init().params, params, strict=True):
            checkpoint.require_same_tensors(mine, theirs)

    def asked(self, options: Any) -> "Experiment[Config]":
        """Return the experiment with the settings that an evaluation replaces."""
        del options
        return self

    def chosen(self, run: Run, options: Any) -> list[int]:
        """Return the iterations of the checkpoints that an evaluation uses."""
        return [run.choose_checkpoint(options.checkpoint)]

    @abstractmethod
    def evaluate(self, metas: Sequence[MetaParams], options: Any) -> Report:
        """Adapt to test tasks and report the results after 0, 1, ..., K steps.

        Args:
            metas: Parameters of the checkpoints of :meth:`chosen`.
            options: The flags, of type :attr:`evaluation`.
        """

    @abstractmethod
    def describe(self) -> Subject:
        """Return what the run is about, for model cards and tables."""

    def model(self, params: MetaParams, **options: Any) -> Any:
        """Return the trained model, ready to adapt.

        Raises:
            ValueError: If there is nothing to adapt in Python.
        """
        run = f"a run of `metarl train {self.name}`"
        raise ValueError(f"{run} has no policy that adapts; see it with `metarl evaluate RUN`")

    def draw_adaptation(
        self, shown: Sequence["Experiment[Any]"], metas: Sequence[MetaParams], options: Any
    ) -> None:
        """Draw policies before and after adaptation, one row per run.

        Args:
            shown: Experiments of the runs, this one first.
            metas: Parameters of each.
            options: The flags, of type :attr:`rendering`.

        Raises:
            ValueError: If the run has no policy.
        """
        run = f"a run of `metarl train {self.name}`"
        raise ValueError(f"{run} has no policy; see it with `metarl plot RUN --out FILE.png`")

    def examples(self, run: Run) -> Sequence[Any]:
        """Return adapted functions to plot next to the learning curves of a run; empty for most."""
        del run
        return ()


def start(experiment: Experiment[Any], out: Path) -> None:
    """Make a run folder, save the initialization, and train.

    Args:
        experiment: The experiment.
        out: The run folder; it must not exist, or be empty.
    """
    require_tracker(experiment.config.track)
    first, state = experiment.prepare(), experiment.init()
    with Run.create(out, experiment.name, to_json(experiment.config)) as run:
        begin(experiment, run, state, first)
        train(experiment, run, state, start=0)


def begin(experiment: Experiment[Any], run: Run, state: State, first: dict[str, float]) -> None:
    """Write iteration 0: its metrics, if there are any, and the initialization."""
    if first and not run.metrics():  # a process may have died after this line
        run.log(0, first)
    experiment.save(run, 0, state)


def train(experiment: Experiment[Any], run: Run, state: State, *, start: int) -> None:
    """Train from iteration `start` + 1 on."""
    with Journal(run, experiment.config, start=start, save=experiment.save) as journal:
        for iteration in journal.iterations():
            tasks, collected = experiment.draw(state, iteration)
            journal.collected()
            state, updated = experiment.learner(iteration).step(state, tasks)
            if journal.checkpoint_is_due(iteration):
                updated = updated | experiment.validate(state)
            journal.write(iteration, state, collected | updated)
