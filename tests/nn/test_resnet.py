"""ResNet-12 against a plain implementation with torch's operators and a plain autograd loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.core import (
    InnerLoop,
    Params,
    Task,
    backprop,
    functional,
    meta_gradient,
    query_loss,
    sgd,
    tree,
)
from metarl.nn import Classifier, ResNet, ResNetBody, linear
from metarl.supervised import cross_entropy, evaluate_batch, loss_of
from tests.support.problems import randn, random_like, relative_error, seeded


LR, STEPS, SIZE = 0.1, 2, 20


def plain_norm(x: Tensor, params: Params, name: str) -> Tensor:
    return F.batch_norm(
        x, None, None, params[f"{name}.weight"], params[f"{name}.bias"], training=True
    )


def plain_features(params: Params, x: Tensor) -> Tensor:
    """Return the features of images, as in the published code without DropBlock."""
    for block in range(4):
        prefix = f"body.blocks.{block}."
        shortcut = params[prefix + "shortcut"][:, :, None, None]
        total = plain_norm(F.conv2d(x, shortcut), params, prefix + "shortcut_norm")
        for layer in range(3):
            x = F.conv2d(x, params[f"{prefix}convs.{layer}.weight"], padding=1)
            x = plain_norm(x, params, f"{prefix}norms.{layer}")
            x = x + total if layer == 2 else x
            x = F.leaky_relu(x, 0.1)
        x = F.max_pool2d(x, 2)
    return x.mean((2, 3))


def plain_loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    features = plain_features(params, batch[0])
    logits = F.linear(features, params["head.weight"], params["head.bias"])
    return F.cross_entropy(logits, batch[1])


def plain_meta_gradient(params: Params, tasks: Task) -> Params:
    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    total = torch.zeros((), dtype=torch.float64)
    for index in range(len(tasks.query[0])):
        adapted = start
        support, query = [(x[index], y[index]) for x, y in (tasks.support[0], tasks.query)]
        for _ in range(STEPS):
            loss = plain_loss(adapted, support)
            slopes = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
            adapted = {n: p - LR * g for (n, p), g in zip(adapted.items(), slopes, strict=True)}
        total = total + plain_loss(adapted, query) / len(tasks.query[0])
    return dict(zip(start, torch.autograd.grad(total, list(start.values())), strict=True))


@pytest.mark.parametrize("chunk_size", [1, None])
def test_meta_gradients_equal_a_plain_loop(chunk_size: int | None) -> None:
    body = ResNetBody(ResNet(filters=2), 3, generator=seeded(0))
    apply, params = functional(Classifier(body, linear(20, 3, generator=seeded(1))).double())
    params = tree.add(params, random_like(params), scale=0.3)
    loss = loss_of(evaluate_batch(apply, cross_entropy))
    images, targets = randn(2, 9, 3, SIZE, SIZE), torch.eye(3).double().repeat(3, 1).expand(2, 9, 3)
    tasks = Task(((images[:, :3], targets[:, :3]),), (images[:, 3:], targets[:, 3:]))
    loop = InnerLoop(loss, sgd(LR), num_steps=STEPS)
    gradient = backprop(loop, query_loss(loss))
    found, _ = meta_gradient(gradient, loop.init(params), tasks, chunk_size=chunk_size)
    assert relative_error(found.model, plain_meta_gradient(params, tasks)) < 1e-9


def test_features_have_ten_times_the_width_of_the_first_block() -> None:
    body = ResNetBody(ResNet(filters=4), 1, generator=seeded(0))
    assert body(torch.rand(5, 1, 28, 28)).shape == (5, 40)
    assert ResNet().widths == (64, 160, 320, 640)


def test_query_features_with_support_statistics_are_independent() -> None:
    body = ResNetBody(ResNet(filters=2), 1, generator=seeded(0)).double()
    query, support = randn(4, 1, 16, 16), randn(5, 1, 16, 16, seed=1)
    alone = torch.cat([body(image[None], support) for image in query])
    torch.testing.assert_close(body(query, support), alone)


def test_an_odd_number_of_filters_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"`filters` of resnet12 must be a multiple of 2, got 3"):
        ResNetBody(ResNet(filters=3), 1)
