"""Flags of ``metarl evaluate`` for few-shot image classification and sinusoid regression."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.data import FAMILIES
from metarl.experiment import Evaluation
from metarl.runs import unset
from metarl.supervised.methods import Start
from metarl.util import Conflicts, among, at_least


AS_TRAINED = unset("value used in training")


@dataclass(frozen=True)
class SupervisedEvaluation(Evaluation):
    """Adapt to test tasks, and report the loss and accuracy on query sets after every inner step.

    Classification tasks are sampled from test classes, which were not used in
    training. Regression tasks are new sinusoids.
    """

    test_steps: Annotated[
        int | None, at_least(0), tyro.conf.arg(aliases=["--inner-steps"]), AS_TRAINED
    ] = None
    """Number of inner steps that adapt the network to each task."""
    num_tasks: Annotated[int, at_least(1)] = 600
    """Number of tasks that the results are averaged over."""
    tasks: Literal["test", "validation", "train"] = "test"
    """Split to sample the evaluation tasks from; use validation to tune settings."""
    num_ways: Annotated[int | None, tyro.conf.arg(aliases=["--ways"]), AS_TRAINED] = None
    """Number of classes per task. Runs with a learned head only support the training value."""
    num_shots: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--shots"]), AS_TRAINED
    ] = None
    """Number of support images per class, or of support points per sinusoid."""
    test_queries: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--queries"]), AS_TRAINED
    ] = None
    """Number of query images per class. With one image, as in the evaluation
    of the MAML paper, a transductive method can exploit the fact that every
    class occurs exactly once."""
    bn_mode: Annotated[Literal["query", "support"] | None, AS_TRAINED] = None
    """Images from which batch norm computes the statistics for query images:
    the query images themselves (transductive) or the support images
    (non-transductive)."""
    start: Annotated[Start | None, AS_TRAINED] = None
    """Initial head in every task: learned, prototypes of the support set, or
    zero. Use prototypes or zero to fine-tune a pretrained network."""
    nearest_neighbor: bool = False
    """Classify query images by the nearest support image in feature space, without adaptation."""
    inner_lr: Annotated[float | None, at_least(0), unset("inner optimizer used in training")] = None
    """Adapt by gradient descent with this step size instead of the run's inner optimizer."""
    tune_inner_lr: bool = False
    """Before the evaluation, select the best of eight inner step sizes from
    0.001 to 3 on at most 100 validation tasks. Use this flag for pretrained
    networks and, with --checkpoint 0, random networks, whose training does not
    determine a step size."""
    ensemble: Annotated[int, at_least(1)] = 1
    """Number of checkpoints whose logits are averaged. The checkpoints with the
    best validation results are used. MAML++ averages 5 checkpoints."""
    data: Annotated[str | None, among(FAMILIES), AS_TRAINED] = None
    """Evaluate on other image data: a different data set of `metarl train fewshot --help` or, with
    folder, other classes in --data-root. Images are converted to the size, the channels and the
    colors of the images in training. All classes of a folder are used, or the test classes if the
    folder has the subfolders train and test."""
    data_root: Annotated[Path | None, AS_TRAINED] = None
    """Folder with the image files for --data. Without --data, set this if the images used in
    training have moved."""
    encoder: Annotated[str | None, AS_TRAINED] = None
    """Folder or name of the pretrained image encoder; set this if the folder has moved since
    training."""
    split: Annotated[str | None, unset("all classes of a folder are test classes")] = None
    """Split of --data into training, validation and test classes; see `metarl train fewshot --help`
    for the values. A folder with the subfolders train and test defaults to own."""
    class_depth: Annotated[int | None, at_least(1), unset("1")] = None
    """Number of folder levels in --data-root that form a class. With 2, each folder
    ALPHABET/CHARACTER is one class."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        adapts = ("test_steps", "inner_lr", "tune_inner_lr", "start")
        adapted = self.ensemble > 1 or any(getattr(self, name) for name in adapts)
        no_data = self.data is None and (self.split or self.class_depth)
        rated, both = self.inner_lr is not None, self.ensemble > 1 and self.checkpoint is not None
        return [
            (
                self.tune_inner_lr and rated,
                "tune_inner_lr and inner_lr are mutually exclusive; set only one of them",
            ),
            (
                no_data,
                "`split` and class_depth require `data`; set `data` as well, such as data=folder",
            ),
            (both, "`ensemble` and `checkpoint` are mutually exclusive; set only one of them"),
            (
                self.nearest_neighbor and adapted,
                "nearest_neighbor does not adapt and uses one checkpoint; remove `ensemble`, "
                "test_steps, inner_lr, tune_inner_lr and `start`",
            ),
        ]
