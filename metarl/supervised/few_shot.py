"""N-way K-shot tasks over images: balanced, or of many sizes as in Meta-Dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from metarl.core import Batch, Task, tree, uniform


ROTATIONS = 4  # quarter turns, each a class of its own


@dataclass(frozen=True)
class FewShot:
    """Tasks of `num_ways` classes with `num_shots` support and `num_queries` query images each.

    Targets are one-hot, (example, way), so that the number of classes is a shape. Images are
    floats in [0, 1]; examples of a task are sorted by class.

    Attributes:
        images: uint8 images sorted by class, on the device where tasks are wanted.
        counts: Number of images of each class.
        num_ways: Classes of a task.
        num_shots: Support images of each class.
        num_queries: Query images of each class.
        rotations: Every quarter turn of a character is a class of its own, and may meet its others
            in a task (Santoro et al. 2016, Finn et al. 2017).

    Raises:
        ValueError: If there are too few classes, or too few images in one.
    """

    images: UInt8[Tensor, "images channels height width"]
    counts: tuple[int, ...]
    num_ways: int
    num_shots: int
    num_queries: int
    rotations: bool = False

    def __post_init__(self) -> None:
        if (most := self.num_classes) < self.num_ways:
            raise ValueError(f"num_ways must be at most {most}, all classes; got {self.num_ways}")
        needed, fewest = self.num_shots + self.num_queries, min(self.counts)
        if fewest < needed:
            raise ValueError(
                f"num_shots + num_queries must be at most {fewest}, the images of class "
                f"{self.counts.index(fewest)}; got {needed}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes to draw from, rotated ones counted."""
        return len(self.counts) * self.turns

    @property
    def turns(self) -> int:
        """Classes that a character makes: one, or one for each quarter turn."""
        return ROTATIONS if self.rotations else 1

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Draw a meta-batch: images (task, example, channel, height, width), targets."""
        chance = uniform(num_tasks, self.num_classes, generator=generator)
        classes = chance.topk(self.num_ways, -1).indices.to(self.images.device)
        drawn = self.draw(classes, self.num_shots + self.num_queries, generator)
        support, query = torch.split(drawn, [self.num_shots, self.num_queries], 2)
        return Task((_labeled(support),), _labeled(query))

    def draw(
        self, classes: Int64[Tensor, "tasks ways"], number: int, generator: torch.Generator
    ) -> Float[Tensor, "tasks ways number channels height width"]:
        """Draw `number` different images of every class."""
        device = self.images.device
        counts = torch.tensor(self.counts, device=device)
        base = classes // self.turns
        chance = uniform(*classes.shape, max(self.counts), generator=generator).to(device)
        there = torch.arange(max(self.counts), device=device) < counts[base][..., None]
        chance = chance.where(there, -1.0)
        first = (counts.cumsum(0) - counts)[base][..., None]
        drawn = self.images[first + chance.topk(number, -1).indices].float() / 255
        for turn in range(1, self.turns):
            chosen = classes % ROTATIONS == turn
            drawn[chosen] = drawn[chosen].rot90(turn, (-2, -1))
        return drawn


@dataclass(frozen=True)
class VariableFewShot:
    """Tasks of many sizes: ways, shots and their balance vary (Triantafillou et al. 2020, §3.1).

    Ways ~ U{5, ..., `max_ways`}; queries per class are at most 10 and at most half of the smallest
    class; a task keeps a random part β of its images for support, at most `max_support` in all,
    shared out by class size times exp(U(log ½, log 2)), with at least one in each class.

    Attributes:
        pool: The images; its own ways, shots and queries are not used.
        max_ways: The most classes of a task; the paper has 50.
        max_support: The most support images of a task; the paper has 500.
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
            raise ValueError(f"max_ways must be from {least} to {most}, all classes; got {ways}")
        if self.max_support < ways:
            got = self.max_support
            raise ValueError(f"max_support must be at least max_ways, {ways}; got {got}")
        if min(self.pool.counts) < 2:
            raise ValueError("variable tasks need 2 images of each class, got 1 in one")

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Draw tasks of unequal sizes: a meta-batch of one task each, never padded."""
        return [self._one(generator) for _ in range(num_tasks)]

    def _one(self, generator: torch.Generator) -> Task:
        draw = partial(uniform, generator=generator)
        ways = self.MIN_WAYS + int(draw(1).item() * (self.max_ways - self.MIN_WAYS + 1))
        classes = draw(self.pool.num_classes).cpu().topk(ways).indices
        sizes = torch.tensor(self.pool.counts)[classes // self.pool.turns]
        queries = min(self.MAX_QUERIES, int(sizes.min()) // 2)
        shots = self._shots(sizes - queries, sizes, 1 - draw(1).item(), draw(ways).cpu())
        drawn = [
            self.pool.draw(one.view(1, 1), number + queries, generator)[0, 0]
            for one, number in zip(classes.to(self.pool.images.device), shots, strict=True)
        ]
        support, query = [x[:-queries] for x in drawn], [x[-queries:] for x in drawn]
        return tree.map_leaves(lambda x: x[None], Task((_ragged(support),), _ragged(query)))

    def _shots(self, left: Tensor, sizes: Tensor, part: float, noise: Tensor) -> list[int]:
        """Share the support images out among the classes."""
        wanted = sum(math.ceil(part * min(self.MAX_PER_CLASS, int(n))) for n in left)
        total = min(self.max_support, wanted)
        weight = sizes * torch.exp((2 * noise - 1) * math.log(2))
        extra = (weight / weight.sum() * max(total - len(sizes), 0)).floor().long()
        return torch.minimum(extra + 1, left).tolist()


def minibatches(
    batch: Batch, size: int, *, steps: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Cut the support set of every task into one random batch per inner step.

    Examples come without replacement until all were used, then shuffled again; a batch may
    straddle the two (Reptile's code). A set no larger than `size` is used whole in every step.
    """
    tasks, examples = tree.leaves(batch)[0].shape[:2]
    if examples <= size:
        return (batch,)
    chance = uniform(tasks, math.ceil(size * steps / examples), examples, generator=generator)
    order = chance.argsort(-1).flatten(1)[:, : size * steps].to(tree.leaves(batch)[0].device)
    each = torch.arange(tasks, device=order.device)[:, None]
    return tuple(
        tree.map_leaves(lambda x, part=part: x[each, part], batch)
        for part in torch.split(order, size, 1)
    )


def with_reference(tasks: Task) -> Task:
    """Let the query be normalized with the statistics of the support set: not transductive."""
    return tasks._replace(query=(*tasks.query, tasks.support[0][0]))


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
    """Joint training: one classifier of every class, as a baseline to fine-tune.

    Attributes:
        pool: The images; its own ways, shots and queries are not used.
        batch: Images of a batch.
    """

    pool: FewShot
    batch: int

    def sample(self, num_tasks: int, generator: torch.Generator) -> Task:
        """Draw batches over all classes, as tasks without a support set."""
        chance = uniform(num_tasks, self.batch, generator=generator)
        classes = (chance * self.pool.num_classes).long().to(self.pool.images.device)
        images = self.pool.draw(classes, 1, generator)[:, :, 0]
        eye = torch.eye(self.pool.num_classes, device=images.device)
        return Task((), (images, eye[classes]))
