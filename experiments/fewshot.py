"""Few-shot image classification with any supervised meta-learning method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro

from metarl.core import MetaParams, Task, torch_generator
from metarl.data import Classes, ImageFormat, Splits, load_images
from metarl.experiments.supervised import Supervised
from metarl.experiments.supervised_models import (
    adapted_images,
    image_classifier,
    image_network,
)
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
)
from metarl.models import AdaptedClassifier, MetaClassifier, Saved
from metarl.runs import unset
from metarl.supervised import (
    NETWORKS,
    AllClasses,
    Draw,
    FewShot,
    VariableFewShot,
    cross_entropy,
    minibatches,
    with_reference,
)
from metarl.util import Conflicts, Ranged, among, at_least, raise_if


EXAMPLES_PER_CHUNK = 160  # measured on 2 cores, 28×28 pixels and 64 filters
QUERIES = 15  # maximum number per class in validation and test


@dataclass(frozen=True)
class ImageSettings(Ranged):
    """Settings for the image data set and for sampling few-shot tasks from the images."""

    group: ClassVar[str] = "data"
    data: Literal["glyphs", "omniglot", "mini-imagenet", "folder"] = "glyphs"
    """Image data set. With folder, your own images are read from --data-root, which must contain
    one subfolder per class. With glyphs, characters are drawn and no files are required."""
    data_root: Annotated[
        Path | None, unset("$METARL_DATA; if that is not set, Omniglot is downloaded")
    ] = None
    """Folder that contains the files of the data set; not supported by glyphs."""
    split: Annotated[str | None, unset("random for Omniglot")] = None
    """Name of the split into training, validation and test classes. Omniglot supports random,
    vinyals and background; every other data set has only one split."""
    image_size: Annotated[
        int | None, at_least(1), unset("84 for mini-imagenet and folder, otherwise 28")
    ] = None
    """Height and width of the images in pixels."""
    rotations: Literal["none", "train", "all"] | None = None
    """Splits in which images rotated by 90, 180 and 270 degrees form additional classes. If not
    set, all for Omniglot and none for the other data sets."""
    num_ways: Annotated[int, at_least(2), tyro.conf.arg(aliases=["--ways"])] = 5
    """Number of classes per task; with --variable, the maximum number, 50 in Meta-Dataset."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 1
    """Number of support images per class."""
    num_queries: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--queries"]), unset("value of --num-shots")
    ] = None
    """Number of query images per class in training."""
    test_queries: Annotated[
        int | None, at_least(1), unset("15, or fewer if a class has fewer images")
    ] = None
    """Number of query images per class in validation and test tasks."""
    train_shots: Annotated[int | None, at_least(1), unset("value of --num-shots")] = None
    """Number of support images per class in training, if different from validation and test. If
    not set, 10 for reptile and the value of --num-shots otherwise."""
    variable: bool = False
    """Sample tasks with variable numbers of classes and of support images per class, as in
    Meta-Dataset."""
    max_support: Annotated[int, at_least(1)] = 500
    """Maximum number of support images per task; only used with --variable."""


@dataclass(frozen=True)
class NetworkSettings(Ranged):
    """Settings for the convolutional network."""

    group: ClassVar[str] = "network"
    network: Annotated[str, among(NETWORKS)] = "conv4-stride"
    """Architecture of the network. conv4-stride, conv4-flat and conv4-pool were published for
    Omniglot; mini-32, mini-48 and mini-same were published for miniImageNet."""
    filters: Annotated[int | None, at_least(1), unset("set by --network")] = None
    """Number of channels in every convolutional block."""
    bn_mode: Literal["query", "support"] = "query"
    """Images from which batch norm computes the statistics for query images: the query images
    themselves (transductive) or the support images (non-transductive)."""


@dataclass(frozen=True)
class FewShotConfig(SupervisedConfig, NetworkSettings, ImageSettings):
    """Learn to classify images into N classes from K examples per class.

    With --method pretrained, one classifier is trained on all training classes. To fine-tune the
    pretrained network on new classes, run `metarl evaluate RUN --start prototypes`.
    """

    iterations: int = 2000
    checkpoint_every: int = 500
    log_every: int = 10
    classes: tyro.conf.Suppress[str | None] = None
    """Hash of all class names, set when training starts and used to detect changed data."""

    # Step sizes apply to the mean cross-entropy. Finn et al. sum over 5 classes, so 0.4 in their
    # code is 2.0 here.
    defaults = {  # noqa: RUF012
        "": {"num_tasks": 32, "inner_steps": 1, "test_steps": 3, "inner_lr": 0.4,
             "outer_lr": 1e-3},
        "reptile": {"num_tasks": 5, "inner_steps": 5, "test_steps": 50, "inner_lr": 1e-3,
                    "inner_batch": 10, "train_shots": 10},
        "maml++": {"num_tasks": 16, "inner_steps": 5, "test_steps": 5, "inner_lr": 0.1},
        "protomaml": {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 5},
        "imaml": {"inner_steps": 16, "test_steps": 16, "inner_lr": 0.1},
        "pretrained": {"num_tasks": 1, "test_steps": 10},
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        varied, usual = self.variable, type(self)
        sizes = ("num_shots", "num_queries", "test_queries", "train_shots")
        given = ", ".join(n for n in sizes if getattr(self, n) != getattr(usual, n))
        joint, learned = self.method == "pretrained", self.start == "learned"
        staged = self.mode not in (None, "eager")
        return [
            *super().conflicts(),
            (
                self.method == "oracle",
                "method=oracle requires `metarl train regression`; choose a different method",
            ),
            (
                varied and joint,
                "method=pretrained does not support `variable` tasks; remove `variable`",
            ),
            (varied and given, f"`variable` samples the image counts per class; remove {given}"),
            (varied and staged, f"`variable` requires mode=eager, got mode={self.mode}"),
            (
                varied and learned,
                "`variable` tasks have no fixed number of classes and require start=zero or "
                "prototypes, got start=learned",
            ),
        ]

    def filled(self) -> Any:
        """Return the configuration with the defaults of the method and the data set filled in."""
        left_open: dict[str, Any] = {
            "mode": self.mode or ("eager" if self.variable else "traced"),
            "rotations": self.rotations or ("all" if self.data == "omniglot" else "none"),
        }
        return resolve(replace(self, **left_open), self.defaults)


class ImageClassification(Supervised[FewShotConfig]):
    """The experiment ``metarl train fewshot``: few-shot image classification."""

    name = "fewshot"
    settings = FewShotConfig
    family = "few-shot-classification"
    usage = "images"

    @cached_property
    def splits(self) -> Splits:
        """Training, validation and test images; assign other splits to use your own images."""
        config = self.config
        options: Any = {n: getattr(config, n) for n in ("data_root", "split", "image_size")}
        return load_images(config.data, **options)

    @cached_property
    def parts(self) -> Parts:
        """The model, the meta-learner and the task samplers."""
        config = self.config
        if config.classes not in (None, self.splits.digest()):
            raise ValueError(
                f"the classes of data={config.data} have changed since training, so the test "
                "classes may differ. Restore the files in data_root or, for glyphs, the version of "
                "matplotlib, which provides the fonts"
            )
        splits = Splits(*(c._replace(images=c.images.to(self.device)) for c in self.splits))
        trained = _pool(config, splits.train, "train", training=True)
        joint = config.method == "pretrained"
        ways = trained.num_classes if joint else config.num_ways
        images = ImageFormat(config.data, *splits.train.images.shape[1:3])
        model = make_model(config, image_network(config, images, ways), cross_entropy)
        batches = AllClasses(trained, config.num_ways * QUERIES).sample
        tasks = _tasks(config, lambda: trained, config.inner_steps or 0)
        tested = {
            split: _tasks(config, partial(_pool, config, classes, split), config.test_steps or 0)
            for split, classes in splits._asdict().items()
        }
        fitting = _chunk_size(config, trained.num_shots + trained.num_queries)
        return Parts(
            model,
            make_learner(config, model, chunk_size=fitting),
            make_test_loop(config, model, start="zero" if joint else None),
            batches if joint else tasks,
            tested,
            chunk_size=_chunk_size(config, config.num_shots + (config.test_queries or QUERIES)),
            train_chunk=config.chunk_size or fitting,
        )

    def prepare(self) -> dict[str, float]:
        """Store a hash of the class names, and sample a validation task and a test task.

        Sampling raises an error before training if a split has too few classes or images.

        Returns:
            An empty dictionary, because no metrics are logged for iteration 0.
        """
        config, fewest = self.config, VariableFewShot.MIN_WAYS
        few = config.variable and config.num_ways <= fewest
        adapts = config.inner_steps or config.start != "learned"
        error = "method=pretrained only adapts at test time; remove inner_steps and `start`"
        raise_if(
            (adapts and config.method == "pretrained", error),
            (
                few,
                f"with `variable`, num_ways must be greater than {fewest}, got {config.num_ways}; "
                "Meta-Dataset uses 50",
            ),
        )
        self.config = replace(config, classes=self.splits.digest())
        for name in ("validation", "test"):
            generator = torch_generator(config.seed, 0, name, device=self.device)
            self.parts.evaluated[name](1, generator)
        return super().prepare()

    def model(self, params: MetaParams) -> MetaClassifier:  # type: ignore[override]
        """Return the meta-trained classifier, which needs no data."""
        return image_classifier(self.name, self.config, params, self.device)

    def adapted(self, saved: Saved) -> AdaptedClassifier:
        """Return the adapted classifier in a file."""
        return adapted_images(self.name, self.config, saved)


def _chunk_size(config: FewShotConfig, per_class: int) -> int:
    """Return the number of tasks to process together, given `per_class` images per class."""
    return 1 if config.variable else max(1, EXAMPLES_PER_CHUNK // (config.num_ways * per_class))


def _pool(
    config: FewShotConfig, classes: Classes, split: str, *, training: bool = False
) -> FewShot:
    """Return a sampler of few-shot tasks from the classes in a split."""
    shots = (training and config.train_shots) or config.num_shots
    left = max(1, min(classes.counts) - config.num_shots)
    tested = config.test_queries or min(QUERIES, left)
    queries = config.num_queries or config.num_shots if training else tested
    if config.variable:  # VariableFewShot samples the sizes
        shots = queries = 1
    turned = config.rotations == "all" or (training and config.rotations == "train")
    images, counts, ways = classes.images, classes.counts, config.num_ways
    try:
        return FewShot(images, counts, ways, shots, queries, rotations=turned)
    except ValueError as error:
        raise ValueError(
            f"too few {split} classes or images in data={config.data}: {error}"
        ) from None


def _tasks(config: FewShotConfig, pool: Callable[[], FewShot], steps: int) -> Draw:
    """Return a sampler of tasks from `pool`, with support batches for `steps` inner steps.

    With `inner_batch`, one minibatch per step is sampled from the support set. With
    ``bn_mode="support"``, the query batch also contains the support images for batch norm.
    """

    def source() -> Draw:
        if not config.variable:
            return pool().sample
        return VariableFewShot(pool(), config.num_ways, config.max_support).sample

    def prepare(task: Task, generator: torch.Generator) -> Task:
        if config.bn_mode == "support" and task.support:
            task = with_reference(task)
        if not (config.inner_batch and steps and task.support):
            return task
        size, batch = config.inner_batch, task.support[0]
        return task._replace(support=minibatches(batch, size, steps=steps, generator=generator))

    return mapped(source, prepare)
