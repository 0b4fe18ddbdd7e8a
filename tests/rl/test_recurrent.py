"""Recurrent and convolutional policies against torch.nn and plain autograd in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import vmap
from torch.testing import assert_close

from metarl.core import InnerLoop, Params, Task, sgd, tree
from metarl.nn import CELLS, GatedCell, LinearAttention, attention
from metarl.rl import Episodes, Policy, make_policy, make_sampler, pixels, reinforce, surrogate
from metarl.rl.baseline import baseline_features
from metarl.rl.objective import PostAdaptationObjective
from metarl.rl.pixels import NATURE, SMALL, PixelEncoder
from tests.support.problems import FLOAT64, random_mask, relative_error, seeded, task_of


LR, TIME, EPISODES, TASKS = 0.3, 4, 3, 2
FLAT = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (16, 16, 2), np.uint8)
ACTIONS = {"gaussian": spaces.Box(-1.0, 1.0, (2,)), "categorical": spaces.Discrete(3)}
TORCH: dict[str, Any] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the images of a batch, and the time steps of attention, into several blocks."""
    monkeypatch.setattr(pixels, "BLOCK", 5)
    monkeypatch.setattr(attention, "BLOCK", 3)


def double(made: tuple[Policy, Params]) -> tuple[Policy, Params]:
    """Return a policy with random float64 parameters, also in the biases."""
    policy, params = made
    generator = seeded(5)
    return policy, {
        n: p.double() + 0.01 * torch.randn(p.shape, generator=generator, dtype=FLOAT64)
        for n, p in params.items()
    }


def build(network: str, space: spaces.Box, kind: str = "gaussian") -> tuple[Policy, Params]:
    options: Any = {} if network == "cnn" else {"memory": 4}
    return double(make_policy(network, space, ACTIONS[kind], hidden=(5,), **options))


def observe(space: spaces.Box, seed: int) -> Tensor:
    shape = (TASKS, TIME, EPISODES, *space.shape)
    if space is FLAT:
        return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


def tasks_of(policy: Policy, params: Params, space: spaces.Box) -> Task:
    """Sample padded episodes whose behavior is the policy with `params`."""

    def episodes(seen: Tensor, seed: int) -> Episodes:
        generator = seeded(seed)
        rewards, gains = torch.randn(2, TIME, EPISODES, generator=generator, dtype=FLOAT64)
        mask = random_mask(TIME, EPISODES, generator)
        batch = Episodes(seen, None, rewards, mask, None, gains)
        behavior = policy.unroll(params, batch)
        return batch._replace(behavior=behavior, actions=behavior.sample(generator))

    support, query = observe(space, 0), observe(space, 1)
    return tree.stack([
        Task((episodes(support[k], k),), episodes(query[k], 10 + k)) for k in range(TASKS)
    ])  # fmt: skip


def plain_encoder(params: Params, prefix: str, seen: Tensor, space: spaces.Box) -> Tensor:
    if space is FLAT:
        x = seen
        layers = f"{prefix}.1.0"
    else:
        x = seen.flatten(0, -4).permute(0, 3, 1, 2).double() / 255
        for index, layer in enumerate(SMALL):
            kernel, bias = (params[f"{prefix}.0.{n}.{index}"] for n in ("kernels", "biases"))
            x = F.relu(F.conv2d(x, kernel, bias, stride=layer.stride))
        x = x.permute(0, 2, 3, 1).flatten(1).unflatten(0, seen.shape[:-3])
        layers = f"{prefix}.1.0"
    return F.relu(F.linear(x, params[f"{layers}.weight"], params[f"{layers}.bias"]))


def plain_attention(params: Params, inputs: Tensor) -> Tensor:
    """Compute the outputs of linear attention with a sum over all earlier time steps."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    heads = len(params["gate.bias"])
    keys = len(params["address.bias"]) // heads
    xs, outputs = [torch.zeros_like(inputs[0]), *inputs], []
    address = [layer("address", x).unflatten(-1, (heads, keys)).softmax(-1) for x in xs]
    for now in range(1, len(xs)):
        total, visits = 0, 0
        for time in range(1, now + 1):
            pair = torch.cat([xs[time - 1], xs[time]], -1)
            similarity = keys * (address[now] * address[time - 1]).sum(-1, keepdim=True)
            weight = similarity * torch.sigmoid(layer("gate", pair))[..., None]
            total = total + weight * layer("value", pair).unflatten(-1, (heads, -1))
            visits = visits + weight
        read = torch.cat([total / (1 + visits), torch.log(1 + visits)], -1).flatten(-2)
        outputs.append(torch.tanh(layer("mix", torch.cat([xs[now], read], -1))))
    return torch.stack(outputs)


def plain_outputs(network: str, params: Params, seen: Tensor, space: spaces.Box) -> Tensor:
    """Compute the outputs of the head task by task, with the cells and convolutions of torch."""
    if network == "cnn":
        features = plain_encoder(params, "encoder", seen, space)
    elif network == "attention":
        own = {n.removeprefix("trunk.cell."): p for n, p in params.items() if "cell" in n}
        features = plain_attention(own, plain_encoder(params, "trunk.encoder", seen, space))
    else:
        read = plain_encoder(params, "trunk.encoder", seen, space)
        cell = TORCH[network](read.shape[-1], 4).double()
        names = {"read": "ih", "recur": "hh"}
        own = {
            f"{part}_{short}": params[f"trunk.cell.{name}.{part}"]
            for name, short in names.items()
            for part in ("weight", "bias")
        }
        state, found = None, []
        for inputs in read:
            state = torch.func.functional_call(cell, own, (inputs, state))
            found.append(state[0] if network == "lstm" else state)
        features = torch.stack(found)
    return F.linear(features, params["head.linear.weight"], params["head.linear.bias"])


def plain_log_prob(network: str, params: Params, batch: Episodes, space: spaces.Box) -> Tensor:
    outputs = plain_outputs(network, params, batch.observations, space)
    if "head.log_std" in params:
        normal = torch.distributions.Normal(outputs, params["head.log_std"].exp())
        return normal.log_prob(batch.actions).sum(-1)
    return torch.distributions.Categorical(logits=outputs).log_prob(batch.actions)


def plain_surrogate(network: str, params: Params, task: Task, space: spaces.Box) -> Tensor:
    """Return MAML's surrogate of one task, with one inner step in plain autograd."""

    def mean(values: Tensor, mask: Tensor) -> Tensor:
        return values[mask].mean()

    support, query = task.support[0], task.query
    gains = plain_log_prob(network, params, support, space) * support.advantages
    grads = torch.autograd.grad(-mean(gains, support.mask), [*params.values()], create_graph=True)
    adapted = {n: p - LR * g for (n, p), g in zip(params.items(), grads, strict=True)}
    old = query.behavior.log_prob(query.actions).detach()
    change = plain_log_prob(network, adapted, query, space) - old
    return -mean(change.exp() * query.advantages, query.mask)


CASES = [
    ("gru", FLAT, "gaussian"), ("lstm", FLAT, "categorical"), ("cnn", IMAGE, "gaussian"),
    ("gru", IMAGE, "categorical"), ("attention", FLAT, "categorical"),
    ("attention", IMAGE, "gaussian"),
]  # fmt: skip
IDS = [f"{network}-{'flat' if space is FLAT else 'image'}-{kind}" for network, space, kind in CASES]


@pytest.mark.parametrize(("network", "space", "kind"), CASES, ids=IDS)
def test_meta_gradients_equal_plain_autograd(network: str, space: spaces.Box, kind: str) -> None:
    policy, params = build(network, space, kind)
    tasks = tasks_of(policy, params, space)
    loop = InnerLoop(reinforce(policy), sgd(LR), num_steps=1)
    found = PostAdaptationObjective(policy, loop).linearize(loop.init(params), tasks)
    own = {n: p.clone().requires_grad_() for n, p in params.items()}
    value = sum(plain_surrogate(network, own, task_of(tasks, k), space) for k in range(TASKS))
    assert isinstance(value, Tensor)
    expected = dict(zip(own, torch.autograd.grad(value, [*own.values()]), strict=True))
    assert_close(found.surrogate, value.detach(), rtol=1e-10, atol=1e-13)
    assert relative_error(found.gradient.model, expected) < 1e-10


@pytest.mark.parametrize("network", ["gru", "cnn", "attention"])
def test_fisher_products_equal_the_hessian_of_the_kl_divergence(network: str) -> None:
    space = IMAGE if network == "cnn" else FLAT
    policy, params = build(network, space)
    tasks = tasks_of(policy, params, space)
    loop = InnerLoop(reinforce(policy), sgd(LR), num_steps=1)
    # The behavior of the query episodes is the adapted policy, where KL and its gradient are zero.
    meta = loop.init(params)
    adapted = [loop.adapt(meta, task_of(tasks, k).support) for k in range(TASKS)]
    query = [
        task_of(tasks.query, k)._replace(
            behavior=policy.unroll(adapted[k], task_of(tasks.query, k))
        )
        for k in range(TASKS)
    ]
    tasks = tasks._replace(query=tree.stack([tree.detach(q) for q in query]))
    objective = PostAdaptationObjective(policy, loop)
    flat, unravel = tree.ravel(meta)
    vector = torch.randn(flat.shape, generator=seeded(3), dtype=FLOAT64)
    vector = vector / vector.norm()

    def slope(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        kl = sum(objective(unravel(at), task_of(tasks, k))[1] for k in range(TASKS))
        assert isinstance(kl, Tensor)
        return torch.autograd.grad(kl, at)[0]

    step = 1e-5
    expected = (slope(flat + step * vector) - slope(flat - step * vector)) / (2 * step)
    found = tree.ravel(objective.linearize(meta, tasks).fisher(unravel(vector)))[0]
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", TORCH)
def test_cells_equal_those_of_torch(name: str) -> None:
    mine, theirs = CELLS[name](3, 5), getattr(nn, name.upper())(3, 5)
    own = {"weight_ih_l0": mine.read.weight, "weight_hh_l0": mine.recur.weight}
    own |= {"bias_ih_l0": mine.read.bias, "bias_hh_l0": mine.recur.bias}
    for parameter in mine.parameters():
        nn.init.normal_(parameter, generator=seeded(1))
    inputs = torch.randn(7, 4, 3, generator=seeded(0))
    outputs, state = mine(inputs, mine.initial((4,)))
    expected, last = torch.func.functional_call(theirs, own, (inputs,))
    assert_close(outputs, expected)
    for found, wanted in zip(state, last if name == "lstm" else (last,), strict=True):
        assert_close(found, wanted[0])


@pytest.mark.parametrize("name", TORCH)
def test_cells_begin_with_log_uniform_time_constants(name: str) -> None:
    """Without inputs and recurrent weights, unit i keeps the fraction 1 - 1/tau_i of its memory."""
    cell = CELLS[name](1, 1000, generator=seeded(3)).double()
    assert isinstance(cell, GatedCell)
    nn.init.zeros_(cell.recur.weight)
    inputs = torch.zeros(1, 1, dtype=FLOAT64)
    state = tuple(torch.ones(1, 1000, dtype=FLOAT64) for _ in range(cell.states))
    after = cell(inputs[None], state)[1][-1].detach()
    constants = 1 / (1 - after.squeeze())
    assert 2 <= constants.min() < 2.1
    assert 95 < constants.max() <= 100
    spread = torch.log(constants - 1) / math.log(99)  # U(0, 1)
    assert spread.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_linear_attention_equals_a_sum_over_all_earlier_time_steps(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    cell = LinearAttention(3, 5, heads=2, keys=4, values=3).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, generator=seeded(0))
    inputs = torch.randn(7, 2, 6, 3, generator=seeded(1), dtype=FLOAT64)
    expected = plain_attention(dict(cell.named_parameters()), inputs)
    outputs, last = cell(inputs, cell.initial((2, 6)))
    assert_close(outputs, expected)
    # Acting: one time step at a time. The state has a fixed size.
    state = cell.initial((2, 6))
    for now, wanted in zip(inputs, expected, strict=True):
        found, state = cell(now[None], state)
        assert_close(found[0], wanted)
    assert_close(state, last)
    assert [x.shape for x in last] == [(2, 6, 3), (2, 6, 2, 4, 4)]


@pytest.mark.parametrize("shape", [(16, 20, 3), (3, 16, 20), (16, 20), (40, 40, 1)])
def test_the_image_encoder_is_the_same_under_vmap(shape: tuple[int, ...]) -> None:
    encoder = PixelEncoder(spaces.Box(0, 255, shape, np.uint8))
    assert encoder.layers == (NATURE if shape[0] == 40 else SMALL)
    images = torch.randint(256, (2, 5, *shape), generator=seeded(0), dtype=torch.uint8)
    apply = torch.func.functional_call
    params = dict(encoder.named_parameters())
    per_task = {n: torch.stack([p, 2 * p]) for n, p in params.items()}
    together = vmap(lambda own, x: apply(encoder, own, (x,)))(per_task, images)
    alone = [apply(encoder, tree.map_leaves(lambda p, k=k: p[k], per_task), (images[k],))
             for k in range(2)]  # fmt: skip
    assert together.shape == (2, 5, encoder.size)
    assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_channels_first_and_last_give_the_same_features() -> None:
    last = PixelEncoder(spaces.Box(0, 255, (16, 16, 3), np.uint8), generator=seeded(0))
    first = PixelEncoder(spaces.Box(0, 255, (3, 16, 16), np.uint8), generator=seeded(0))
    images = torch.randint(256, (5, 16, 16, 3), generator=seeded(0), dtype=torch.uint8)
    assert_close(last(images), first(images.permute(0, 3, 1, 2)))
    assert_close(last(images), last(images.double()))


def test_bounded_floats_are_scaled_like_bytes() -> None:
    whole = PixelEncoder(spaces.Box(0, 255, (16, 16, 1), np.uint8), generator=seeded(0))
    floats = PixelEncoder(spaces.Box(-1.0, 1.0, (16, 16, 1)), generator=seeded(0))
    images = torch.randint(256, (5, 16, 16, 1), generator=seeded(0), dtype=torch.uint8)
    assert_close(whole(images), floats(images.float() / 127.5 - 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "space", "message"),
    [
        ("cnn", FLAT, "requires image observations"),
        ("cnn", spaces.Box(0, 255, (8, 8, 1), np.uint8), "at least 15x15 pixels"),
        ("mlp", IMAGE, "set network=cnn"),
    ],
)
def test_unsupported_observations_name_the_network_to_use(
    network: str, space: spaces.Box, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make_policy(network, space, ACTIONS["gaussian"])


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_actions_must_be_floats_or_count_from_zero(network: str) -> None:
    for space in (spaces.Box(0, 4, (1,), np.int64), spaces.Discrete(3, start=1)):
        with pytest.raises(TypeError, match="one-dimensional Box of floating-point numbers"):
            make_policy(network, FLAT, space)


def test_context_parameters_require_an_mlp() -> None:
    with pytest.raises(TypeError, match="context parameters require network=mlp"):
        make_policy("gru", FLAT, ACTIONS["gaussian"], context=2)


@pytest.mark.parametrize(
    ("network", "env"),
    [
        ("gru", "Navigation2D"),
        ("lstm", "Bandit"),
        ("cnn", "PixelNavigation2D"),
        ("attention", "Bandit"),
    ],
)
def test_a_rollout_equals_the_unrolled_policy(network: str, env: str) -> None:
    sampler = make_sampler(f"metarl/{env}-v0", num_tasks=2, episodes_per_task=3,
                           max_episode_steps=4)  # fmt: skip
    space = sampler.env.single_observation_space, sampler.env.single_action_space
    policy, params = make_policy(network, *space, hidden=(8,), generator=seeded(0))
    tasks = sampler.sample_tasks(np.random.default_rng(0))
    expanded = tree.expand(params, 2)
    for per_task in (expanded, tree.map_leaves(lambda x: x.clone(), expanded)):
        rollout = sampler.rollout(policy, per_task, tasks, seeded(0))
        for index in range(2):
            one: Any = task_of(rollout, index)
            for found, wanted in zip(policy.unroll(params, one), one.behavior, strict=True):
                kept = one.mask[..., None]
                assert_close(found * kept, wanted * kept, rtol=0, atol=1e-5)


def test_the_baseline_averages_images_over_a_grid() -> None:
    images = torch.randint(256, (5, 3, 16, 16, 1), generator=seeded(0), dtype=torch.uint8)
    features = baseline_features(images)
    assert features.shape == (5, 3, 2 * 64 + 4)
    assert_close(features[0, 0, 0], images[0, 0, :2, :2].float().mean() / 255)


def test_the_surrogate_of_a_recurrent_policy_ignores_padding() -> None:
    policy, params = build("gru", FLAT)
    batch = task_of(tasks_of(policy, params, FLAT).query, 0)
    shifted = batch._replace(
        observations=torch.where(batch.mask[..., None], batch.observations, 1e3),
        advantages=torch.where(batch.mask, batch.advantages, torch.nan),
    )
    assert_close(*(surrogate(policy.unroll(params, x), x) for x in (batch, shifted)))
