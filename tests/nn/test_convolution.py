"""Convolution, batch norm and pooling against torch, with first and second derivatives."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap
from torch.testing import assert_close

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
from metarl.core.parameters import fused_norm
from metarl.core.speed import Mode
from metarl.nn.convolution import Classifier, Conv3x3, ConvBody, ConvNet, max_pool
from metarl.nn.dense import linear
from metarl.nn.fused_norm import batch_norm
from metarl.nn.norms import BatchNorm
from metarl.nn.shifts import shifted_copies
from metarl.supervised import cross_entropy, evaluate_batch, loss_of
from metarl.supervised.networks import NETWORKS, image_body
from tests.support.problems import randn, random_like, relative_error, seeded
from tests.support.reference_supervised import same_conv


Function = Callable[[Params, Tensor], Tensor]
TASKS = 2


def squared_sum(function: Function) -> Function:
    """Return a scalar of the outputs with a nonzero second derivative."""
    return lambda params, x: (function(params, x) ** 3).sum()


def slope_of_slope(function: Function) -> Function:
    """Return a second-order derivative: the gradient of the squared gradient norm."""
    first = grad(squared_sum(function), argnums=(0, 1))
    return lambda params, x: sum(g.square().sum() for g in tree.leaves(first(params, x)))


def plain_derivatives(
    function: Function, params: Params, x: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the outputs and the first and second derivatives in plain autograd."""
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    inputs = [*params.values(), x := x.clone().requires_grad_()]
    outputs = function(params, x)
    first = torch.autograd.grad((outputs**3).sum(), inputs, create_graph=True)
    norm = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(norm, inputs)
    return outputs.detach(), [g.detach() for g in first], list(second)


def check_derivatives(ours: Function, theirs: Function, params: Params, x: Tensor) -> None:
    """Compare under ``vmap`` over tasks with different parameters."""
    params = tree.stack([random_like(params, seed) for seed in range(TASKS)])
    x = torch.stack([x, random_like(x, 9)])
    found = [
        vmap(ours)(params, x),
        tree.leaves(vmap(grad(squared_sum(ours), argnums=(0, 1)))(params, x)),
        tree.leaves(vmap(grad(slope_of_slope(ours), argnums=(0, 1)))(params, x)),
    ]
    each = [
        plain_derivatives(theirs, {n: p[task] for n, p in params.items()}, x[task])
        for task in range(TASKS)
    ]
    for mine, other in zip(found, map(list, zip(*each, strict=True)), strict=True):
        assert relative_error(mine, tree.stack(other)) < 1e-10


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 6), (5, 5), (6, 3), (2, 1), (1, 4)])
def test_convolution_matches_torch_with_tensorflow_padding(
    size: tuple[int, int], stride: int
) -> None:
    apply, params = functional(Conv3x3(2, 3, stride=stride, generator=seeded(0)).double())

    def theirs(params: Params, x: Tensor) -> Tensor:
        return channels_last(same_conv(channels_first(x), params["weight"], params["bias"], stride))

    x = randn(2, *size, 2)
    check_derivatives(apply, theirs, params, x)
    assert apply(params, x).shape == (2, *(-(-side // stride) for side in size), 3)


def test_kernel_orientation_is_cross_correlation() -> None:
    conv = Conv3x3(1, 1, stride=1, generator=None).double()
    with torch.no_grad():
        conv.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    spot = torch.zeros(1, 5, 6, 1, dtype=torch.float64)
    spot[0, 2, 3] = 1
    expected = torch.arange(9.0, dtype=torch.float64).view(3, 3).flip(0, 1)  # cross-correlation
    assert_close(conv(spot)[0, 1:4, 2:5, 0], expected)


def fused_norm_of(params: Params, x: Tensor) -> Tensor:
    scale = params.get("weight", torch.ones_like(params["bias"]))
    flat = x.flatten(0, -2)
    return F.batch_norm(flat, None, None, scale, params["bias"], training=True).view(x.shape)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 2, 3)])
def test_batch_norm_matches_torch(shape: tuple[int, ...], scale: bool) -> None:
    apply, params = functional(BatchNorm(3, scale=scale).double())
    assert list(params) == (["weight", "bias"] if scale else ["bias"])
    check_derivatives(apply, fused_norm_of, params, randn(*shape))


def test_batch_norm_is_exact_for_the_other_nesting() -> None:
    apply, params = functional(BatchNorm(3).double())
    x = randn(TASKS, 6, 3)

    def adapted_loss(params: Params) -> Tensor:
        def of_task(x: Tensor) -> Tensor:
            step = grad(squared_sum(apply))(params, x)
            return squared_sum(apply)(tree.add(params, step, scale=-0.1), x)

        return vmap(of_task)(x).sum()

    params = random_like(params, seed=1)
    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    total = torch.zeros((), dtype=torch.float64)
    for one in x:
        inner = (fused_norm_of(start, one) ** 3).sum()
        step = torch.autograd.grad(inner, list(start.values()), create_graph=True)
        moved = {n: p - 0.1 * g for (n, p), g in zip(start.items(), step, strict=True)}
        total = total + (fused_norm_of(moved, one) ** 3).sum()
    expected = dict(zip(start, torch.autograd.grad(total, list(start.values())), strict=True))
    assert relative_error(grad(adapted_loss)(params), expected) < 1e-10


def test_batch_norm_uses_the_statistics_of_the_reference() -> None:
    norm = BatchNorm(3, eps=1e-3).double()
    x = 2 + randn(7, 2, 3)
    variance, mean = torch.var_mean(x[4:], (0, 1), correction=0)
    expected = (x - mean) / (variance + 1e-3).sqrt()
    assert_close(norm(x, 4).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [(4, 4), (5, 4), (5, 5), (3, 2)])
def test_max_pool_matches_torch(size: tuple[int, int], padding: str) -> None:
    def theirs(params: Params, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(channels_first(x), 2, ceil_mode=padding == "same")
        return channels_last(pooled) * params["scale"]

    def ours(params: Params, x: Tensor) -> Tensor:
        return max_pool(x, padding=padding) * params["scale"]

    check_derivatives(ours, theirs, {"scale": randn(2)}, randn(3, *size, 2))


def plain_body(net: ConvNet, params: Params, images: Tensor) -> Tensor:
    """The blocks with torch's layers, channels first, without flattening the features."""
    x = images
    for index in range(net.blocks):
        own = {n.removeprefix(f"blocks.{index}."): p for n, p in params.items()}
        x = same_conv(x, own["conv.weight"], own["conv.bias"], 2 if net.down == "stride" else 1)
        scale = own.get("norm.weight", torch.ones_like(own["norm.bias"]))
        x = F.batch_norm(x, None, None, scale, own["norm.bias"], training=True, eps=net.eps)
        x = F.relu(x) if net.activation == "relu" else F.leaky_relu(x, 0.01)
        if net.down == "pool":
            x = F.max_pool2d(x, 2, ceil_mode=net.pool_padding == "same")
    return x.mean((2, 3)) if net.features == "mean" else channels_last(x).flatten(1)


NETS = {
    "stride and mean": ConvNet(3, 2),
    "stride, flat, no scale": ConvNet(3, 2, features="flatten", scale=False, eps=1e-3),
    "pool and leaky": ConvNet(3, 2, "pool", features="flatten", activation="leaky_relu"),
    "pool with padding": ConvNet(3, 2, "pool", "same", "flatten"),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_body_is_the_composition_of_its_blocks(net: ConvNet) -> None:
    apply, params = functional(ConvBody(net, 2, generator=seeded(0)).double())
    check_derivatives(apply, lambda p, x: plain_body(net, p, x), params, randn(4, 2, 5, 5))


def classifier(net: ConvNet, *, channels: int, size: int, ways: int = 5) -> Classifier:
    body = ConvBody(net, channels, generator=seeded(0))
    features = body(torch.zeros(1, channels, size, size)).shape[-1]
    return Classifier(body, linear(features, ways, generator=seeded(1)))


def test_query_features_with_support_statistics_are_independent() -> None:
    apply, params = functional(classifier(ConvNet(3, 2), channels=1, size=6).double())
    params = random_like(params, seed=1)
    query, support = randn(4, 1, 6, 6), randn(5, 1, 6, 6, seed=1)
    logits = apply(params, query, support)
    alone = torch.cat([apply(params, image[None], support) for image in query])
    assert_close(logits, alone, rtol=1e-10, atol=1e-12)
    assert_close(apply(params, query, query), apply(params, query), rtol=1e-10, atol=1e-12)
    assert relative_error(apply(params, query), logits) > 1e-2
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(apply(params, query, support[order]), logits, rtol=1e-10, atol=1e-12)


def test_classifier_accepts_any_body() -> None:
    body = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    network = Classifier(body, linear(4, 2, generator=seeded(0)))
    inputs = randn(5, 3).float()
    assert_close(network(inputs), network.head(body(inputs)))


COUNTS = {
    "conv4-stride": (1, 28, 112_261),
    "conv4-flat": (1, 28, 113_221),
    "conv4-pool": (1, 28, 112_261),
    "mini-32": (3, 84, 32_901),
    "mini-48": (3, 84, 70_085),
    "mini-same": (3, 84, 34_661),
    "resnet12": (3, 84, 12_427_525),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    channels, size, count = COUNTS[name]
    body = image_body(name, channels)
    head = linear(body(torch.zeros(1, channels, size, size)).shape[-1], 5)
    assert sum(p.numel() for p in Classifier(body, head).parameters()) == count


def test_network_of_maml_has_no_scale() -> None:
    network = classifier(ConvNet(scale=False), channels=1, size=28)
    assert sum(p.numel() for p in network.parameters()) == 112_005


def test_network_weights_depend_only_on_the_generator() -> None:
    before = torch.get_rng_state()
    one, two = (functional(classifier(ConvNet(3, 2), channels=1, size=6))[1] for _ in range(2))
    assert_close(one, two, rtol=0, atol=0)
    assert torch.get_rng_state().equal(before)
    kernel = one["body.blocks.1.conv.weight"]
    assert 0.5 < kernel.abs().max() / (6 / (27 + 27)) ** 0.5 <= 1  # Xavier-uniform
    assert all(p.eq(0).all() for name, p in one.items() if name.endswith("bias"))
    assert all(p.eq(1).all() for name, p in one.items() if name.endswith("norm.weight"))


def test_network_has_no_fused_normalization() -> None:
    assert fused_norm(functional(classifier(ConvNet(3, 2), channels=1, size=6))[0]) is None


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 3), (3, 4), (8, 7)])
def test_shifted_copies_are_the_pixels_under_the_kernel(size: tuple[int, int], stride: int) -> None:
    x, tangent = randn(2, *size, 4, seed=0), randn(2, *size, 4, seed=1)
    places = [range(0, length - 2, stride) for length in size]
    copies = shifted_copies(x, stride)
    assert copies.shape == (2, *map(len, places), 36)
    for row, i in enumerate(places[0]):
        for column, j in enumerate(places[1]):
            assert_close(copies[:, row, column], x[:, i : i + 3, j : j + 3].flatten(1))
    moved = jvp(lambda x: shifted_copies(x, stride), (x,), (tangent,))[1]
    assert_close(moved, shifted_copies(tangent, stride), rtol=0, atol=0)
    weights = random_like(copies, 2)
    (slope,) = vjp(lambda x: shifted_copies(x, stride), x)[1](weights)
    assert_close((slope * tangent).sum(), (weights * moved).sum())  # the adjoint


def meta_gradient_of(
    make: Callable[..., nn.Module],
    size: int,
    chunk: int | None,
    dtype: torch.dtype,
    mode: Mode = "eager",
) -> Tensor:
    """Return the meta-gradient of two tasks, one at a time (chunk 1) or under vmap."""
    generator = seeded(0)
    body = make(generator=generator)
    width = body(torch.zeros(1, 3, size, size)).shape[-1]
    apply, params = functional(Classifier(body, linear(width, 5, generator=generator)))
    loss = loss_of(evaluate_batch(apply, cross_entropy))
    images = torch.rand(2, 15, 3, size, size, generator=generator)
    targets = torch.eye(5).repeat(3, 1).expand(2, 15, 5)
    tasks = Task(((images[:, :5], targets[:, :5]),), (images[:, 5:], targets[:, 5:]))
    loop = InnerLoop(loss, sgd(0.01), num_steps=2)
    meta = loop.init({name: p.detach().to(dtype) for name, p in params.items()})
    tasks = tree.map_leaves(lambda x: x.to(dtype), tasks)
    estimator = backprop(loop, query_loss(loss))
    gradient, _ = meta_gradient(estimator, meta, tasks, chunk_size=chunk, mode=mode)
    return tree.ravel(gradient)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_operators_give_the_meta_gradient_of_the_operators_under_vmap(name: str) -> None:
    make = partial(image_body, name, 3, filters=6)
    fused, batched = (meta_gradient_of(make, 21, chunk, torch.float64) for chunk in (1, None))
    assert relative_error(fused, batched) < 1e-10


@pytest.mark.parametrize("chunk", [1, None])
def test_traced_programs_reuse_memory_without_changing_the_meta_gradient(chunk: int | None) -> None:
    net = ConvNet(4, down="pool", features="flatten", pool_padding="same")
    make = partial(ConvBody, net, 3)
    eager, traced = (
        meta_gradient_of(make, 21, chunk, torch.float64, mode) for mode in ("eager", "traced")
    )
    assert relative_error(traced, eager) < 1e-12


def test_fused_operators_are_accurate_in_single_precision() -> None:
    make = partial(ConvBody, ConvNet(16, activation="tanh"), 3)  # smooth
    exact = meta_gradient_of(make, 56, None, torch.float64)
    assert relative_error(meta_gradient_of(make, 56, 1, torch.float32).double(), exact) < 1e-5


@pytest.mark.parametrize("scale", [True, False])
def test_fused_batch_norm_has_exact_derivatives_of_every_order(scale: bool) -> None:
    weight = randn(2, seed=1).requires_grad_() if scale else None
    inputs = (randn(2, 1, 2, 2).requires_grad_(), weight, randn(2, seed=2).requires_grad_())

    def slope(x: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
        y = batch_norm(x, weight, bias, 1e-5)
        return torch.autograd.grad((y**3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(lambda *a: batch_norm(*a, 1e-5), inputs)
    assert torch.autograd.gradcheck(slope, inputs)
    assert torch.autograd.gradgradcheck(slope, inputs)


def test_fused_batch_norm_is_accurate_in_single_precision() -> None:
    x = randn(80, 42, 42, 8) + 3
    expected = F.batch_norm(x.permute(0, 3, 1, 2), None, None, training=True).permute(0, 2, 3, 1)
    result = batch_norm(x.float(), None, torch.zeros(8), 1e-5)
    assert relative_error(result.double(), expected) < 1e-6
