"""LEOPARD against plain autograd: generated head, inner steps and meta-gradient."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad_and_value, jacrev
from torch.testing import assert_close

from metarl.core import MetaParams, Task, backprop, query_loss, tree
from metarl.core.estimators import meta_gradient
from metarl.core.inner import clip_norm
from metarl.experiments.supervised_settings import resolve
from metarl.experiments.supervised_setup import make_learner, make_model
from metarl.experiments.text_settings import TextConfig
from metarl.supervised.losses import evaluate_batch, present_cross_entropy
from metarl.supervised.model import Model
from metarl.text.encoders import Encoder
from metarl.text.leopard import text_classifier
from tests.support.problems import FLOAT64, randn, random_like, relative_error, seeded
from tests.support.reference_text import Plain
from tests.support.sentences import LAYERS, SIZE, random_task


STEPS = 3
TIGHT: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}


class Problem(NamedTuple):
    """Return LEOPARD in float64 with different rates, and its reference."""

    model: Model
    meta: MetaParams
    plain: Plain

    def gradient(self, *tasks: Task) -> MetaParams:
        outer = query_loss(evaluate_batch(self.model.apply, self.model.criterion), has_aux=True)
        return meta_gradient(backprop(self.model.loop, outer), self.meta, list(tasks))[0]

    def path(self, task: Task) -> list[dict[str, Tensor]]:
        with torch.no_grad():
            return self.model.loop.path(self.meta, tree.map_leaves(lambda x: x[0], task.support))


def problem(bert: Any, *, top: int = 1, first_order: bool = True, clip: float = 1.0) -> Problem:
    config = TextConfig(inner_steps=STEPS, inner_clip=clip)
    config = replace(resolve(config, config.defaults), first_order=first_order)
    encoder = Encoder(bert, top_layers=top, pooling="mean")
    module = text_classifier(encoder, SIZE, ways=2, generated=True, generator=seeded(0))
    model = make_model(config, module.double(), present_cross_entropy)
    meta = model.loop.init(model.params)
    meta = meta._replace(inner=tree.add(meta.inner, random_like(meta.inner), scale=0.03))
    return Problem(model, meta, Plain(bert, top, clip, first_order))


def by_hand(task: Task) -> Task:
    return tree.map_leaves(lambda x: x[0], task)


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_the_head_is_the_mean_of_the_generated_vectors_of_a_class(bert: Any, ways: int) -> None:
    learns = problem(bert)
    task = random_task(ways, seed=3, steps=STEPS)
    start = learns.path(task)[0]
    with torch.no_grad():
        expected = learns.plain.head(learns.meta.model, by_hand(task).support[0])
    assert start["head.weight"].shape == (ways, 256)
    assert_close({name: start[name] for name in expected}, expected, **TIGHT)


@pytest.mark.parametrize("clip", [1.0, 1e6])
@pytest.mark.parametrize("top", [0, 1, 2, LAYERS])
def test_inner_steps_match_plain_autograd(bert: Any, top: int, clip: float) -> None:
    learns = problem(bert, top=top, clip=clip)
    task = random_task(3, seed=5, steps=STEPS)
    path = learns.path(task)
    expected = learns.plain.path(learns.meta, by_hand(task).support)
    for params, theirs in zip(path, expected, strict=True):
        assert_close(params, {name: x.detach() for name, x in theirs.items()}, **TIGHT)
    uncut = problem(bert, top=top, clip=1e6).path(task)[-1]["head.weight"]
    same = torch.allclose(path[-1]["head.weight"], uncut, **TIGHT)
    assert same == (clip > 1)  # gradient norms exceed 1


def test_meta_only_parameters_stay_bit_identical(bert: Any) -> None:
    first, *_, last = problem(bert).path(random_task(2, seed=1, steps=STEPS))
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    adapts = {n for n in first if n.startswith(("head.", "body.features.")) or ".layer.2." in n}
    assert changed == adapts
    assert any("embeddings" in name for name in first)


def test_steps_of_the_generated_head_accumulate(bert: Any) -> None:
    """In the released code, each step starts from the generated head, so only the last step counts.

    https://github.com/iesl/metanlp, `fast_task_weights`.
    """
    learns = problem(bert)
    task = random_task(3, seed=5, steps=STEPS)
    found = learns.path(task)[-1]["head.weight"]
    paths = [
        learns.plain._replace(accumulates=accumulates).path(learns.meta, by_hand(task).support)
        for accumulates in (True, False)
    ]
    right, wrong = (path[-1]["head.weight"].detach() for path in paths)
    assert_close(found, right, **TIGHT)
    assert (found - wrong).abs().max() > 1e-3


@pytest.mark.parametrize("first_order", [True, False])
def test_the_meta_gradient_matches_plain_autograd_for_all_parameters(
    bert: Any, first_order: bool
) -> None:
    learns = problem(bert, first_order=first_order)
    task = random_task(3, seed=7, steps=STEPS)
    gradient = learns.gradient(task)
    expected = learns.plain.gradient(learns.meta, by_hand(task))
    assert relative_error(gradient, expected) < 1e-10
    # The bias of the keys does not change a softmax of scores.
    left = [n for n, x in gradient.model.items() if not x.any() and not n.endswith("key.bias")]
    assert not left
    assert all(rate.shape == (STEPS,) and rate.ne(0).all() for rate in gradient.inner.values())
    assert len(gradient.inner) == 4  # head, two feature layers and one encoder layer


def permuted(task: Task, order: list[int]) -> Task:
    support = tuple((inputs, targets[..., order]) for inputs, targets in task.support)
    return Task(support, (task.query[0], task.query[1][..., order]))


def test_class_order_only_affects_the_order_of_the_logits(bert: Any) -> None:
    learns = problem(bert)
    task, order = random_task(3, seed=9, steps=STEPS), [2, 0, 1]
    other = permuted(task, order)
    inputs = by_hand(task).query[0]
    logits, theirs = (
        learns.model.apply(learns.path(one)[-1], inputs).detach() for one in (task, other)
    )
    assert_close(theirs, logits[:, order], **TIGHT)
    assert relative_error(learns.gradient(other), learns.gradient(task)) < 1e-10


def test_a_meta_batch_averages_tasks_with_different_numbers_of_classes(bert: Any) -> None:
    learns = problem(bert)
    tasks = [random_task(ways, seed=ways, steps=STEPS) for ways in (2, 3, 5)]
    longer = [random_task(ways, seed=ways, steps=STEPS, pad=5) for ways in (2, 3, 5)]
    together = learns.gradient(*tasks)
    alone = tree.scale(tree.widened_total([learns.gradient(task) for task in tasks]), 1 / 3)
    for other in (alone, learns.gradient(*tasks[::-1]), learns.gradient(*longer)):
        assert relative_error(other, together) < 1e-10


def test_absent_classes_are_excluded() -> None:
    logits, present, labels = 3 * randn(4, 5, seed=1), [1, 3, 4], torch.tensor([0, 2, 1, 1])
    logits[:, 0] = 1e4  # an absent class with the largest logit
    targets = torch.full((4, 5), -1.0, dtype=FLOAT64)
    targets[:, present] = torch.eye(3, dtype=FLOAT64)[labels]
    gradient, (loss, metrics) = grad_and_value(present_cross_entropy, has_aux=True)(logits, targets)
    mine = logits[:, present].requires_grad_()
    expected = F.cross_entropy(mine, labels)
    assert_close(loss, expected.detach(), **TIGHT)
    assert_close(gradient[:, present], torch.autograd.grad(expected, mine)[0], **TIGHT)
    assert not gradient[:, [0, 2]].any()
    assert metrics["accuracy"] == (mine.argmax(-1) == labels).double().mean()


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_the_gradient_is_clipped_by_its_global_norm(size: float) -> None:
    grads = {"a": size * randn(3, 2, seed=1), "b": size * randn(4, seed=2)}
    updates, _ = clip_norm(1.0).update({}, grads, (), 0)
    leaves = [torch.zeros_like(grad) for grad in grads.values()]
    for leaf, grad in zip(leaves, grads.values(), strict=True):
        leaf.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(leaves, 1.0)
    for leaf, update in zip(leaves, updates.values(), strict=True):
        assert leaf.grad is not None
        # torch divides by the norm + 1e-6.
        factor = 1.0 if norm < 1 else (norm + 1e-6) / norm
        assert_close(-update, leaf.grad * factor, **TIGHT)


def test_clipping_a_zero_gradient_has_a_finite_derivative() -> None:
    zero = torch.zeros(3, dtype=FLOAT64)
    found = jacrev(lambda x: clip_norm(1.0).update({}, {"a": x}, (), 0)[0]["a"])(zero)
    assert_close(found, -torch.eye(3, dtype=FLOAT64))


@pytest.mark.parametrize("start", ["generated", "prototypes", "zero"])
def test_rates_per_layer_support_any_start_and_rates_per_element_do_not(
    bert: Any, start: Any
) -> None:
    generated = start == "generated"
    encoder = Encoder(bert, top_layers=1, pooling="mean")
    module = text_classifier(encoder, SIZE, ways=2, generated=generated, generator=seeded(0))
    config = TextConfig(method="lslr", start=start)
    config = resolve(config, config.defaults)
    model = make_model(config, module.double(), present_cross_entropy)
    make_learner(config, model)
    meta = model.loop.init(model.params)
    layers = {"head", "body.features.0", "body.features.2"} if generated else {"head"}
    layers.add("body.encoder.upper.model.encoder.layer.2")
    assert set(meta.inner) == {f"lr.{layer}" for layer in layers}
    for ways in (2, 4):
        task = random_task(ways, seed=0, steps=STEPS if generated else 0)
        path = Problem(model, meta, Plain(bert, 1, 1.0)).path(task)
        assert path[-1]["head.weight"].shape[0] == ways
        assert path[-1]["head.weight"].isfinite().all()
    with pytest.raises(ValueError, match=f"start={start} creates a new head .* use inner=sgd"):
        make_learner(replace(config, inner="meta-sgd"), model)
