"""Few-shot tasks with identifiable images, minibatches, sinusoids and computed heads."""

import math
import pickle
from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.core import tree
from metarl.supervised.batches import minibatches, with_reference
from metarl.supervised.few_shot import AllClasses, FewShot, VariableFewShot
from metarl.supervised.heads import nearest_neighbor, prototypes
from metarl.supervised.sinusoid import Sinusoids
from tests.support.problems import randn, seeded


COUNTS = (5, 8, 6, 9, 7, 5, 10)
MARK = 255


class Seen(NamedTuple):
    """The identity of an image: class, index in the class and number of quarter turns."""

    kind: int
    number: int
    turns: int


def telling_images(counts: tuple[int, ...] = COUNTS) -> Tensor:
    """Create images of 2×2 pixels: class and index in the first row, a mark and 0 in the second."""
    return torch.tensor(
        [[[[c, n], [MARK, 0]]] for c, count in enumerate(counts) for n in range(count)],
        dtype=torch.uint8,
    )


def pool(ways: int = 3, shots: int = 2, queries: int = 3, **options: Any) -> FewShot:
    counts = options.pop("counts", COUNTS)
    return FewShot(telling_images(counts), counts, ways, shots, queries, **options)


def read(image: Tensor) -> Seen:
    pixels = (255 * image[0]).round().long()
    for turns in range(4):
        (kind, number), (mark, nothing) = pixels.rot90(-turns).tolist()
        if (mark, nothing) == (MARK, 0):
            return Seen(kind, number, turns)
    raise AssertionError(f"not an image of ours: {pixels}")


def by_label(batch: tuple[Tensor, Tensor], task: int) -> dict[int, list[Seen]]:
    """Decode the images of one task; labels must be one-hot and sorted."""
    images, targets = batch[0][task], batch[1][task]
    assert targets.sum(1).eq(1).all()
    labels = targets.argmax(1).tolist()
    assert labels == sorted(labels)
    found: dict[int, list[Seen]] = {label: [] for label in range(targets.shape[1])}
    for image, label in zip(images, labels, strict=True):
        found[label].append(read(image))
    return found


@pytest.mark.parametrize("rotations", [False, True])
def test_tasks_have_the_right_sizes_and_no_repeated_images(rotations: bool) -> None:
    drawing = pool(rotations=rotations)
    tasks = drawing.sample(50, seeded(0))
    (images, targets), (others, _) = tasks.support[0], tasks.query
    assert images.shape == (50, 3 * 2, 1, 2, 2)
    assert targets.shape == (50, 3 * 2, 3)
    assert others.shape == (50, 3 * 3, 1, 2, 2)
    assert images.dtype == targets.dtype == torch.float32
    for task in range(50):
        support, query = by_label(tasks.support[0], task), by_label(tasks.query, task)
        assert [len(support[label]) for label in range(3)] == [2] * 3
        assert [len(query[label]) for label in range(3)] == [3] * 3
        classes = set()
        for label in range(3):
            seen = support[label] + query[label]
            assert len({(image.kind, image.turns) for image in seen}) == 1
            assert len({image.number for image in seen}) == len(seen)
            assert all(image.number < COUNTS[image.kind] for image in seen)
            classes.add((seen[0].kind, seen[0].turns))
        assert len(classes) == 3


def test_rotations_are_separate_classes() -> None:
    drawing = pool(ways=4, rotations=True)
    assert drawing.num_classes == 4 * len(COUNTS)
    tasks = drawing.sample(100, seeded(0))
    found = [
        {(seen[0].kind, seen[0].turns) for seen in by_label(tasks.query, task).values()}
        for task in range(100)
    ]
    assert set().union(*found) == {(kind, turn) for kind in range(len(COUNTS)) for turn in range(4)}
    assert any(len({kind for kind, _ in classes}) < 4 for classes in found)
    assert all(seen.turns == 0 for seen in by_label(pool().sample(1, seeded(0)).query, 0)[0])


def test_all_classes_and_all_images_of_a_class_are_equally_likely() -> None:
    tasks = pool(ways=2, shots=1, queries=1).sample(2000, seeded(0))
    drawn = [read(image) for image in tasks.support[0][0].flatten(0, 1)]
    kinds = Counter(seen.kind for seen in drawn)
    expected = 2 * 2000 / len(COUNTS)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in kinds.values())
    for kind, size in enumerate(COUNTS):
        numbers = Counter(seen.number for seen in drawn if seen.kind == kind)
        share = kinds[kind] / size
        assert len(numbers) == size
        assert all(abs(count - share) < 5 * math.sqrt(share) for count in numbers.values())
    labels = Counter(seen.kind for seen in drawn[::2])  # only of the first label
    assert all(abs(count - expected / 2) < 5 * math.sqrt(expected / 2) for count in labels.values())


def same(one: Any, two: Any) -> bool:
    return all(a.equal(b) for a, b in zip(tree.leaves(one), tree.leaves(two), strict=True))


def test_tasks_depend_only_on_the_generator_also_after_pickling() -> None:
    drawing = pool(rotations=True)
    tasks = drawing.sample(3, seeded(0))
    before = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(drawing)).sample(3, seeded(0))
    assert same(tasks, again)
    assert not same(tasks, drawing.sample(3, seeded(1)))
    assert torch.get_rng_state().equal(before)
    variable = VariableFewShot(pool(ways=5), max_ways=6)
    ragged = pickle.loads(pickle.dumps(variable)).sample(3, seeded(0))
    assert same(variable.sample(3, seeded(0)), ragged)


def test_a_task_can_use_all_images_of_a_class() -> None:
    tasks = pool(shots=3, queries=2, counts=(5, 5, 5)).sample(4, seeded(0))
    for task in range(4):
        support, query = by_label(tasks.support[0], task), by_label(tasks.query, task)
        for label in range(3):
            numbers = sorted(seen.number for seen in support[label] + query[label])
            assert numbers == [0, 1, 2, 3, 4]


def test_too_few_classes_or_images_are_rejected_with_both_numbers() -> None:
    with pytest.raises(
        ValueError, match=r"num_ways must be at most 7, the number of classes .*, got 8"
    ):
        pool(ways=8)
    assert pool(ways=8, rotations=True).num_classes == 28
    message = r"num_shots \+ num_queries must be at most 5, the number of images in class 0, got 7"
    with pytest.raises(ValueError, match=message):
        pool(shots=3, queries=4)


VARIABLE_COUNTS = (30, 12, 45, 8, 26, 31, 60, 15, 40, 22)


def test_variable_tasks_respect_the_bounds_of_meta_dataset() -> None:
    drawing = VariableFewShot(pool(counts=VARIABLE_COUNTS), max_ways=8, max_support=60)
    tasks = drawing.sample(120, seeded(0))
    ways, totals, unbalanced = Counter(), [], 0
    for task in tasks:
        support, query = by_label(task.support[0], 0), by_label(task.query, 0)
        ways[len(support)] += 1
        sizes = [VARIABLE_COUNTS[seen[0].kind] for seen in support.values()]
        assert len(set(seen[0].kind for seen in support.values())) == len(support) == len(query)
        queries = min(10, min(sizes) // 2)
        shots = [len(seen) for seen in support.values()]
        assert [len(seen) for seen in query.values()] == [queries] * len(query)
        assert all(1 <= n <= size - queries for n, size in zip(shots, sizes, strict=True))
        for label, seen in support.items():
            numbers = [image.number for image in seen + query[label]]
            assert len(set(numbers)) == len(numbers)
        totals.append(sum(shots))
        unbalanced += len(set(shots)) > 1
        assert len(task.support[0][0][0]) == sum(shots)  # without padding
        assert len(task.query[0][0]) == queries * len(query)
    assert set(ways) == {5, 6, 7, 8}
    assert all(abs(count - 30) < 5 * math.sqrt(30) for count in ways.values())
    assert max(totals) <= 60
    assert min(totals) < 15
    assert max(totals) > 50
    assert unbalanced > 100


@pytest.mark.parametrize("part", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("max_support", [20, 500])
def test_support_sizes_follow_meta_dataset(part: float, max_support: int) -> None:
    sizes, queries = [300, 12, 45, 8, 150], 4
    noise = torch.tensor([0.0, 0.5, 1.0, 0.25, 0.75])
    drawing = VariableFewShot(pool(counts=VARIABLE_COUNTS), max_ways=5, max_support=max_support)
    left = [size - queries for size in sizes]
    found = drawing._shots(torch.tensor(left), torch.tensor(sizes), part, noise)
    total = min(max_support, sum(math.ceil(part * min(100, n)) for n in left))
    weights = [
        s * math.exp(2 * n * math.log(2) - math.log(2))
        for s, n in zip(sizes, noise.tolist(), strict=True)
    ]
    expected = [
        min(n, 1 + math.floor((total - 5) * weight / sum(weights)))
        for n, weight in zip(left, weights, strict=True)
    ]
    assert found == expected


def test_rotated_classes_of_variable_tasks_are_distinct() -> None:
    drawing = VariableFewShot(pool(counts=(20, 20), ways=2, rotations=True), max_ways=8)
    for task in drawing.sample(10, seeded(0)):
        support = by_label(task.support[0], 0)
        assert len({(seen[0].kind, seen[0].turns) for seen in support.values()}) == len(support)


def test_invalid_variable_tasks_are_rejected_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"max_ways must be from 5 to 7 classes, got 4"):
        VariableFewShot(pool(), max_ways=4)
    with pytest.raises(ValueError, match=r"max_ways must be from 5 to 7 classes, got 8"):
        VariableFewShot(pool(), max_ways=8)
    with pytest.raises(ValueError, match=r"max_support must be .*6\), got 5"):
        VariableFewShot(pool(), max_ways=6, max_support=5)
    with pytest.raises(ValueError, match="2 images per class, got a class with 1"):
        VariableFewShot(pool(shots=1, queries=0, counts=(3, 2, 1, 4, 5)), max_ways=5)


def test_the_support_can_be_the_reference_of_the_query() -> None:
    tasks = pool().sample(2, seeded(0))
    referred = with_reference(tasks)
    assert referred.support is tasks.support
    assert len(referred.query) == 3
    assert referred.query[2] is tasks.support[0][0]


def test_joint_training_samples_from_all_classes() -> None:
    drawing = AllClasses(pool(rotations=True), 500)
    tasks = drawing.sample(2, seeded(0))
    assert tasks.support == ()
    images, targets = tasks.query
    assert targets.shape == (2, 500, 4 * len(COUNTS))
    labels = targets.argmax(-1).flatten().tolist()
    assert set(labels) == set(range(4 * len(COUNTS)))
    kinds: dict[int, set[tuple[int, int]]] = {}
    for image, label in zip(images.flatten(0, 1), labels, strict=True):
        kinds.setdefault(label, set()).add((read(image).kind, read(image).turns))
    assert all(len(found) == 1 for found in kinds.values())
    assert len(set().union(*kinds.values())) == 4 * len(COUNTS)


def numbered(tasks: int, examples: int) -> tuple[Tensor, Tensor]:
    """Create inputs and targets that identify the task and the example."""
    number = torch.arange(tasks * examples).view(tasks, examples)
    return number[..., None].float(), -number


@pytest.mark.parametrize(("size", "steps"), [(3, 5), (7, 2), (5, 1), (2, 9)])
def test_minibatches_use_every_example_before_any_repeats(size: int, steps: int) -> None:
    batches = minibatches(numbered(4, 8), size, steps=steps, generator=seeded(0))
    assert [x.shape for x, _ in batches] == [(4, size, 1)] * steps
    inputs = torch.cat([x for x, _ in batches], 1)[..., 0].long()
    assert inputs.equal(-torch.cat([y for _, y in batches], 1))
    for task, order in enumerate((inputs - 8 * torch.arange(4)[:, None]).tolist()):
        for first in range(0, size * steps, 8):
            epoch = order[first : first + 8]
            assert set(epoch) <= set(range(8)), task
            assert len(set(epoch)) == len(epoch)
    if size * steps >= 16:
        assert inputs[0, :8].tolist() != inputs[0, 8:16].tolist()  # reshuffled
    assert (inputs[0] % 8).tolist() != (inputs[1] % 8).tolist()  # differently for each task


def test_minibatches_depend_only_on_the_generator() -> None:
    one, two, other = (
        minibatches(numbered(2, 6), 4, steps=3, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("size", [6, 7])
def test_a_small_support_set_is_one_batch(size: int) -> None:
    batch = numbered(2, 6)
    assert minibatches(batch, size, steps=3, generator=seeded(0)) == (batch,)


def test_sinusoids_have_the_published_distribution() -> None:
    tasks = Sinusoids(5, 7, observed=True).sample(2000, seeded(0))
    (inputs, targets), (others, _) = tasks.support[0], tasks.query
    assert inputs.shape == (2000, 5, 3)
    assert others.shape == (2000, 7, 3)
    every = torch.cat([inputs, others], 1)
    values = torch.cat([targets, tasks.query[1]], 1)
    x, amplitude, phase = every.unbind(-1)
    assert amplitude.eq(amplitude[:, :1]).all()
    assert phase.eq(phase[:, :1]).all()
    for drawn, low, high in ((x, -5, 5), (amplitude, 0.1, 5), (phase, 0, math.pi)):
        assert low <= drawn.min() < low + 0.01 * (high - low)
        assert high >= drawn.max() > high - 0.01 * (high - low)
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert_close(values[..., 0], amplitude * torch.sin(x - phase))
    assert targets.shape == (2000, 5, 1)


def test_oracle_observes_amplitude_and_phase_of_the_same_tasks() -> None:
    blind, seeing = (Sinusoids(3, 4, observed).sample(6, seeded(0)) for observed in (False, True))
    for (x, y), (observed, same_y) in zip(
        (*blind.support, blind.query), (*seeing.support, seeing.query), strict=True
    ):
        assert x.equal(observed[..., :1])
        assert y.equal(same_y)


TARGETS = torch.eye(3, dtype=torch.float64)[[0, 1, 1, 2, 2, 2]]


def test_prototypes_are_means_for_unbalanced_classes() -> None:
    features = randn(6, 4)
    expected = torch.stack([features[0], features[1:3].mean(0), features[3:].mean(0)])
    assert_close(prototypes(features, TARGETS), expected)


def test_nearest_neighbor_is_found_in_each_class() -> None:
    support, query = (randn(6, 4), TARGETS), (randn(5, 4, seed=1), TARGETS[:5])
    params = {"w": 2 * torch.eye(4, dtype=torch.float64)}
    logits = nearest_neighbor(lambda params, x: x @ params["w"], params, support, query)
    squares = torch.cdist(2 * query[0], 2 * support[0]) ** 2
    classes = (squares[:, :1], squares[:, 1:3], squares[:, 3:])
    expected = -torch.stack([distances.amin(1) for distances in classes], 1)
    assert_close(logits, expected)


def test_nearest_neighbor_normalizes_the_query_by_its_reference() -> None:
    def features(params: Any, x: Tensor, reference: Tensor | None = None) -> Tensor:
        return x - (x if reference is None else reference).mean(0)

    (x, y), other = (randn(6, 4), TARGETS), randn(5, 4, seed=1)
    logits = nearest_neighbor(features, {}, (x, y), (other, TARGETS[:5], x))
    expected = nearest_neighbor(lambda params, x: x, {}, (x, y), (other, TARGETS[:5]))
    assert_close(logits, expected)
