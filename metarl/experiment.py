"""The base class for experiments.

Each command, such as ``metarl train``, is implemented once on top of the :class:`Experiment`
interface. Subclasses define the tasks, the meta-learner, the evaluation flags and tables, and the
figures.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch

from metarl.core import MetaLearner, MetaParams, Metrics
from metarl.runs import (
    Run,
    RunConfig,
    Subject,
    checkpoint,
    load_checkpoint,
    to_json,
)
from metarl.runs.options import Device as Device
from metarl.runs.options import Evaluation as Evaluation
from metarl.runs.options import Rendering as Rendering
from metarl.runs.options import Report as Report
from metarl.util import resolve_device


Config = TypeVar("Config", bound=RunConfig)
State: TypeAlias = Any
"""Training state: a :class:`~metarl.core.types.MetaState`, or a Stable-Baselines3 model."""


class Experiment(ABC, Generic[Config]):
    """The base class for experiments, which train, evaluate and render one configuration.

    The constructor is cheap: environments, data and networks are built on first use.

    Args:
        config: The run configuration.

    Attributes:
        guard: Function that raises an error if the environment of the run must not be imported; by
            default, it returns None. It is called before :meth:`model` creates the environment.
    """

    settings: ClassVar[Any]
    """Configuration dataclass or, in meta-RL, a function from a method name to a dataclass."""
    evaluation: ClassVar[type[Evaluation]]
    """Dataclass that defines the flags of ``metarl evaluate``."""
    rendering: ClassVar[type[Rendering]] = Rendering
    """Dataclass that defines the flags of ``metarl render``."""
    quick: ClassVar[tuple[str, ...]] = ("--num-tasks", "20")
    """Flags for the short evaluations during training, which ``--media-every`` enables."""

    stored: Mapping[str, Any] = MappingProxyType({})
    """Entries of config.json other than the configuration, if the experiment belongs to a run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.guard: Callable[[], None] = lambda: None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the experiment, as in ``metarl train NAME``."""

    @cached_property
    def device(self) -> torch.device:
        """Torch device for the parameters, resolved from ``config.device``."""
        return resolve_device(self.config.device)

    def changed(self, **settings: Any) -> "Experiment[Config]":
        """Return a copy of the experiment with the given configuration settings replaced."""
        changed = type(self)(replace(self.config, **settings))
        changed.stored, changed.guard = self.stored, self.guard
        return changed

    def prepare(self) -> dict[str, float]:
        """Check that training can start, before the run folder is created.

        This method also fills in settings that depend on the machine or the data.

        Returns:
            Metrics to log for iteration 0; an empty dictionary for most experiments.

        Raises:
            ValueError: If training cannot start with this configuration.
        """
        self.config = replace(self.config, device=self.device.type)  # type: ignore[arg-type]
        return {}

    def entries(self) -> dict[str, Any]:
        """Return JSON values that are written to config.json when training starts.

        Most experiments return an empty dictionary.
        """
        return {}

    def add_entries(self, run: Run) -> None:
        """Add missing results of :meth:`entries` to config.json of a run from an older version."""
        about = run.read_config()
        if missing := {n: x for n, x in self.entries().items() if n not in about}:
            run.write_config(about | missing)

    @abstractmethod
    def init(self) -> State:
        """Return the training state before the first iteration."""

    @abstractmethod
    def draw(self, state: State, iteration: int) -> tuple[Any, Metrics]:
        """Sample the meta-batch for an iteration.

        All random numbers depend only on the run's seed and the iteration.

        Args:
            state: The training state. In meta-RL, the current policy collects the episodes.
            iteration: The iteration, starting at 1.

        Returns:
            The meta-batch, and metrics collected while sampling.
        """

    @abstractmethod
    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-learner for an iteration, with the scheduled settings for this iteration.

        Args:
            iteration: The iteration, starting at 1.
        """

    def validate(self, state: State) -> Metrics:
        """Return metrics on validation tasks, to be logged when a checkpoint is written.

        Most experiments return an empty dictionary.
        """
        del state
        return {}

    def save(self, run: Run, iteration: int, state: State) -> None:
        """Write the training state of an iteration to the run folder as a checkpoint."""
        config = to_json(self.config)
        checkpoint.save(run.checkpoint_path(iteration), state, iteration=iteration, config=config)

    def restore(self, run: Run, iteration: int) -> State:
        """Load the training state from a checkpoint, to resume training.

        Raises:
            ValueError: If the checkpoint is damaged or does not match the run's configuration.
        """
        saved = load_checkpoint(run, self.config, iteration, device=self.device)
        return checkpoint.restore(self.init(), saved)

    def read(self, run: Run, iteration: int) -> MetaParams:
        """Load the meta-parameters from a checkpoint without building the model.

        Raises:
            ValueError: If the checkpoint is damaged or belongs to a different run.
        """
        try:
            return load_checkpoint(run, self.config, iteration, device=self.device).params
        except ValueError as error:
            raise ValueError(
                f"{error}, or choose a different `checkpoint`: the run has checkpoints "
                f"{run.checkpoints()}"
            ) from None

    def copy(self, run: Run, iteration: int, new: Run, config: RunConfig) -> None:
        """Copy the tensors in a checkpoint to a new run.

        Args:
            run: The run to copy from.
            iteration: Iteration of the checkpoint.
            new: The run to copy to.
            config: The configuration of the new run, which is stored in the copied checkpoint.
        """
        saved = load_checkpoint(run, self.config, iteration)
        path = new.checkpoint_path(iteration)
        checkpoint.write(path, saved._replace(config=to_json(config)))

    def require_matching(self, params: MetaParams) -> None:
        """Raise a ValueError if checkpoint parameters do not match the configuration.

        Names, shapes and dtypes are compared. They can differ if a different version of metarl
        wrote the checkpoint.
        """
        for mine, theirs in zip(self.init().params, params, strict=True):
            checkpoint.require_same_tensors(mine, theirs)

    def with_options(self, options: Any) -> "Experiment[Config]":
        """Return an experiment whose settings are overridden by the evaluation flags.

        The default implementation returns the experiment itself.

        Args:
            options: The evaluation flags, an instance of :attr:`evaluation`.
        """
        del options
        return self

    def checkpoints_for(self, run: Run, options: Any) -> list[int]:
        """Return the iterations of the checkpoints that the evaluation flags select.

        Args:
            run: The run to evaluate.
            options: The evaluation flags, an instance of :attr:`evaluation`.
        """
        return [run.choose_checkpoint(options.checkpoint)]

    @abstractmethod
    def evaluate(self, metas: Sequence[MetaParams], options: Any) -> Report:
        """Adapt to test tasks, and return the results before adaptation and after each inner step.

        Args:
            metas: Meta-parameters from the checkpoints that :meth:`checkpoints_for` selects.
            options: The evaluation flags, an instance of :attr:`evaluation`.

        Returns:
            The results, which ``metarl evaluate`` prints and saves.
        """

    @abstractmethod
    def describe(self) -> Subject:
        """Return the run's method, paper and data, for model cards and tables."""

    def model(self, params: MetaParams, **options: Any) -> Any:
        """Return a model with trained meta-parameters, for :func:`metarl.load`.

        Args:
            params: Meta-parameters from a checkpoint.
            options: Further arguments of the experiment's model, such as `num_tasks` in meta-RL.

        Raises:
            ValueError: If the experiment has no model that adapts.
        """
        raise ValueError(
            f"a run of `metarl train {self.name}` has no model that adapts. Use `metarl evaluate "
            "RUN` instead"
        )

    def adapted(self, saved: Any) -> Any:
        """Build an adapted model from the contents of a file, for :func:`metarl.load_adapted`.

        Neither the data set nor the environment of the run is used.

        Args:
            saved: Contents of the model's file, a :class:`~metarl.models.saved.Saved`.

        Raises:
            ValueError: If the experiment has no model that adapts.
        """
        raise ValueError(
            f"a run of `metarl train {self.name}` has no adapted model. Use `metarl evaluate RUN` "
            "instead"
        )

    def draw_adaptation(
        self, experiments: Sequence["Experiment[Any]"], metas: Sequence[MetaParams], options: Any
    ) -> None:
        """Render policies before and after adaptation, one row per run.

        Args:
            experiments: One experiment per run, starting with this experiment.
            metas: Meta-parameters for each run.
            options: The rendering flags, such as the output file; an instance of :attr:`rendering`.

        Raises:
            ValueError: If the experiment has no policy.
        """
        raise ValueError(
            f"a run of `metarl train {self.name}` has no policy to render. Use `metarl plot RUN "
            "--out FILE.png` instead"
        )

    def examples(self, run: Run) -> Sequence[Any]:
        """Return fits to test tasks, which :func:`metarl.drawing.figure` plots in extra panels.

        Only regression returns fits; other experiments return an empty sequence.
        """
        del run
        return ()
