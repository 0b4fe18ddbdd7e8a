"""Few-shot tasks over sentences: tokenized once, kept on the device, any number of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from metarl.core import Batch, Task, tree, uniform
from metarl.text.encoders import Inputs
from metarl.text.files import Row, TextTask


MULTIPLE = 8  # lengths are rounded up to it: fewer shapes, and rows of whole cache lines


class Sentences(NamedTuple):
    """The tokenized rows of one task.

    Attributes:
        inputs: What the tokenizer says: ``input_ids``, ``attention_mask`` and so on.
        labels: The class of each row.
        num_labels: Classes of the task.
        name: The task.
    """

    inputs: Inputs
    labels: Int64[Tensor, " rows"]
    num_labels: int
    name: str

    def smallest_class(self) -> int:
        """Return the number of rows of the smallest class."""
        return int(torch.bincount(self.labels, minlength=self.num_labels).min())

    def batch(self, rows: Int64[Tensor, " n"]) -> Batch:
        """Return inputs no longer than the longest of these rows, and one-hot targets."""
        chosen = {name: x[rows] for name, x in self.inputs.items()}
        longest = int(chosen["attention_mask"].sum(-1).max())
        length = -(-longest // MULTIPLE) * MULTIPLE
        eye = torch.eye(self.num_labels, device=self.labels.device)
        cut = {name: x[:, :length] for name, x in chosen.items()}
        inputs = {name: x if x.dtype == torch.bool else x.long() for name, x in cut.items()}
        return inputs, eye[self.labels[rows]]


def tokenize(
    tokenizer: Any, rows: Sequence[Row], task: TextTask, *, max_length: int, device: torch.device
) -> Sentences:
    """Tokenize rows of a task, cut to `max_length` tokens, and put them on the device."""
    seconds = [row.sentence2 for row in rows] if task.has_pairs() else None
    found = tokenizer(
        [row.sentence1 for row in rows],
        seconds,
        padding=True,
        pad_to_multiple_of=None if max_length % MULTIPLE else MULTIPLE,  # it refuses both
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    # Token numbers are kept small; the model's are made of a batch's alone.
    kinds = {"input_ids": torch.int32, "attention_mask": torch.bool}
    inputs = {key: x.to(kinds.get(key, torch.int8)).to(device) for key, x in found.items()}
    numbers = torch.tensor([task.labels.index(row.label) for row in rows], device=device)
    return Sentences(inputs, numbers, len(task.labels), task.name)


def _draw_indices(
    pools: tuple[Sentences, ...], num_tasks: int, generator: torch.Generator
) -> list[int]:
    """Draw data sets of n rows with a probability proportional to √n (Bansal et al. 2020)."""
    sizes = torch.tensor([float(len(pool.labels)) for pool in pools])
    chances = sizes.sqrt().to(generator.device)
    return torch.multinomial(chances, num_tasks, replacement=True, generator=generator).tolist()


@dataclass(frozen=True)
class TextTasks:
    """Tasks of K support and Q query sentences of each class, from several data sets.

    A data set of n rows is chosen with a probability proportional to √n (Bansal et al. 2020). Of
    one with more classes than `max_ways` a task takes some, drawn anew.

    Raises:
        ValueError: If a class has fewer rows than a task takes.
    """

    pools: tuple[Sentences, ...]
    num_shots: int
    num_queries: int
    max_ways: int

    def __post_init__(self) -> None:
        needed = self.num_shots + self.num_queries
        for pool in self.pools:
            if pool.smallest_class() < needed:
                raise ValueError(
                    f"num_shots + num_queries must be at most {pool.smallest_class()}, the rows of the "
                    f"smallest class of task {pool.name}; got {needed}"
                )

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Draw tasks of unequal sizes: a meta-batch of one task each, never padded to another."""
        drawn = _draw_indices(self.pools, num_tasks, generator)
        return [self._sample_one(self.pools[index], generator) for index in drawn]

    def _sample_one(self, pool: Sentences, generator: torch.Generator) -> Task:
        chance = uniform(pool.num_labels, generator=generator)
        classes = chance.argsort()[: self.max_ways].to(pool.labels.device)
        order = torch.randperm(len(pool.labels), generator=generator, device=generator.device)
        order = order.to(pool.labels.device)
        each = [order[pool.labels[order] == label] for label in classes]
        shots, end = self.num_shots, self.num_shots + self.num_queries
        both = [[rows[:shots] for rows in each], [rows[shots:end] for rows in each]]
        found = [pool.batch(torch.cat(rows)) for rows in both]
        support, query = ((inputs, targets[:, classes]) for inputs, targets in found)
        return tree.map_leaves(lambda x: x[None], Task((support,), query))


@dataclass(frozen=True)
class AllLabels:
    """Joint training on all data sets: each has its classes of one large head.

    Targets are −1 for the classes of other data sets, which take no part in the softmax.
    """

    pools: tuple[Sentences, ...]
    batch: int

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Draw batches, of one data set each, as tasks without a support set."""
        firsts = [0, *accumulate(pool.num_labels for pool in self.pools)]
        tasks = []
        for index in _draw_indices(self.pools, num_tasks, generator):
            pool = self.pools[index]
            size, device = (self.batch,), generator.device
            rows = torch.randint(len(pool.labels), size, generator=generator, device=device)
            inputs, targets = pool.batch(rows.to(pool.labels.device))
            wide = targets.new_full((len(targets), firsts[-1]), -1.0)
            wide[:, firsts[index] : firsts[index + 1]] = targets
            tasks.append(tree.map_leaves(lambda x: x[None], Task((), (inputs, wide))))
        return tasks


def support_batches(batch: Batch, *, shots: int, steps: int) -> tuple[Batch, ...]:
    """Cut a support set into a first batch, which generates a head, and those of the inner steps.

    Every class is dealt out to all parts, so that each holds all classes. The steps take the others
    and then the first, and so on in turn: what is returned after the first batch is taken round and
    round, and holds nothing twice.

    Args:
        batch: The support set of one task, with a leading task axis of 1.
        shots: Most examples of the smallest class in a part, which is how many parts there are.
        steps: Inner steps.
    """
    members = (batch[1][0] > 0).long()
    place = (members.cumsum(0) * members).sum(-1) - 1  # of an example within its class
    parts = max(1, -(-int(members.sum(0).min()) // shots))
    cut = [tree.map_leaves(lambda x, p=p: x[:, place % parts == p], batch) for p in range(parts)]
    return (cut[0], *(cut[(1 + step) % parts] for step in range(min(steps, parts))))
