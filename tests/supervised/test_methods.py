"""The table of methods: every row against plain autograd, and common requirements."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.core import MetaLearner, MetaParams, MetaState, Metrics, Task, tree
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import make_learner, make_model
from metarl.nn.convolution import Classifier, ConvBody, ConvNet
from metarl.nn.dense import linear, mlp
from metarl.runs import checkpoint
from metarl.supervised.batches import with_reference
from metarl.supervised.losses import cross_entropy, squared_error
from metarl.supervised.methods import METHODS
from metarl.supervised.model import Model
from tests.support.problems import randn, random_like, relative_error, seeded, task_of
from tests.support.reference_supervised import (
    CG_STEPS,
    LR,
    STEPS,
    plain_features,
    plain_meta_gradient,
)


NUM_TASKS = 3
WAYS = 3
NEEDS_A_HEAD = {"anil", "boil", "protomaml", "protonet", "zero-head"}
OF_IMAGES = METHODS.keys() - {
    "oracle",
    "leopard",
}  # leopard is tested in text/test_leopard.py
CASES = [("mlp", m) for m in METHODS if m not in NEEDS_A_HEAD | {"leopard"}] + [
    ("classifier", method) for method in METHODS if method in OF_IMAGES
]
CHEAP = {method: network for network, method in reversed(CASES)} | {"maml++": "classifier"}
every_method = pytest.mark.parametrize(("network", "method"), CASES)
DESCENT = {"outer": "sgd", "outer_lr": 1.0, "outer_schedule": "constant"}


class Problem(NamedTuple):
    config: SupervisedConfig
    model: Model
    learner: Callable[[int], MetaLearner]
    state: MetaState


def build_mlp() -> nn.Module:
    return mlp((2, 5, 1), activation="tanh", generator=seeded(0))


def build_classifier() -> nn.Module:
    body = ConvBody(ConvNet(filters=3, blocks=2), 1, generator=seeded(0))
    return Classifier(body, linear(3, WAYS, generator=seeded(1)))


BUILD = {"mlp": (build_mlp, squared_error), "classifier": (build_classifier, cross_entropy)}


def problem(
    network: str,
    method: str,
    *,
    dtype: torch.dtype = torch.float64,
    initial: bool = False,
    **given: Any,
) -> Problem:
    """Build a method on a tiny network; by default, all learned rates are different."""
    settings = {"inner_steps": STEPS, "inner_lr": LR, "num_tasks": NUM_TASKS, "outer_lr": 0.01}
    config = SupervisedConfig(method=method, **{"mode": "eager", "cg_steps": CG_STEPS, **given})
    config = resolve(config, {"": settings})
    build, criterion = BUILD[network]
    model = make_model(config, build().to(dtype), criterion)
    learner = make_learner(config, model)
    state = learner(1).init(model.params)
    generator = seeded(2)
    for p in () if initial else tree.leaves(state.params):
        p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return Problem(config, model, learner, state)


def random_tasks(network: str, *, bn_mode: str = "query", batches: int = 1) -> Task:
    """Sample float64 tasks whose classes have 1, 2 and 3 examples."""

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        if network == "mlp":
            x = randn(NUM_TASKS, 6, 2, seed=seed)
            return x, x.sum(-1, keepdim=True).sin() + randn(NUM_TASKS, 6, 1, seed=seed + 10)
        classes = torch.tensor([0, 1, 1, 2, 2, 2])
        targets = torch.eye(WAYS, dtype=torch.float64)[classes].expand(NUM_TASKS, -1, -1)
        return randn(NUM_TASKS, 6, 1, 6, 6, seed=seed), targets

    tasks = Task(tuple(batch(seed) for seed in range(5, 5 + batches)), batch(4))
    return with_reference(tasks) if bn_mode == "support" else tasks


def gradient_of(
    learner: MetaLearner, state: MetaState, tasks: Task | list[Task]
) -> tuple[MetaParams, Metrics]:
    """Return the gradient, measured by a step of gradient descent with rate 1."""
    before = tree.map_leaves(torch.clone, state.params)
    after, metrics = learner.step(state, tasks)
    return tree.add(before, after.params, scale=-1.0), metrics


@cache
def whole(network: str, method: str) -> tuple[MetaParams, Metrics]:
    """Return the gradient of a method on all tasks, and its metrics."""
    built = problem(network, method, **DESCENT)
    return gradient_of(built.learner(1), built.state, random_tasks(network))


def meaningful(params: MetaParams) -> MetaParams:
    """Exclude biases before batch norm, whose gradient is only rounding error."""
    return MetaParams(*({n: p for n, p in part.items() if "conv.bias" not in n} for part in params))


def gap(actual: MetaParams, expected: MetaParams) -> float:
    return relative_error(meaningful(actual), meaningful(expected))


@every_method
def test_meta_gradient_of_every_method_matches_plain_autograd(network: str, method: str) -> None:
    params = problem(network, method).state.params
    tasks = random_tasks(network)
    expected = plain_meta_gradient(
        method,
        network,
        params,
        [task_of(tasks, index) for index in range(NUM_TASKS)],
        weights=(1 / 2, 1 / 2) if method == "maml++" else None,
    )
    assert gap(whole(network, method)[0], expected) < 1e-10


SUPPORT = {"bn_mode": "support"}
FIRST = {"first_order": True}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("classifier", "maml", SUPPORT),
    ("classifier", "maml++", SUPPORT | {"weights": (1 / 2, 1 / 2)}),
    ("classifier", "maml++", {"iteration": 6, "weights": (1 / 4, 3 / 4)}),
    ("classifier", "maml++", {"iteration": 11}),
    ("classifier", "maml++", {"iteration": 11} | FIRST),
    ("classifier", "protomaml", SUPPORT),
    ("classifier", "protomaml", FIRST),
    ("classifier", "protomaml", {"batches": STEPS}),
    ("classifier", "protonet", SUPPORT),
    ("classifier", "reptile", {"batches": STEPS}),
    ("mlp", "maml", {"batches": STEPS}),
    ("mlp", "maml", {"first_order_until": 0.5, "iteration": 51}),
    ("mlp", "meta-sgd", FIRST),
    ("mlp", "meta-curvature", FIRST),
    ("mlp", "maml-enhanced", FIRST),
    ("classifier", "anil", FIRST | SUPPORT),
    ("classifier", "imaml", SUPPORT),
]


@pytest.mark.parametrize(("network", "method", "variant"), VARIANTS)
def test_meta_gradient_of_variants_matches_plain_autograd(
    network: str, method: str, variant: dict[str, Any]
) -> None:
    asked = {n: v for n, v in variant.items() if n in SupervisedConfig.__dataclass_fields__}
    built = problem(network, method, **DESCENT, **asked)
    drawing = {n: v for n, v in variant.items() if n in ("bn_mode", "batches")}
    tasks = random_tasks(network, **drawing)
    expected = plain_meta_gradient(
        method,
        network,
        built.state.params,
        [task_of(tasks, index) for index in range(NUM_TASKS)],
        weights=variant.get("weights"),
        first_order=variant.get("first_order", False),
    )
    learner = built.learner(variant.get("iteration", 1))
    assert gap(gradient_of(learner, built.state, tasks)[0], expected) < 1e-10


def test_derivative_order_annealing_starts_in_first_order() -> None:
    built = problem("mlp", "maml", first_order_until=0.5, **DESCENT)
    gradient, _ = gradient_of(built.learner(50), built.state, random_tasks("mlp"))
    assert gap(gradient, whole("mlp", "fomaml")[0]) < 1e-14


@pytest.mark.parametrize("network", ["mlp", "classifier"])
@pytest.mark.parametrize("method", ["meta-sgd", "lslr", "meta-curvature", "maml-enhanced"])
def test_methods_that_learn_their_rates_start_as_maml(network: str, method: str) -> None:
    tasks = random_tasks(network)
    task = task_of(tasks, 0)
    (adapted, start), (expected, maml) = (
        (
            built.learner(1).adapt(built.state.params, task.support),
            gradient_of(built.learner(1), built.state, tasks)[0],
        )
        for built in (problem(network, m, initial=True, **DESCENT) for m in (method, "maml"))
    )
    assert relative_error(adapted, expected) < 1e-14
    assert start.inner
    assert gap(MetaParams(start.model, {}), maml) < 1e-12


def test_maml_plus_plus_starts_as_multi_step_maml_with_the_same_norm_in_every_step() -> None:
    tasks = random_tasks("classifier")
    built = problem("classifier", "maml++", initial=True, **DESCENT)
    gradient, _ = gradient_of(built.learner(11), built.state, tasks)
    plain = problem("classifier", "maml", adapts="all-but-norm", initial=True, **DESCENT)
    expected, _ = gradient_of(plain.learner(1), plain.state, tasks)
    summed = {name: g.sum(0) if "norm" in name else g for name, g in gradient.model.items()}
    assert gap(MetaParams(summed, {}), expected) < 1e-12


@pytest.mark.parametrize("bn_mode", ["query", "support"])
def test_prototypical_network_classifies_by_squared_distance(bn_mode: str) -> None:
    built = problem("classifier", "protonet", **DESCENT)
    tasks = random_tasks("classifier", bn_mode=bn_mode)
    model = {n: p.clone().requires_grad_() for n, p in built.state.params.model.items()}
    losses = []
    for task in (task_of(tasks, index) for index in range(NUM_TASKS)):
        (images, targets), (others, labels, *reference) = task.support[0], task.query
        features = plain_features(model, images)
        centers = torch.stack([features[targets[:, way] == 1].mean(0) for way in range(WAYS)])
        distances = torch.cdist(plain_features(model, others, *reference), centers)
        losses.append(F.cross_entropy(-(distances**2), labels.argmax(-1)))
    grads = torch.autograd.grad(torch.stack(losses).mean(), list(model.values()))
    expected = MetaParams(dict(zip(model, grads, strict=True)), {})
    gradient, metrics = gradient_of(built.learner(1), built.state, tasks)
    assert gap(gradient, expected) < 1e-10
    assert metrics["query/loss"].item() == pytest.approx(torch.stack(losses).mean().item())


@every_method
def test_gradient_reaches_every_meta_parameter(network: str, method: str) -> None:
    gradient, _ = whole(network, method)
    for part in meaningful(gradient):
        for name, g in part.items():
            assert g.abs().max() > 1e-6, name
    if method == "maml++":
        norms = {n: g for n, g in gradient.model.items() if "norm" in n}
        assert all(len(g) == STEPS and g.abs().amax(1).gt(1e-6).all() for g in norms.values())
    if method == "zero-head" or method.startswith("proto"):
        assert not any(name.startswith("head") for name in gradient.model)


@every_method
def test_chunks_and_task_order_do_not_matter(network: str, method: str) -> None:
    expected, metrics = whole(network, method)
    tasks = tree.map_leaves(lambda x: x[[2, 0, 1]], random_tasks(network))
    built = problem(network, method, chunk_size=2, **DESCENT)
    gradient, same = gradient_of(built.learner(1), built.state, tasks)
    assert gap(gradient, expected) < 1e-10
    assert relative_error(same, metrics) < 1e-10


@pytest.mark.parametrize("method", ["zero-head", "protomaml", "protonet"])
def test_tasks_of_unequal_sizes_come_as_a_list(method: str) -> None:
    tasks = random_tasks("classifier")
    each = [tree.map_leaves(lambda x, i=i: x[i : i + 1], tasks) for i in range(NUM_TASKS)]
    built = problem("classifier", method, **DESCENT)
    gradient, _ = gradient_of(built.learner(1), built.state, each)
    assert gap(gradient, whole("classifier", method)[0]) < 1e-10

    (images, targets), (others, labels) = each[1].support[0], each[1].query
    smaller = Task(((images[:, :3], targets[:, :3, :2]),), (others[:, :2], labels[:, :2, :2]))
    built = problem("classifier", method, **DESCENT)
    params = built.state.params
    expected = plain_meta_gradient(
        method, "classifier", params, [task_of(each[0], 0), task_of(smaller, 0)]
    )
    gradient, _ = gradient_of(built.learner(1), built.state, [each[0], smaller])
    assert gap(gradient, expected) < 1e-10


@pytest.mark.parametrize(("method", "network"), {m: n for n, m in CASES}.items())
def test_float32_agrees_with_float64(method: str, network: str) -> None:
    built = problem(network, method, dtype=torch.float32, **DESCENT)
    tasks = tree.map_leaves(lambda x: x.float(), random_tasks(network))
    gradient, metrics = gradient_of(built.learner(1), built.state, tasks)
    assert all(g.dtype == torch.float32 for g in tree.leaves((gradient, metrics)))
    assert gap(tree.map_leaves(lambda x: x.double(), gradient), whole(network, method)[0]) < 1e-4


@pytest.mark.parametrize("method", ["maml++", "imaml"])
def test_results_are_bit_identical_for_any_number_of_threads(method: str) -> None:
    allowed, tasks = torch.get_num_threads(), random_tasks(CHEAP[method])
    found = []
    for threads in (1, 2):
        built = problem(CHEAP[method], method, chunk_size=1)
        torch.set_num_threads(threads)
        try:
            found.append(built.learner(1).step(built.state, tasks))
        finally:
            torch.set_num_threads(allowed)
    (one, metrics), (two, same) = found
    assert all(a.equal(b) for a, b in zip(*map(tree.leaves, (one.params, two.params)), strict=True))
    assert metrics == same


@pytest.mark.parametrize(("method", "network"), CHEAP.items())
def test_a_saved_and_loaded_run_continues_bit_identically(
    method: str, network: str, tmp_path: Path
) -> None:
    tasks = random_tasks(network)

    def save(state: MetaState, name: str) -> Path:
        checkpoint.save(tmp_path / name, state, iteration=0, config={})
        return tmp_path / name

    _, _, learner, state = problem(network, method, chunk_size=2)
    for iteration in (1, 2):
        state, _ = learner(iteration).step(state, tasks)
    middle = save(state, "middle")
    state, metrics = learner(3).step(state, tasks)

    _, model, learner, _ = problem(network, method, chunk_size=2, initial=True)
    again = checkpoint.restore(learner(3).init(model.params), checkpoint.load(middle))
    assert save(again, "again").read_bytes() == middle.read_bytes()
    again, same = learner(3).step(again, tasks)
    assert save(again, "last").read_bytes() == save(state, "expected").read_bytes()
    assert same == metrics


def learnable_tasks(network: str) -> Task:
    """Sample tasks whose support and query share the function or the patterns."""
    count, generator = 4, seeded(3)
    if network == "mlp":
        x, shift = 3 * randn(count, 20, 2), randn(count, 1, 1, seed=1)
        y = torch.sin(x.sum(-1, keepdim=True) + shift)
        return Task(((x[:, :10], y[:, :10]),), (x[:, 10:], y[:, 10:]))
    patterns = torch.randn(count, WAYS, 1, 1, 6, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, WAYS, 4, 1, 6, 6, generator=generator, dtype=torch.float64)
    images = patterns + 0.3 * noise
    targets = torch.eye(WAYS, dtype=torch.float64).repeat_interleave(2, 0).expand(count, -1, -1)
    support, query = (part.flatten(1, 2) for part in images.split(2, 2))
    return Task(((support, targets),), (query, targets))


@pytest.mark.parametrize(("method", "network"), CHEAP.items())
def test_loss_falls_in_a_few_iterations(method: str, network: str) -> None:
    rates = {"inner_lr": 0.01} if method == "reptile" else {"outer_lr": 0.05}
    built, tasks = problem(network, method, initial=True, **rates), learnable_tasks(network)
    state, losses = built.state, []
    for iteration in range(1, 11):
        state, metrics = built.learner(iteration).step(state, tasks)
        losses.append(metrics["query/loss"].item())
    assert losses[-1] < 0.9 * losses[0]


def test_traced_methods_equal_eager_methods() -> None:
    small = {"inner_steps": 1, "cg_steps": 1, **DESCENT}
    expected, traced = (problem("mlp", "imaml", mode=mode, **small) for mode in ("eager", "traced"))
    for seed in (0, 1):  # the second call uses the traced program
        tasks = tree.add(random_tasks("mlp"), random_like(random_tasks("mlp"), seed))
        gradient, metrics = gradient_of(traced.learner(1), traced.state, tasks)
        same, measured = gradient_of(expected.learner(1), expected.state, tasks)
        assert gap(gradient, same) < 1e-12
        assert relative_error(metrics, measured) < 1e-12


@pytest.mark.parametrize("method", ["anil", "boil", "protomaml", "protonet", "zero-head"])
def test_methods_that_require_a_head_reject_other_networks(method: str) -> None:
    with pytest.raises(ValueError, match=r"metarl\.nn\.Classifier\(body, head\), got Sequential"):
        problem("mlp", method)


@pytest.mark.parametrize("method", ["reptile", "imaml"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"inner": "lslr"},
            "cannot learn the hyperparameters of inner=lslr, such as step sizes; use",
        ),
        ({"multi_step_until": 0.1}, "remove multi_step_until"),
        ({"inner_steps": 0}, "requires inner_steps of at least 1, got 0"),
    ],
)
def test_reptile_and_implicit_reject_learned_rates(
    method: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        problem("mlp", method, **given)


def test_implicit_gradient_requires_a_proximal_term() -> None:
    message = r"estimator=implicit requires `proximal` greater than 0, got 0\.0"
    with pytest.raises(ValueError, match=message):
        problem("mlp", "imaml", proximal=0.0)


def test_an_unknown_method_is_rejected() -> None:
    with pytest.raises(ValueError, match="unknown method=maxml: expected one of maml, fomaml"):
        SupervisedConfig(method="maxml")


@pytest.mark.parametrize("method", list(METHODS))
def test_flags_override_the_method_and_the_method_overrides_the_experiment(method: str) -> None:
    settings = {"": {"inner_steps": 3, "inner_lr": 0.5, "num_tasks": 2, "outer_lr": 0.1}}
    config = resolve(SupervisedConfig(method=method), settings)
    for name, value in METHODS[method].values.items():
        assert getattr(config, name) == value
    asked = resolve(SupervisedConfig(method=method, inner_steps=7), settings)
    assert asked.inner_steps == 7
    unset = {n for n, value in vars(config).items() if value is None}
    assert unset <= {
        "inner_batch", "inner_clip", "clip", "chunk_size", "mode", "keep_checkpoints",
        "media_every",
    }  # fmt: skip
