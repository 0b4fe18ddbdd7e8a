"""What every supervised experiment has in common: training and validation."""

from abc import abstractmethod
from functools import cached_property
from typing import TypeVar

import torch

from metarl.core import tree
from metarl.core.seeding import torch_generator
from metarl.core.speed import processes
from metarl.core.types import MetaLearner, MetaState, Metrics, Task
from metarl.experiment import Experiment
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts
from metarl.runs.card import Subject
from metarl.supervised.evaluate import adaptation_curves
from metarl.supervised.methods import METHODS
from metarl.supervised.model import Tasks


Config = TypeVar("Config", bound=SupervisedConfig)


class SupervisedTraining(Experiment[Config]):
    """Few-shot learning from data: a family of tasks, a network, and how it adapts."""

    def __init__(self, config: Config) -> None:
        super().__init__(self.complete(config))

    @staticmethod
    @abstractmethod
    def complete(config: Config) -> Config:
        """Fill in the settings that are None."""

    @cached_property
    @abstractmethod
    def parts(self) -> Parts:
        """The model, its learner, and what draws its tasks."""

    def init(self) -> MetaState:
        """Return the initial network and the outer optimizer's state."""
        return self.parts.init()

    def draw(self, state: MetaState, iteration: int) -> tuple[Tasks, Metrics]:
        """Draw this process's tasks of a meta-batch; every process draws them all."""
        del state
        generator = torch_generator(self.config.seed, iteration, "tasks", device=self.device)
        return share_of(self.parts.draw(self.config.num_tasks or 1, generator)), {}

    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-update of an iteration."""
        return self.parts.learner(iteration)

    def validate(self, state: MetaState) -> Metrics:
        """Measure on validation tasks, the same at every checkpoint, after the last inner step."""
        curves = adaptation_curves(
            self.parts.model,
            self.parts.test_loop,
            [state.params],
            self.parts.evaluated["validation"],
            num_tasks=self.config.validation_tasks or 1,
            generator=torch_generator(self.config.seed, 0, "validation", device=self.device),
            chunk_size=self.parts.chunk_size,
        )
        return {f"validation/{n}": torch.tensor(curves.mean(n)[-1]) for n in curves.values}

    def subject(self, data: str, family: str) -> Subject:
        """Return the method and its paper, for :meth:`describe`."""
        method = self.config.method
        return Subject(method, METHODS[method].paper, data, family, False, "plot")


def share_of(tasks: Tasks) -> Tasks:
    """Return the tasks of this process; every one draws them all, so that they are the same."""
    if isinstance(tasks, Task):
        return processes.share(len(tree.leaves(tasks)[0])).of_batch(tasks)
    return processes.share(len(tasks)).of_list(tasks)
