"""Few-shot image classification with any supervised meta-learning method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, cast

import torch

from metarl.core import MetaParams, torch_generator
from metarl.data import (
    Classes,
    ImageFormat,
    Splits,
    find_classes,
    load_images,
    pixel_statistics,
)
from metarl.experiment import Experiment, Report
from metarl.experiments.images import other_data
from metarl.experiments.images.settings import FewShotConfig
from metarl.experiments.images.tasks import (
    QUERIES,
    augmentation,
    chunk_size,
    pool_of,
    sizes,
    task_sampler,
)
from metarl.experiments.supervised import Supervised
from metarl.experiments.supervised_evaluation import SupervisedEvaluation
from metarl.experiments.supervised_models import (
    adapted_images,
    image_classifier,
    image_network,
    num_channels,
)
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
    outer_factor,
)
from metarl.models import AdaptedClassifier, MetaClassifier, Saved
from metarl.nn import ImageEncoder
from metarl.supervised import (
    AllClasses,
    FewShot,
    VariableFewShot,
    cross_entropy,
)
from metarl.util import raise_if


class ImageClassification(Supervised[FewShotConfig]):
    """The experiment ``metarl train fewshot``: few-shot image classification."""

    name = "fewshot"
    settings = FewShotConfig
    family = "few-shot-classification"
    usage = "images"
    trained: FewShotConfig | None = None
    """Configuration of the run if the evaluation uses other data, otherwise None."""
    head_ways: int | None = None
    """Number of classes in the head. Default: with ``method="pretrained"``, all training classes,
    including rotated classes; otherwise ``config.num_ways``."""

    @cached_property
    def splits(self) -> Splits:
        """Training, validation and test images; assign other splits to use your own images."""
        return load_images(
            self.config.data, image_size=self.config.image_size, **self._data_options()
        )

    def _data_options(self) -> dict[str, Any]:
        config = self.config
        options = {n: getattr(config, n) for n in ("data_root", "split", "class_depth")}
        return options | {"validation": bool(config.validation_tasks)}

    def listed(self) -> Splits:
        """Return the classes in each split, with the number of images per class.

        With ``data="folder"``, the images are not decoded and the image tensors are empty, unless
        :attr:`splits` is already loaded.
        """
        if self.config.data != "folder" or "splits" in vars(self):
            return self.splits
        options = self._data_options()
        found = find_classes(
            options.pop("data_root"), **options | {"split": self.config.split or "own"}
        )
        none = torch.empty(0, 1, 1, 1, dtype=torch.uint8)
        return Splits(
            *(Classes(none, tuple(map(len, g.values())), tuple(g)) for g in found.values())
        )

    def require_same_classes(self) -> None:
        """Raise a ValueError if the class names have changed since training."""
        config, reason = self.config, ""
        if config.classes is None:
            return
        try:
            same = config.classes == self.listed().digest()
        except ValueError as error:
            same, reason = False, f" ({error})"
        if not same:
            raise ValueError(
                f"the classes of data={config.data} have changed since training{reason}. Restore "
                "the files in data_root or, for glyphs, the version of matplotlib, which provides "
                f"the fonts; to evaluate on other classes, run `{other_data.COMMAND}`"
            )

    @cached_property
    def parts(self) -> Parts:
        """The model, the meta-learner and the task samplers."""
        self.require_same_classes()
        if self.config.normalize == "data" and self.config.pixels is None:
            pixels = pixel_statistics(self.splits.train.images)
            self.config = replace(self.config, pixels=pixels)
        config = self.config
        splits = Splits(*(c._replace(images=c.images.to(self.device)) for c in self.splits))
        joint = config.method == "pretrained"
        all_classes = len(splits.train.counts) * (1 if config.rotations == "none" else 4)
        ways = self.head_ways or (all_classes if joint else config.num_ways)
        images = ImageFormat(config.data, *splits.train.images.shape[1:3])
        network = image_network(config, images, ways, self.device).to(self.device)
        model = make_model(config, network, cross_entropy)

        @cache
        def pool(split: str, training: bool = False) -> FewShot:
            classes: Classes = getattr(splits, split)
            if config.frozen:
                body = cast(ImageEncoder, model.apply.module.body)
                classes = classes._replace(images=body.features(classes.images))
            return pool_of(config, classes, split, training=training)

        trained = partial(pool, "train", training=True)
        tasks = task_sampler(config, trained, config.inner_steps or 0, training=True)
        batches = mapped(
            lambda: AllClasses(trained(), config.num_ways * QUERIES).sample, augmentation(config)
        )
        tested = {
            split: task_sampler(config, partial(pool, split), config.test_steps or 0)
            for split in Splits._fields
        }
        fitting = chunk_size(config, sum(sizes(config)), images.size)
        tested_images = config.num_shots + (config.test_queries or QUERIES)
        return Parts(
            model,
            make_learner(
                config, model, chunk_size=fitting, factor=partial(outer_factor, config, "body.")
            ),
            make_test_loop(config, model, start="zero" if joint else None),
            batches if joint else tasks,
            tested,
            chunk_size=chunk_size(config, tested_images, images.size),
            train_chunk=config.chunk_size or fitting,
        )

    def prepare(self) -> dict[str, float]:
        """Check the numbers of classes and images, and store a hash of the class names.

        Validation classes are only required if ``validation_tasks`` is positive, and test classes
        are only checked if the split contains any. Images in folders are decoded after the checks.

        Returns:
            An empty dictionary, because no metrics are logged for iteration 0.

        Raises:
            ValueError: If a split has too few classes or images, or settings conflict.
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
        classes = self.listed()
        needed = {"validation": config.validation_tasks, "test": classes.test.counts}
        used = [name for name, value in needed.items() if value]
        whole = ", or set split=all-train to use all classes for training"
        free = config.data == "folder" and config.split != "all-train"
        hint = f". Lower num_ways{whole if free else ''}" if config.data == "folder" else ""
        pool_of(config, classes.train, "train", training=True, hint=hint)
        for name in used:
            zero = ", or set validation_tasks=0" if name == "validation" else ""
            hint = f". Lower num_ways{zero}{whole}" if config.data == "folder" else ""
            pool_of(config, getattr(classes, name), name, hint=hint)
        self.config = replace(config, classes=classes.digest())
        for name in () if config.frozen else used:  # features are computed when they are used
            generator = torch_generator(config.seed, 0, name, device=self.device)
            self.parts.evaluated[name](1, generator)
        return super().prepare()

    def changed(self, **settings: Any) -> Experiment[FewShotConfig]:
        """Return a copy of the experiment with the given configuration settings replaced.

        A new encoder does not import the module of the original encoder.

        Raises:
            ValueError: If an encoder is set for a run without an encoder.
        """
        new = settings.get("encoder")
        error = "`encoder` requires a run with a pretrained encoder; remove `encoder`"
        raise_if((new and not self.config.encoder, error))
        changed = super().changed(**settings)
        if new:
            changed.guard = lambda: None
        return changed

    def model(  # type: ignore[override]
        self, params: MetaParams, *, encoder: str | None = None
    ) -> MetaClassifier:
        """Return the meta-trained classifier, without loading the images of the training.

        Args:
            params: The meta-parameters.
            encoder: Folder or name of the pretrained encoder. Default: the encoder of the run.

        Raises:
            ImportError: If the encoder requires a package that is not installed.
            OSError: If the encoder cannot be loaded.
            ValueError: If the parameters do not match the configuration, or the encoder of a
                pulled run would import an unknown module.
        """
        if encoder is not None:
            return self.changed(encoder=encoder).model(params)  # type: ignore[no-any-return]
        self.guard()
        return image_classifier(self.name, self.config, params, self.device)

    def adapted(self, saved: Saved) -> AdaptedClassifier:
        """Restore an adapted classifier from `saved`, the contents of a file."""
        return adapted_images(self.name, self.config, saved, self.device)

    def with_options(self, options: SupervisedEvaluation) -> Experiment[FewShotConfig]:
        """Return a copy of the experiment with its settings overridden by the evaluation options.

        Raises:
            ValueError: If the run does not support an option.
        """
        changed = super().with_options(options)
        drawn = self.config.data == "glyphs" and options.data is None
        error = (
            "data=glyphs has no files and does not support data_root; to evaluate on other "
            f"classes, run `{other_data.COMMAND}`"
        )
        raise_if((drawn and options.data_root, error))
        if options.data is None:
            return changed
        other = type(self)(other_data.configuration(self.config, changed.config, options))
        classes: Classes = getattr(other.listed(), options.tasks)
        if options.num_ways is None and not other_data.has_learned_head(self.config, options):
            ways = max(2, min(self.config.num_ways, len(classes.counts)))
            other = type(self)(replace(other.config, num_ways=ways))
        learned = other_data.has_learned_head(self.config, options)
        hint = ". For any number of classes, set start=prototypes" if learned else ""
        pool_of(other.config, classes, options.tasks, hint=hint)
        other.trained = self.config
        return other

    def evaluate(self, metas: Sequence[MetaParams], options: SupervisedEvaluation) -> Report:
        """Report the mean loss and accuracy before adaptation and after each inner step.

        Images from other data are converted to the channels and colors of the training images.
        """
        head = metas[0].model.get("head.bias")
        self.head_ways = None if head is None else len(head)
        if self.trained is None:
            return super().evaluate(metas, options)
        about = other_data.describe(self.config, self.trained, self.splits, options)
        channels = num_channels(self.trained, metas[0].model)
        self.splits = other_data.converted(self.splits, channels, inverted=about["inverted"])
        return other_data.stated(super().evaluate(metas, options), about, options)
