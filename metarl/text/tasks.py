"""Few-shot text classification tasks with sentences that are tokenized once."""

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


MULTIPLE = 8  # lengths are rounded up to a multiple of 8, for fewer shapes and aligned memory


class Sentences(NamedTuple):
    """The tokenized rows of one task.

    Attributes:
        inputs: Tokenizer outputs of shape (rows, tokens) by name, such as
            ``input_ids`` and ``attention_mask``.
        labels: Class index of each row.
        num_labels: Number of classes.
        name: Name of the task.
    """

    inputs: Inputs
    labels: Int64[Tensor, " rows"]
    num_labels: int
    name: str

    def smallest_class(self) -> int:
        """Return the number of rows in the smallest class."""
        return int(torch.bincount(self.labels, minlength=self.num_labels).min())

    def batch(self, rows: Int64[Tensor, " n"]) -> Batch:
        """Return selected rows as a batch, without tokens that are padding in all selected rows.

        Args:
            rows: Indices of the rows.

        Returns:
            ``(inputs, targets)``: tokenizer outputs of shape (n, tokens) by
            name, and one-hot targets of shape (n, num_labels). The number of
            tokens is rounded up to a multiple of 8.
        """
        selected = {name: x[rows] for name, x in self.inputs.items()}
        longest = int(selected["attention_mask"].sum(-1).max())
        length = -(-longest // MULTIPLE) * MULTIPLE
        eye = torch.eye(self.num_labels, device=self.labels.device)
        cut = {name: x[:, :length] for name, x in selected.items()}
        inputs = {name: x if x.dtype == torch.bool else x.long() for name, x in cut.items()}
        return inputs, eye[self.labels[rows]]


def tokenize(
    tokenizer: Any, rows: Sequence[Row], task: TextTask, *, max_length: int, device: torch.device
) -> Sentences:
    """Tokenize rows of a task.

    Args:
        tokenizer: The encoder's tokenizer from :func:`load_pretrained`.
        rows: The rows.
        task: The task that contains the rows. The order of the task's
            `labels` defines the class indices.
        max_length: Maximum number of tokens per row; longer rows are truncated.
        device: Device for the resulting tensors.

    Returns:
        The tokenized rows, padded to equal length.

    Example::

        >>> from metarl.text import Row, TextTask, load_pretrained, tokenize
        >>> _, tokenizer = load_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> rows = (Row("great", "", "good"), Row("poor", "", "bad"))
        >>> task = TextTask("opinions", ("bad", "good"), {}, rows, ())
        >>> tokenize(tokenizer, rows, task, max_length=64, device=torch.device("cpu")).labels
        tensor([1, 0])
    """
    seconds = [row.sentence2 for row in rows] if task.has_pairs() else None
    found = tokenizer(
        [row.sentence1 for row in rows],
        seconds,
        padding=True,
        # The tokenizer raises an error if max_length is not a multiple.
        pad_to_multiple_of=None if max_length % MULTIPLE else MULTIPLE,
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    # Small integer types save memory; each batch is converted to the types of the model.
    kinds = {"input_ids": torch.int32, "attention_mask": torch.bool}
    inputs = {key: x.to(kinds.get(key, torch.int8)).to(device) for key, x in found.items()}
    numbers = torch.tensor([task.labels.index(row.label) for row in rows], device=device)
    return Sentences(inputs, numbers, len(task.labels), task.name)


def _choose(pools: tuple[Sentences, ...], num_tasks: int, generator: torch.Generator) -> list[int]:
    """Sample indices of data sets, with probabilities proportional to √n for data sets with n rows.

    This is the sampling in Bansal et al. (2020).
    """
    sizes = torch.tensor([float(len(pool.labels)) for pool in pools])
    chances = sizes.sqrt().to(generator.device)
    return torch.multinomial(chances, num_tasks, replacement=True, generator=generator).tolist()


@dataclass(frozen=True)
class TextTasks:
    """A sampler for few-shot text classification tasks from several data sets.

    A data set with n rows is sampled with a probability proportional to √n
    (Bansal et al. 2020). If a data set has more than `max_ways` classes, each
    task uses a random subset of `max_ways` classes.

    Attributes:
        pools: The data sets.
        num_shots: Number of support sentences per class.
        num_queries: Number of query sentences per class.
        max_ways: Maximum number of classes per task.

    Raises:
        ValueError: If a class has fewer than num_shots + num_queries rows.

    Example::

        >>> from metarl.text import Sentences, TextTasks
        >>> tokens = {"input_ids": torch.ones(20, 8), "attention_mask": torch.ones(20, 8).bool()}
        >>> pool = Sentences(tokens, torch.arange(20) % 2, num_labels=2, name="opinions")
        >>> tasks = TextTasks((pool,), num_shots=4, num_queries=5, max_ways=2)
        >>> inputs, targets = tasks.sample(3, torch.Generator())[0].query
        >>> targets.shape
        torch.Size([1, 10, 2])
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
                    f"num_shots + num_queries must be at most {pool.smallest_class()}, the number "
                    f"of rows in the smallest class of task {pool.name}, got {needed}"
                )

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Sample tasks of different sizes.

        Args:
            num_tasks: Number of tasks.
            generator: Random generator for data sets, classes and sentences.

        Returns:
            A list with one meta-batch per task, each with a task axis of size
            1. Tasks are not padded to equal sizes.
        """
        drawn = _choose(self.pools, num_tasks, generator)
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
    """A sampler for minibatches, to train one head on the classes of several data sets jointly.

    Targets are one-hot for the classes of the minibatch's data set, and −1
    for the classes of other data sets. The loss
    :func:`~metarl.supervised.present_cross_entropy` excludes classes with
    target −1 from the softmax.

    Attributes:
        pools: The data sets.
        batch: Number of sentences per minibatch.
    """

    pools: tuple[Sentences, ...]
    batch: int

    def sample(self, num_tasks: int, generator: torch.Generator) -> list[Task]:
        """Sample minibatches, each from one data set, as tasks with an empty support set.

        Args:
            num_tasks: Number of minibatches.
            generator: Random generator for data sets and sentences.

        Returns:
            A list with one meta-batch per minibatch, each with a task axis of
            size 1 and a query batch ``(inputs, targets)``. The targets have
            one column per class of all data sets, in the order of `pools`.
        """
        firsts = [0, *accumulate(pool.num_labels for pool in self.pools)]
        tasks = []
        for index in _choose(self.pools, num_tasks, generator):
            pool = self.pools[index]
            size, device = (self.batch,), generator.device
            rows = torch.randint(len(pool.labels), size, generator=generator, device=device)
            inputs, targets = pool.batch(rows.to(pool.labels.device))
            wide = targets.new_full((len(targets), firsts[-1]), -1.0)
            wide[:, firsts[index] : firsts[index + 1]] = targets
            tasks.append(tree.map_leaves(lambda x: x[None], Task((), (inputs, wide))))
        return tasks


def support_batches(batch: Batch, *, shots: int, steps: int) -> tuple[Batch, ...]:
    """Split a support set into one batch that generates the head and batches for the inner steps.

    The support set is divided into parts with equal numbers of examples per
    class, up to rounding. The first part generates the head. The inner steps
    use the second part, the third part, and so on; after the last part, they
    continue with the first part.

    Args:
        batch: Support set ``(inputs, targets)`` of one task, with a leading task axis of size 1.
        shots: Maximum number of examples of the smallest class per part. This
            determines the number of parts.
        steps: Number of inner steps.

    Returns:
        The first part, followed by the parts for the inner steps in the order
        of use. If there are more steps than parts,
        :class:`~metarl.core.InnerLoop` cycles through the parts for the inner
        steps.

    Example::

        >>> from metarl.text import support_batches
        >>> support = ({"hidden": torch.rand(1, 20, 384)}, torch.eye(2).repeat(10, 1)[None])
        >>> parts = support_batches(support, shots=5, steps=7)
        >>> [len(targets[0]) for _, targets in parts]
        [10, 10, 10]
    """
    members = (batch[1][0] > 0).long()
    place = (members.cumsum(0) * members).sum(-1) - 1  # index of each example in its class
    parts = max(1, -(-int(members.sum(0).min()) // shots))
    cut = [tree.map_leaves(lambda x, p=p: x[:, place % parts == p], batch) for p in range(parts)]
    return (cut[0], *(cut[(1 + step) % parts] for step in range(min(steps, parts))))
