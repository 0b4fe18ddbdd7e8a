"""Flags of ``metarl evaluate`` for few-shot classification and regression."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.experiment import Evaluation
from metarl.runs import unset
from metarl.supervised.methods import Start
from metarl.util import Conflicts, at_least


AS_TRAINED = unset("as in the run")


@dataclass(frozen=True)
class SupervisedEvaluation(Evaluation):
    """Adapt to test tasks as in the papers, and report loss and accuracy after every step.

    Test tasks use classes or sinusoids that training has not used.
    """

    test_steps: Annotated[
        int | None, at_least(0), tyro.conf.arg(aliases=["--inner-steps"]), AS_TRAINED
    ] = None
    """Number of inner steps."""
    num_tasks: Annotated[int, at_least(1)] = 600
    """Number of tasks."""
    tasks: Literal["test", "validation", "train"] = "test"
    """Split of the tasks."""
    num_ways: Annotated[int | None, tyro.conf.arg(aliases=["--ways"]), AS_TRAINED] = None
    """Number of classes of a task; a learned head cannot change it."""
    num_shots: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--shots"]), AS_TRAINED
    ] = None
    """Number of support examples of each class, or of support points."""
    test_queries: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--queries"]), AS_TRAINED
    ] = None
    """Number of query images of each class. With one image, as in MAML's own evaluation, a
    transductive method can exploit that classes are equally frequent."""
    bn_mode: Annotated[Literal["query", "support"] | None, AS_TRAINED] = None
    """Source of the batch statistics for query images: the query images (transductive) or the
    support images."""
    start: Annotated[Start | None, AS_TRAINED] = None
    """Initial head, for fine-tuning a pretrained run."""
    nearest_neighbor: bool = False
    """Classify by the nearest support image in feature space, without adaptation."""
    inner_lr: Annotated[float | None, at_least(0), unset("the run's inner optimizer")] = None
    """Use gradient descent with this step size."""
    tune_inner_lr: bool = False
    """Choose --inner-lr first, on 100 validation tasks: for fine-tuning a pretrained run or, with
    --checkpoint 0, a random network."""
    ensemble: Annotated[int, at_least(1)] = 1
    """Number of checkpoints whose logits are averaged: the best on validation tasks (MAML++: 5)."""
    data_root: Annotated[Path | None, AS_TRAINED] = None
    """Folder of the images, if it has moved since training."""

    def conflicts(self) -> Conflicts:
        """Return the invalid combinations of settings with their error messages."""
        adapts = ("test_steps", "inner_lr", "tune_inner_lr", "start")
        adapted = self.ensemble > 1 or any(getattr(self, name) for name in adapts)
        rated, both = self.inner_lr is not None, self.ensemble > 1 and self.checkpoint is not None
        return [
            (
                self.tune_inner_lr and rated,
                "tune_inner_lr and inner_lr are mutually exclusive; set only one of them",
            ),
            (both, "`ensemble` and `checkpoint` are mutually exclusive; set only one of them"),
            (
                self.nearest_neighbor and adapted,
                "nearest_neighbor does not adapt; remove "
                "`ensemble`, test_steps, inner_lr, tune_inner_lr, `start`",
            ),
        ]
