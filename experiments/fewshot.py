"""Few-shot classification of images with any method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

from dataclasses import replace
from functools import cache, cached_property

import torch

from metarl.core.seeding import torch_generator
from metarl.core.types import Task
from metarl.data.families import load_images
from metarl.data.images import Classes, Splits
from metarl.experiments.fewshot_settings import EXAMPLES_PER_CHUNK, QUERIES
from metarl.experiments.fewshot_settings import FewShotConfig as FewShotConfig
from metarl.experiments.fewshot_settings import complete as complete
from metarl.experiments.supervised_evaluation import Supervised
from metarl.experiments.supervised_setup import Parts, make_learner, make_model, make_test_loop
from metarl.nn.convolution import Classifier, ConvBody
from metarl.nn.dense import linear
from metarl.runs.card import Subject
from metarl.supervised.few_shot import (
    AllClasses,
    FewShot,
    VariableFewShot,
    minibatches,
    with_reference,
)
from metarl.supervised.losses import cross_entropy
from metarl.supervised.model import Draw, Tasks
from metarl.supervised.networks import NETWORKS
from metarl.util.device import resolve_device


def build(config: FewShotConfig, *, splits: Splits | None = None) -> Parts:
    """Build the parts of a run, from the images that it names or from others."""
    config = complete(config)
    device = resolve_device(config.device)
    splits = splits or _load(config)
    if config.classes not in (None, splits.digest()):
        raise ValueError(
            f"data={config.data} no longer has the classes that this run was trained on, so its "
            "test classes may differ; data_root is the folder of the images, and glyphs come from "
            "matplotlib's fonts"
        )
    splits = Splits(*(c._replace(images=c.images.to(device)) for c in splits))
    trained = _training_pool(config, splits.train)
    joint = config.method == "pretrained"
    ways = trained.num_classes if joint else config.num_ways
    model = make_model(config, _network(config, splits.train, ways), cross_entropy)
    batches = AllClasses(trained, config.num_ways * QUERIES).sample
    return Parts(
        model,
        make_learner(config, model, chunk_size=chunk_size(config)),
        make_test_loop(config, model, start="zero" if joint else None),
        _prepared(config, batches if joint else _draw(config, trained), config.inner_steps or 0),
        {name: _evaluated(config, classes, name) for name, classes in splits._asdict().items()},
        device,
        chunk_size=_fitting(config, config.num_shots + (config.test_queries or QUERIES)),
    )


def _load(config: FewShotConfig) -> Splits:
    return load_images(
        config.data, data_root=config.data_root, split=config.split, image_size=config.image_size
    )


def chunk_size(config: FewShotConfig) -> int:
    """Return how many tasks make a chunk of a good size."""
    shots = config.train_shots or config.num_shots
    return _fitting(config, shots + (config.num_queries or config.num_shots))


def _fitting(config: FewShotConfig, per_class: int) -> int:
    examples = config.num_ways * per_class
    return 1 if config.variable else max(1, EXAMPLES_PER_CHUNK // examples)


class ImageClassification(Supervised[FewShotConfig]):
    """Few-shot classification of images."""

    name = "fewshot"
    complete = staticmethod(complete)

    @cached_property
    def splits(self) -> Splits:
        """The images, by split."""
        return _load(self.config)

    @cached_property
    def parts(self) -> Parts:
        """The model, its learner, and what draws its tasks."""
        return build(self.config, splits=self.splits)

    def prepare(self) -> dict[str, float]:
        """Draw a task of each split, and record which classes the data have."""
        config = self.config
        if config.method == "pretrained" and (config.inner_steps or config.start != "learned"):
            raise ValueError(
                "method=pretrained adapts only in the test; leave out inner_steps and `start`"
            )
        if config.variable and config.num_ways <= VariableFewShot.MIN_WAYS:
            raise ValueError(
                f"`variable` tasks have {VariableFewShot.MIN_WAYS} to num_ways classes; set "
                "num_ways, such as 50"
            )
        self.config = replace(config, classes=self.splits.digest())
        for name in ("validation", "test"):
            generator = torch_generator(config.seed, 0, name, device=self.device)
            self.parts.evaluated[name](1, generator)
        return super().prepare()

    def describe(self) -> Subject:
        """Return the method, its paper and the data."""
        return self.subject(self.config.data, "few-shot-classification")


def _network(config: FewShotConfig, classes: Classes, ways: int) -> Classifier:
    generator = torch_generator(config.seed, 0, "parameters")
    net = NETWORKS[config.network]
    net = net._replace(filters=config.filters or net.filters)
    _, channels, height, width = classes.images.shape
    body = ConvBody(net, channels, generator=generator)
    size = body(torch.zeros(1, channels, height, width)).shape[-1]
    if not size:
        raise ValueError(
            f"network={config.network} shrinks images of {height}x{width} pixels to nothing; use "
            "a different one, or a larger image_size"
        )
    return Classifier(body, linear(size, ways, generator=generator))


def _training_pool(config: FewShotConfig, classes: Classes) -> FewShot:
    shots, queries = config.train_shots or config.num_shots, config.num_queries or config.num_shots
    turned = config.rotations in ("train", "all")
    return _few_shot(config, classes, "train", shots=shots, queries=queries, rotations=turned)


def _pool(config: FewShotConfig, classes: Classes, split: str) -> FewShot:
    left = max(1, min(classes.counts) - config.num_shots)
    return _few_shot(
        config,
        classes,
        split,
        shots=config.num_shots,
        queries=config.test_queries or min(QUERIES, left),
        rotations=config.rotations == "all",
    )


def _few_shot(
    config: FewShotConfig,
    classes: Classes,
    split: str,
    *,
    shots: int,
    queries: int,
    rotations: bool,
) -> FewShot:
    if config.variable:  # tasks then have sizes of their own
        shots = queries = 1
    try:
        return FewShot(
            classes.images, classes.counts, config.num_ways, shots, queries, rotations=rotations
        )
    except ValueError as error:
        raise ValueError(f"{split} classes of data={config.data}: {error}") from None


def _evaluated(config: FewShotConfig, classes: Classes, split: str) -> Draw:
    """Draw tasks to be judged by; the pool is made when it is first needed, or never."""
    pool = cache(lambda: _pool(config, classes, split))

    def draw(num_tasks: int, generator: torch.Generator) -> Tasks:
        return _draw(config, pool())(num_tasks, generator)

    return _prepared(config, draw, config.test_steps or 0)


def _draw(config: FewShotConfig, pool: FewShot) -> Draw:
    if not config.variable:
        return pool.sample
    return VariableFewShot(pool, config.num_ways, config.max_support).sample


def _prepared(config: FewShotConfig, draw: Draw, steps: int) -> Draw:
    """Add what the settings ask for: minibatches of the support set, a reference for the norms."""

    def prepare(task: Task, generator: torch.Generator) -> Task:
        if config.bn_mode == "support" and task.support:
            task = with_reference(task)
        if config.inner_batch and steps and task.support:
            batches = minibatches(
                task.support[0], config.inner_batch, steps=steps, generator=generator
            )
            task = task._replace(support=batches)
        return task

    def prepared(num_tasks: int, generator: torch.Generator) -> Tasks:
        tasks = draw(num_tasks, generator)
        if isinstance(tasks, Task):
            return prepare(tasks, generator)
        return [prepare(task, generator) for task in tasks]

    return prepared
