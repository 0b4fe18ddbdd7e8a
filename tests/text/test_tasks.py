"""Few-shot text tasks: tokenization, sampling and division of support sets."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.core import Batch, Task, tree
from metarl.text.files import Row, TextTask
from metarl.text.tasks import (
    AllLabels,
    Sentences,
    TextTasks,
    support_batches,
    tokenize,
)
from tests.support.problems import seeded
from tests.support.sentences import CLS, VOCABULARY, colored_rows


CPU = torch.device("cpu")


def sentences(tokenizer: Any, name: str, counts: dict[str, int]) -> Sentences:
    """Return a task with the given number of rows per label."""
    rows = [
        Row(row["sentence1"], "", row["label"])
        for label, count in counts.items()
        for row in colored_rows([label], count)
    ]
    task = TextTask(name, tuple(sorted(counts)), {}, tuple(rows), ())
    return tokenize(tokenizer, rows, task, max_length=16, device=CPU)


def labels_in(batch: Batch) -> list[str]:
    """Return the first word (a color) of each sentence in a batch of one task."""
    return [VOCABULARY[token] for token in batch[0]["input_ids"][0, :, 1].tolist()]


def texts(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(row) for row in batch[0]["input_ids"][0].tolist()]


def test_sentences_and_pairs_are_tokenized(tokenizer: Any) -> None:
    rows = [Row("red dog", "a cat", "red"), Row("blue", "", "blue")]
    task = TextTask("pairs", ("blue", "red"), {}, tuple(rows), ())
    (inputs, targets) = tokenize(tokenizer, rows, task, max_length=16, device=CPU).batch(
        torch.tensor([0, 1])
    )
    words = [[VOCABULARY[token] for token in row] for row in inputs["input_ids"].tolist()]
    assert words[0] == ["[CLS]", "red", "dog", "[SEP]", "a", "cat", "[SEP]", "[PAD]"]
    assert inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert inputs["attention_mask"].sum(-1).tolist() == [7, 4]
    assert targets.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    cut = tokenize(tokenizer, rows, task, max_length=5, device=CPU)
    assert int(cut.inputs["attention_mask"].sum(-1).max()) == 5


def test_text_tasks_have_the_right_sizes_and_no_repeated_sentences(tokenizer: Any) -> None:
    pool = sentences(tokenizer, "colors", {"red": 5, "blue": 30, "green": 9, "grey": 6})
    drawing = TextTasks((pool,), num_shots=2, num_queries=3, max_ways=3)
    seen: set[tuple[str, ...]] = set()
    for task in drawing.sample(40, seeded(0)):
        (support,), query = task
        colors = labels_in(support)[::2]
        assert labels_in(support) == [color for color in colors for _ in range(2)]
        assert labels_in(query) == [color for color in colors for _ in range(3)]
        assert support[1][0].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]
        assert query[1].shape == (1, 9, 3)
        assert len({*texts(support), *texts(query)}) == 15
        assert all(row[0] == CLS for row in texts(support))
        seen.add(tuple(colors))
    assert len({color for colors in seen for color in colors}) == 4
    assert len(seen) > 10  # classes in order


def same(one: list[Task], two: list[Task]) -> bool:
    pairs = list(zip(tree.leaves(one), tree.leaves(two), strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_tasks_depend_only_on_the_generator(tokenizer: Any) -> None:
    pool = sentences(tokenizer, "colors", {"red": 20, "blue": 30})
    for drawing in (TextTasks((pool,), 2, 2, 6), AllLabels((pool,), 4)):
        tasks = drawing.sample(4, seeded(0))
        assert same(tasks, drawing.sample(4, seeded(0)))
        assert not same(tasks, drawing.sample(4, seeded(1)))


def test_data_sets_are_sampled_by_the_root_of_their_sizes(tokenizer: Any) -> None:
    sizes = {"red": 4, "blue": 36, "green": 100}
    pools = tuple(sentences(tokenizer, c, {c: n, "black": n}) for c, n in sizes.items())
    count, parts = 900, sum(math.sqrt(n) for n in sizes.values())
    few, joint = TextTasks(pools, 1, 1, 2), AllLabels(pools, 6)
    drawn = Counter(({*labels_in(t.query)} - {"black"}).pop() for t in few.sample(count, seeded(0)))
    wide = Counter(
        (t.query[1][0, 0] >= 0).nonzero()[0].item() // 2 for t in joint.sample(count, seeded(0))
    )
    for index, (color, size) in enumerate(sizes.items()):
        expected = count * math.sqrt(size) / parts
        for found in (drawn[color], wide[index]):
            assert abs(found - expected) < 5 * math.sqrt(expected)


def test_joint_training_excludes_other_data_sets(tokenizer: Any) -> None:
    pools = tuple(
        sentences(tokenizer, name, dict.fromkeys(labels, 9))
        for name, labels in {"a": ["red", "blue"], "b": ["black", "green", "white"]}.items()
    )
    wanted = ["blue", "red", "black", "green", "white"]
    for task in AllLabels(pools, 6).sample(20, seeded(0)):
        assert task.support == ()
        targets: Tensor = task.query[1][0]
        labels = [wanted[index] for index in targets.argmax(-1)]
        assert labels == labels_in(task.query)
        own = range(2) if labels[0] in wanted[:2] else range(2, 5)
        absent = [index for index in range(5) if index not in own]
        assert targets[:, absent].eq(-1).all()
        assert targets[:, list(own)].sum(-1).eq(1).all()


def test_too_few_rows_of_a_class_are_rejected(tokenizer: Any) -> None:
    pool = sentences(tokenizer, "colors", {"red": 4, "blue": 30})
    message = r"num_shots \+ num_queries must be at most 4, .* class of task colors, got 5"
    with pytest.raises(ValueError, match=message):
        TextTasks((pool,), num_shots=2, num_queries=3, max_ways=2)


def numbered(counts: list[int]) -> Batch:
    """Return a support set of one task with numbered, shuffled sentences."""
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=seeded(0))]
    ids = torch.arange(len(labels))[None, :, None]
    return {"input_ids": ids}, torch.eye(len(counts))[labels][None]


@pytest.mark.parametrize(
    ("counts", "shots"), [([6, 6], 2), ([5, 5, 5], 2), ([3, 4, 8], 1), ([3] * 5, 1)]
)
def test_a_support_set_is_divided_into_parts(counts: list[int], shots: int) -> None:
    batches = support_batches(numbered(counts), shots=shots, steps=7)
    ids = [set(inputs["input_ids"].flatten().tolist()) for inputs, _ in batches]
    assert all(targets[0].sum(0).gt(0).all() for _, targets in batches)
    assert sum(map(len, ids[:3])) == len(set().union(*ids)) == sum(counts)
    assert [ids.index(part) for part in ids] == [0, 1, 2, 0]
    for inputs, targets in batches:
        whole = numbered(counts)[1][0]
        assert torch.equal(whole[inputs["input_ids"].flatten()], targets[0])


def test_the_smallest_class_determines_the_number_of_parts() -> None:
    assert len(support_batches(numbered([2, 5]), shots=1, steps=0)) == 1
    generates, *steps = support_batches(numbered([2, 5]), shots=1, steps=3)
    assert len(steps) == 2  # the third part equals the first
    assert len({*texts(generates)} & {*texts(steps[0])}) == 0
    alone = support_batches(numbered([1, 1]), shots=2, steps=2)
    assert all(torch.equal(batch[1], alone[0][1]) for batch in alone)
    assert alone[0][1].shape == (1, 2, 2)
