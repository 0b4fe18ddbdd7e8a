"""N-way K-shot tasks sampled from labeled images, with a fixed or variable number of examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from metarl.core import Batch, Task, tree, uniform
from metarl.util import at_least


ROTATIONS = 4  # 0, 90, 180 and 270 degrees


@dataclass(frozen=True)
class FewShot:
    """A sampler for N-way K-shot classification tasks.

    Within a task, examples are sorted by class, and targets are one-hot. uint8 images become floats
    in [0, 1]; other values are not scaled. :meth:`from_arrays` accepts arrays in any order.

    Attributes:
        images: Examples of all classes, sorted by class: uint8 images, or floats of any shape.
            Tasks are created on the device of this tensor.
        counts: Number of images per class, in the order of `images`.
        num_ways: Number of classes per task (N).
        num_shots: Number of support images per class (K).
        num_queries: Number of query images per class.
        rotations: Add rotations by 90, 180 and 270 degrees as separate
            classes (Santoro et al. 2016, Finn et al. 2017). A task may then
            contain several rotations of one original class.
        names: Class names for error messages. Default: the class indices.

    Raises:
        ValueError: If `num_ways` or `num_shots` is below 1, there are fewer than `num_ways`
            classes, or a class has fewer than num_shots + num_queries images.

    Example::

        >>> from metarl.data import load_images
        >>> from metarl.supervised import FewShot
        >>> train = load_images("glyphs").train
        >>> pool = FewShot(train.images, train.counts, num_ways=5, num_shots=1, num_queries=15)
        >>> tasks = pool.sample(4, torch.Generator().manual_seed(0))
        >>> tasks.query[0].shape
        torch.Size([4, 75, 1, 28, 28])
    """

    images: UInt8[Tensor, "images channels height width"] | Float[Tensor, "images *shape"]
    counts: tuple[int, ...]
    num_ways: int
    num_shots: int
    num_queries: int
    rotations: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_ways", "num_shots"):
            at_least(1).check(name, getattr(self, name))
        if (most := self.num_classes) < self.num_ways:
            rule = f"at most {most}, the number of classes in this data set or split"
            raise ValueError(f"num_ways must be {rule}, got {self.num_ways}")
        needed, fewest = self.num_shots + self.num_queries, min(self.counts)
        if fewest < needed:
            index = self.counts.index(fewest)
            raise ValueError(
                f"num_shots + num_queries must be at most {fewest}, the number of images in class "
                f"{self.names[index] if self.names else index}, got {needed}"
            )

    @classmethod
    def from_arrays(
        cls, inputs: Any, labels: Any, *, num_ways: int, num_shots: int, num_queries: int
    ) -> "FewShot":
        """Create a sampler from arrays ``(X, y)`` in any order.

        Args:
            inputs: Array or tensor with one example per row: images of shape (n, channels, height,
                width), as uint8 from 0 to 255 or floats, or features of shape (n, ...).
            labels: Class of every example, integers or strings of shape (n,).
            num_ways: Number of classes per task (N).
            num_shots: Number of support examples per class (K).
            num_queries: Number of query examples per class.

        Raises:
            ValueError: If the numbers of examples and labels differ, an input is not finite, there
                are fewer than `num_ways` classes, or a class has too few examples.

        Example::

            >>> import numpy as np
            >>> from metarl.supervised import FewShot
            >>> X, y = np.random.rand(60, 8), np.arange(60) % 6
            >>> pool = FewShot.from_arrays(X, y, num_ways=3, num_shots=1, num_queries=5)
            >>> pool.sample(4, torch.Generator()).query[0].shape
            torch.Size([4, 15, 8])
        """
        at_least(1).check("num_queries", num_queries)
        names, classes = np.unique(np.asarray(labels), return_inverse=True)
        if np.ndim(labels) != 1 or len(classes) != len(inputs):
            raise ValueError(
                f"`labels` must have shape ({len(inputs)},), one class per row of inputs, got "
                f"{np.shape(labels)}"
            )
        counts = np.bincount(classes, minlength=len(names)).tolist()
        rows = torch.as_tensor(inputs)[torch.from_numpy(np.argsort(classes, kind="stable"))]
        rows = rows if rows.dtype == torch.uint8 and rows.ndim == 4 else rows.float()
        if not rows.isfinite().all():
            raise ValueError("`inputs` must be finite, got NaN or infinity")
        sizes = (num_ways, num_shots, num_queries)
        return cls(rows, tuple(counts), *sizes, names=tuple(map(str, names)))

    @property
    def num_classes(self) -> int:
        """Number of classes from which tasks are sampled, including rotated classes."""
        return len(self.counts) * self.num_rotations

    @property
    def num_rotations(self) -> int:
        """Number of classes derived from each original class: 4 with rotations, otherwise 1."""
        return ROTATIONS if self.rotations else 1

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Sample a meta-batch of `num_tasks` tasks with random numbers from `generator`.

        Returns:
            A meta-batch with one support batch and a query batch. Both are tuples ``(examples,
            targets)``, with examples of shape (task, example, ...), such as images of shape
            (task, example, channel, height, width), and targets of shape (task, example, way).
        """
        chance = uniform(num_tasks, self.num_classes, generator=generator)
        classes = chance.topk(self.num_ways, -1).indices.to(self.images.device)
        drawn = self.draw(classes, self.num_shots + self.num_queries, generator)
        support, query = torch.split(drawn, [self.num_shots, self.num_queries], 2)
        return Task((_labeled(support),), _labeled(query))

    def draw(
        self, classes: Int64[Tensor, "tasks ways"], number: int, generator: torch.Generator
    ) -> Float[Tensor, "tasks ways number *shape"]:
        """Sample `number` different examples from each of the given classes.

        uint8 images become floats in [0, 1].

        Args:
            classes: Class indices in [0, :attr:`num_classes`), which include rotated classes.
            number: Number of images per class.
            generator: Random generator for the images.
        """
        device = self.images.device
        counts = torch.tensor(self.counts, device=device)
        base = classes // self.num_rotations
        chance = uniform(*classes.shape, max(self.counts), generator=generator).to(device)
        exists = torch.arange(max(self.counts), device=device) < counts[base][..., None]
        chance = chance.where(exists, -1.0)
        first = (counts.cumsum(0) - counts)[base][..., None]
        drawn = self.images[first + chance.topk(number, -1).indices]
        drawn = drawn.float() / 255 if drawn.dtype == torch.uint8 else drawn
        for turn in range(1, self.num_rotations):
            rotated = classes % ROTATIONS == turn
            drawn[rotated] = drawn[rotated].rot90(turn, (-2, -1))
        return drawn


@dataclass(frozen=True)
class VariableFewShot:
    """A sampler for classification tasks with variable ways and shots, as in Meta-Dataset.

    The sampling follows Triantafillou et al. 2020, §3.1. The number of ways is sampled uniformly
    from 5 to `max_ways`. The number of query images per class is half the number of images in the
    smallest class, but at most 10. The number of support images per task is a random fraction β of
    the remaining images, but at most `max_support`. In this calculation, at most 100 images per
    class are counted. The support images are divided among the classes in proportion to class size
    times exp(U(log ½, log 2)), with at least one image per class.

    Attributes:
        pool: Sampler with the images; its `num_ways`, `num_shots` and `num_queries` are ignored.
        max_ways: Maximum number of classes per task; 50 in the paper.
        max_support: Maximum number of support images per task; 500 in the paper.

    Raises:
        ValueError: If `max_ways` is below 5 or above the number of classes, `max_support` is below
            `max_ways`, or a class has fewer than two images.

    Example::

        >>> from metarl.supervised import FewShot, VariableFewShot
        >>> images = torch.zeros(800, 1, 28, 28, dtype=torch.uint8)
        >>> pool = FewShot(images, (10,) * 80, num_ways=5, num_shots=1, num_queries=1)
        >>> len(VariableFewShot(pool).sample(4, torch.Generator()))
        4
    """

    pool: FewShot
    max_ways: int = 50
    max_support: int = 500

    MIN_WAYS = 5
    MAX_QUERIES = 10
    MAX_PER_CLASS = 100

    def __post_init__(self) -> None:
        least, ways, most = self.MIN_WAYS, self.max_ways, self.pool.num_classes
        if not least <= ways <= most:
            raise ValueError(f"max_ways must be from {least} to {most} classes, got {ways}")
        if self.max_support < ways:
            got = self.max_support
            raise ValueError(f"max_support must be at least max_ways ({ways}), got {got}")
        if min(self.pool.counts) < 2:
            raise ValueError("pool must have at least 2 images per class, got a class with 1")

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Sample `num_tasks` tasks of different sizes with random numbers from `generator`.

        Returns:
            A list with one meta-batch per task, each with a task axis of size 1, without padding.
        """
        return [self._sample_one(generator) for _ in range(num_tasks)]

    def _sample_one(self, generator: torch.Generator) -> Task:
        draw = partial(uniform, generator=generator)
        ways = self.MIN_WAYS + int(draw(1).item() * (self.max_ways - self.MIN_WAYS + 1))
        classes = draw(self.pool.num_classes).cpu().topk(ways).indices
        sizes = torch.tensor(self.pool.counts)[classes // self.pool.num_rotations]
        queries = min(self.MAX_QUERIES, int(sizes.min()) // 2)
        shots = self._shots(sizes - queries, sizes, 1 - draw(1).item(), draw(ways).cpu())
        drawn = [
            self.pool.draw(one.view(1, 1), number + queries, generator)[0, 0]
            for one, number in zip(classes.to(self.pool.images.device), shots, strict=True)
        ]
        support, query = [x[:-queries] for x in drawn], [x[-queries:] for x in drawn]
        return tree.map_leaves(lambda x: x[None], Task((_ragged(support),), _ragged(query)))

    def _shots(self, left: Tensor, sizes: Tensor, part: float, noise: Tensor) -> list[int]:
        """Return the number of support images in each class.

        Args:
            left: Number of images in each class that are not query images.
            sizes: Number of all images in each class.
            part: The fraction β.
            noise: One random number in [0, 1) per class, which varies the class proportions.
        """
        wanted = sum(math.ceil(part * min(self.MAX_PER_CLASS, int(n))) for n in left)
        total = min(self.max_support, wanted)
        weight = sizes * torch.exp((2 * noise - 1) * math.log(2))
        extra = (weight / weight.sum() * max(total - len(sizes), 0)).floor().long()
        return torch.minimum(extra + 1, left).tolist()


def _labeled(drawn: Float[Tensor, "tasks ways number *image"]) -> Batch:
    tasks, ways, number = drawn.shape[:3]
    targets = torch.eye(ways, device=drawn.device).repeat_interleave(number, 0)
    return drawn.flatten(1, 2), targets.expand(tasks, -1, -1)


def _ragged(by_class: Sequence[Tensor]) -> Batch:
    device = by_class[0].device
    numbers = torch.tensor([len(images) for images in by_class], device=device)
    targets = torch.eye(len(by_class), device=device).repeat_interleave(numbers, 0)
    return torch.cat(list(by_class)), targets


@dataclass(frozen=True)
class AllClasses:
    """A sampler for minibatches over all classes, to pretrain a classifier without meta-learning.

    Attributes:
        pool: Sampler with the images; its `num_ways`, `num_shots` and `num_queries` are ignored.
        batch: Number of images per minibatch.

    Example::

        >>> from metarl.supervised import AllClasses, FewShot
        >>> images = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
        >>> pool = FewShot(images, (20,) * 5, num_ways=5, num_shots=1, num_queries=1)
        >>> AllClasses(pool, batch=32).sample(4, torch.Generator()).query[0].shape
        torch.Size([4, 32, 1, 28, 28])
    """

    pool: FewShot
    batch: int

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Sample `num_tasks` minibatches with `generator`, as tasks with an empty support set.

        Returns:
            A meta-batch without support batches. The query batch contains
            images of shape (task, batch, channel, height, width) and one-hot
            targets of shape (task, batch, class).
        """
        chance = uniform(num_tasks, self.batch, generator=generator)
        classes = (chance * self.pool.num_classes).long().to(self.pool.images.device)
        images = self.pool.draw(classes, 1, generator)[:, :, 0]
        return Task((), (images, torch.eye(self.pool.num_classes, device=images.device)[classes]))
