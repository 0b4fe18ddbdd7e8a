"""Adaptation curves against plain loops, ensembles and nearest neighbors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.core import MetaParams, Task, tree
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import make_model, make_test_loop
from metarl.nn.convolution import Classifier, ConvBody, ConvNet
from metarl.nn.dense import linear
from metarl.supervised.batches import with_reference
from metarl.supervised.evaluate import BLOCK, Curves, adaptation_curves
from metarl.supervised.losses import cross_entropy
from metarl.supervised.model import Model
from tests.support.problems import random_like, seeded, task_of
from tests.support.reference_supervised import LR, NETS, RULES, plain_features, plain_path


WAYS = 3
TEST_STEPS = 3
NUM_TASKS = BLOCK + 3


def draw(num_tasks: int, generator: torch.Generator) -> Task:
    def batch() -> tuple[Tensor, Tensor]:
        targets = torch.eye(WAYS, dtype=torch.float64).repeat_interleave(2, 0)
        images = torch.randn(num_tasks, 6, 1, 6, 6, generator=generator, dtype=torch.float64)
        return images, targets.expand(num_tasks, -1, -1)

    return Task((batch(),), batch())


def one_by_one(num_tasks: int, generator: torch.Generator) -> list[Task]:
    tasks = draw(num_tasks, generator)
    return [tree.map_leaves(lambda x, i=i: x[i : i + 1], tasks) for i in range(num_tasks)]


def referred(num_tasks: int, generator: torch.Generator) -> Task:
    return with_reference(draw(num_tasks, generator))


def same_tasks() -> list[Task]:
    """Return the tasks of a generator with seed 0, in the chunks of the evaluation."""
    generator = seeded(0)
    blocks = [(draw(n, generator), n) for n in (BLOCK, NUM_TASKS - BLOCK)]
    return [task_of(tasks, index) for tasks, count in blocks for index in range(count)]


@pytest.fixture(scope="module")
def model() -> Model:
    body = ConvBody(ConvNet(filters=3, blocks=2), 1, generator=seeded(0))
    module = Classifier(body, linear(3, WAYS, generator=seeded(1))).double()
    return make_model(config(), module, cross_entropy)


def config() -> SupervisedConfig:
    settings = {"inner_steps": 1, "test_steps": TEST_STEPS, "inner_lr": LR}
    return resolve(SupervisedConfig(), {"": settings})


def metas(model: Model, count: int) -> list[MetaParams]:
    return [MetaParams(random_like(model.params, seed), {}) for seed in range(count)]


def plain_curves(tasks: list[Task], ensemble: list[MetaParams]) -> dict[str, np.ndarray]:
    """Return loss and accuracy of the mean logits after every step, for each task."""
    rule, net = RULES["maml"]._replace(steps=TEST_STEPS), NETS["classifier"]
    found: dict[str, list[list[float]]] = {"loss": [], "accuracy": []}
    for task in tasks:
        paths = [plain_path(net, rule, meta, task) for meta in ensemble]
        labels = task.query[1].argmax(1)
        logits = [
            torch.stack([net.forward(params, task.query[0]) for params in at_step]).mean(0)
            for at_step in zip(*paths, strict=True)
        ]
        found["loss"].append([F.cross_entropy(y, labels).item() for y in logits])
        found["accuracy"].append([(y.argmax(1) == labels).double().mean().item() for y in logits])
    return {name: np.array(values) for name, values in found.items()}


def check(curves: Curves, expected: dict[str, np.ndarray]) -> None:
    assert set(curves.values) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(curves.values[name], values, rtol=1e-9)
        np.testing.assert_allclose(curves.mean(name), values.mean(0), rtol=1e-9)


@pytest.mark.parametrize("members", [1, 2])
def test_curves_match_a_plain_loop_over_tasks(model: Model, members: int) -> None:
    loop, ensemble = make_test_loop(config(), model), metas(model, members)
    curves = adaptation_curves(
        model, loop, ensemble, draw, num_tasks=NUM_TASKS, generator=seeded(0)
    )
    assert curves.values["loss"].shape == (NUM_TASKS, TEST_STEPS + 1)
    check(curves, plain_curves(same_tasks(), ensemble))


def test_chunks_and_lists_do_not_change_the_curves(model: Model) -> None:
    loop, ensemble = make_test_loop(config(), model), metas(model, 1)
    whole, chunked, listed = (
        adaptation_curves(
            model, loop, ensemble, source, num_tasks=5, generator=seeded(0), chunk_size=size
        )
        for source, size in ((draw, None), (draw, 2), (one_by_one, None))
    )
    check(chunked, whole.values)
    check(listed, whole.values)


@pytest.mark.parametrize("bn_mode", ["query", "support"])
def test_nearest_neighbors_use_feature_space(model: Model, bn_mode: str) -> None:
    (meta,), loop = metas(model, 1), make_test_loop(config(), model)
    source = referred if bn_mode == "support" else draw
    curves = adaptation_curves(
        model, loop, [meta], source, num_tasks=5, generator=seeded(0), nearest_neighbor=True
    )
    tasks, right = source(5, seeded(0)), []
    for task in (task_of(tasks, index) for index in range(5)):
        (images, targets), (others, labels, *reference) = task.support[0], task.query
        mine = plain_features(meta.model, others, *reference)
        nearest = torch.cdist(mine, plain_features(meta.model, images)).argmin(1)
        right.append((targets[nearest] == labels).all(1).double().mean().item())
    assert curves.values["accuracy"][:, 0].tolist() == pytest.approx(right)
    assert curves.values["accuracy"].shape == (5, 1)


@pytest.mark.parametrize("start", ["zero", "prototypes"])
def test_evaluation_can_use_a_different_head(model: Model, start: str) -> None:
    (meta,) = metas(model, 1)
    loop = make_test_loop(config(), model, start=start)
    curves = adaptation_curves(model, loop, [meta], draw, num_tasks=4, generator=seeded(0))
    rule = RULES["protomaml" if start == "prototypes" else "maml"]
    rule = rule._replace(steps=TEST_STEPS, head=start)
    tasks = draw(4, seeded(0))
    for index in range(4):
        task = task_of(tasks, index)
        path = plain_path(NETS["classifier"], rule, meta, task)
        losses = [NETS["classifier"].loss(params, task.query).item() for params in path]
        assert curves.values["loss"][index].tolist() == pytest.approx(losses)
    if start == "zero":
        assert curves.values["loss"][:, 0].tolist() == pytest.approx([np.log(WAYS)] * 4)


def test_interval_is_computed_over_tasks() -> None:
    values = np.random.default_rng(0).normal(size=(600, 2))
    curves = Curves({"loss": values})
    expected = 1.96 * values.std(0, ddof=1) / np.sqrt(600)
    np.testing.assert_allclose(curves.interval("loss"), expected, rtol=3e-3)
