"""The base class of experiments, and the training loop that all experiments share.

Every command is implemented once, with the interface of :class:`Experiment`. Subclasses define the
tasks, the meta-learner, the flags and tables of an evaluation, and the figures.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias, TypeVar

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
"""Training state: a :class:`~metarl.core.types.MetaState`, or a model of Stable-Baselines3."""
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Evaluation(Ranged):
    """Evaluate a run on test tasks.

    Most flags depend on the experiment: `metarl evaluate RUN --help` lists the flags of a run.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed of the test tasks and of all other random numbers."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint; 0 is the initialization."""
    device: Device = "auto"
    """Device of the parameters."""


@dataclass(frozen=True)
class Rendering(Ranged):
    """Render the policies of one or more runs, side by side, as an image or a video."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders with the same environment; each run is one row of the figure."""
    out: Path
    """Output file: an image (.png, .pdf, .svg) or a video (.mp4, .gif)."""
    task: Annotated[str | None, unset("the task of the run, or test tasks")] = None
    """Task as JSON, such as '{"direction": -1}'."""
    seed: Annotated[int, at_least(0)] = 1
    """Seed of the test tasks and the episodes."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint; 0 is the untrained policy."""
    device: Device = "auto"
    """Device of the policy."""


class Report(NamedTuple):
    """The result of an evaluation.

    Attributes:
        name: File name, made of the settings that distinguish evaluations of one checkpoint.
        values: JSON values for the evaluation's file, with ``mean`` and ``interval95`` after each
            adaptation step.
        tables: Tables to print. The command adds the run and the iteration to the last title.
    """

    name: str
    values: dict[str, Any]
    tables: list[Table]


class Experiment(ABC, Generic[Config]):
    """The base class of experiments: it trains, evaluates and renders one configuration.

    The constructor is cheap: environments, data and networks are built on first use.

    Args:
        config: The settings of the run.
    """

    settings: ClassVar[Any]
    """Configuration dataclass; meta-RL has a function that maps a method to its dataclass."""
    evaluation: ClassVar[type[Evaluation]]
    """Dataclass with the flags of ``metarl evaluate``."""
    rendering: ClassVar[type[Rendering]] = Rendering
    """Dataclass with the flags of ``metarl render``."""
    quick: ClassVar[tuple[str, ...]] = ("--num-tasks", "20")
    """Flags of the short evaluations during training (``--media-every``)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the experiment in ``metarl train NAME``."""

    @cached_property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return resolve_device(self.config.device)

    def changed(self, **settings: Any) -> "Experiment[Config]":
        """Return a copy of the experiment in which some settings have new values."""
        return type(self)(replace(self.config, **settings))

    def prepare(self) -> dict[str, float]:
        """Check the requirements of training, before the run folder is created.

        The method also fills in settings that depend on the machine or the data.

        Returns:
            Metrics of iteration 0; empty for most experiments.
        """
        self.config = replace(self.config, device=self.device.type)  # type: ignore[arg-type]
        return {}

    @abstractmethod
    def init(self) -> State:
        """Return the training state before the first iteration."""

    @abstractmethod
    def draw(self, state: State, iteration: int) -> tuple[Any, Metrics]:
        """Sample the meta-batch of an iteration.

        In meta-RL, the current policy collects the episodes. All random numbers depend only on the
        seed and the iteration.

        Returns:
            The meta-batch, and metrics collected while sampling.
        """

    @abstractmethod
    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-learner of an iteration, counted from 1, with its scheduled settings."""

    def validate(self, state: State) -> Metrics:
        """Return metrics on validation tasks at a checkpoint; empty for most experiments."""
        del state
        return {}

    def save(self, run: Run, iteration: int, state: State) -> None:
        """Write the checkpoint of an iteration to the run folder."""
        config = to_json(self.config)
        checkpoint.save(run.checkpoint_path(iteration), state, iteration=iteration, config=config)

    def restore(self, run: Run, iteration: int) -> State:
        """Load the training state of a checkpoint, to resume training.

        Raises:
            ValueError: If the checkpoint is damaged or does not match the run's configuration.
        """
        saved = load_checkpoint(run, self.config, iteration, device=self.device)
        return checkpoint.restore(self.init(), saved)

    def read(self, run: Run, iteration: int) -> MetaParams:
        """Load the meta-parameters of a checkpoint without building the model.

        Raises:
            ValueError: If the checkpoint is damaged or belongs to a different run.
        """
        try:
            return load_checkpoint(run, self.config, iteration, device=self.device).params
        except ValueError as error:
            raise ValueError(f"{error}. Choose a `checkpoint` of {run.checkpoints()}") from None

    def copy(self, run: Run, iteration: int, new: Run, config: RunConfig) -> None:
        """Copy the tensors of a checkpoint to a new run.

        Args:
            run: The run to copy from.
            iteration: Iteration of the checkpoint.
            new: The run to copy to.
            config: The configuration of the new run.
        """
        saved = load_checkpoint(run, self.config, iteration)
        path = new.checkpoint_path(iteration)
        checkpoint.write(path, saved._replace(config=to_json(config)))

    def require_matching(self, params: MetaParams) -> None:
        """Raise a ValueError if a parameter does not match the configuration.

        This can happen if a different version of the package wrote the checkpoint.
        """
        for mine, theirs in zip(self.init().params, params, strict=True):
            checkpoint.require_same_tensors(mine, theirs)

    def with_options(self, options: Any) -> "Experiment[Config]":
        """Return the experiment with the settings that the options of an evaluation override."""
        del options
        return self

    def checkpoints_for(self, run: Run, options: Any) -> list[int]:
        """Return the iterations of the checkpoints that the options of an evaluation select."""
        return [run.choose_checkpoint(options.checkpoint)]

    @abstractmethod
    def evaluate(self, metas: Sequence[MetaParams], options: Any) -> Report:
        """Adapt to test tasks and report the results after 0, 1, ..., K steps.

        Args:
            metas: Meta-parameters of the checkpoints that :meth:`checkpoints_for` returns.
            options: The flags, an instance of :attr:`evaluation`.
        """

    @abstractmethod
    def describe(self) -> Subject:
        """Return the method, paper and data of the run, for model cards and tables."""

    def model(self, params: MetaParams, **options: Any) -> Any:
        """Return the trained model, ready to adapt.

        Raises:
            ValueError: If the experiment has no policy that adapts.
        """
        run = f"a run of `metarl train {self.name}`"
        raise ValueError(f"{run} has no policy that adapts. Use `metarl evaluate RUN` instead")

    def draw_adaptation(
        self, experiments: Sequence["Experiment[Any]"], metas: Sequence[MetaParams], options: Any
    ) -> None:
        """Render policies before and after adaptation, one row per run.

        Args:
            experiments: Experiments of the runs, starting with this one.
            metas: Meta-parameters of each run.
            options: The flags, an instance of :attr:`rendering`.

        Raises:
            ValueError: If the run has no policy.
        """
        run = f"a run of `metarl train {self.name}`"
        raise ValueError(f"{run} has no policy. Use `metarl plot RUN --out FILE.png` instead")

    def examples(self, run: Run) -> Sequence[Any]:
        """Return adapted functions to plot next to the learning curves.

        Regression returns the fits of a few test tasks; other experiments return an empty list.
        """
        del run
        return ()


def start(experiment: Experiment[Any], out: Path) -> None:
    """Create a run folder, save the initialization, and train.

    Args:
        experiment: The experiment to train.
        out: The run folder, which must be empty or not exist.
    """
    require_tracker(experiment.config.track)
    first, state = experiment.prepare(), experiment.init()
    with Run.create(out, experiment.name, to_json(experiment.config)) as run:
        begin(experiment, run, state, first)
        train(experiment, run, state, start=0)


def begin(experiment: Experiment[Any], run: Run, state: State, first: dict[str, float]) -> None:
    """Write the metrics of iteration 0, if there are any, and the checkpoint of iteration 0."""
    if first and not run.metrics():  # an interrupted run may already contain them
        run.log(0, first)
    experiment.save(run, 0, state)


def train(experiment: Experiment[Any], run: Run, state: State, *, start: int) -> None:
    """Train from iteration ``start + 1`` to the last iteration of the configuration."""
    with Journal(run, experiment.config, start=start, save=experiment.save) as journal:
        for iteration in journal.iterations():
            tasks, collected = experiment.draw(state, iteration)
            journal.collected()
            state, updated = experiment.learner(iteration).step(state, tasks)
            if journal.checkpoint_is_due(iteration):
                updated = updated | experiment.validate(state)
            journal.write(iteration, state, collected | updated)
