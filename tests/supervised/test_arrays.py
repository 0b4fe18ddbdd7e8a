"""Tasks from users' arrays and functions, and training and evaluation in a few lines."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metarl.core import Task, torch_generator
from metarl.nn import Classifier, linear, mlp
from metarl.supervised import (
    FewShot,
    FunctionTasks,
    Sinusoids,
    cross_entropy,
    evaluate_tasks,
    fit,
    maml_model,
    nearest_neighbor,
    prototype_start,
    squared_error,
    zero_start,
)


SIZES = {"num_ways": 3, "num_shots": 2, "num_queries": 4}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", [lambda label: label, lambda label: f"class {label}"])
@pytest.mark.parametrize("wrapped", [np.asarray, torch.as_tensor])
def test_tasks_from_arrays_contain_whole_classes(
    name: Callable[[int], Any], wrapped: Callable[[Any], Any]
) -> None:
    y = np.random.default_rng(0).permutation(np.arange(60) % 6)
    X = np.stack([y, np.arange(60)], 1).astype(np.float64)
    pool = FewShot.from_arrays(wrapped(X), [name(label) for label in y], **SIZES)
    (support, one_hot), *_ = (tasks := pool.sample(5, generator())).support
    assert support.shape == (5, 6, 2)
    assert support.dtype == torch.float32
    for batch, targets in ((support, one_hot), tasks.query):
        for task, classes in zip(batch, targets.argmax(-1), strict=True):
            found = [set(task[classes == way, 0].tolist()) for way in range(3)]
            assert [len(labels) for labels in found] == [1, 1, 1]
            assert len(set().union(*found)) == 3
    for task in range(5):
        rows = [*support[task, :, 1].tolist(), *tasks.query[0][task, :, 1].tolist()]
        assert len(set(rows)) == 18  # different examples


def test_images_in_arrays_are_scaled_like_those_of_data_sets() -> None:
    X = np.full((20, 1, 4, 4), 51, np.uint8)
    pool = FewShot.from_arrays(X, np.arange(20) // 5, num_ways=2, num_shots=1, num_queries=1)
    assert pool.sample(2, generator()).query[0].unique().item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (np.zeros((6, 2)), r"`labels` must have shape \(6,\), one class per row .* got \(6, 2\)"),
        (np.zeros(5), r"`labels` must have shape \(6,\), .* got \(5,\)"),
        (np.zeros(6), "num_ways must be at most 1, the number of classes .*, got 3"),
        (np.arange(6) % 3, r"num_shots \+ num_queries must be at most 2, .* got 6"),
    ],
)
def test_invalid_labels_give_one_line_errors(labels: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        FewShot.from_arrays(np.zeros((6, 2)), labels, **SIZES)


def test_cross_entropy_of_class_indices_equals_that_of_torch() -> None:
    logits, indices = torch.randn(4, 10, 3, generator=generator()), torch.arange(40).view(4, 10) % 3
    for x, y in zip(logits, indices, strict=True):
        loss, metrics = cross_entropy(x, y)
        assert loss.item() == pytest.approx(F.cross_entropy(x, y).item(), rel=1e-6)
        assert torch.equal(metrics["accuracy"], (x.argmax(-1) == y).float().mean())
    losses, _ = torch.func.vmap(cross_entropy)(logits, indices)
    same, _ = torch.func.vmap(cross_entropy)(logits, F.one_hot(indices, 3).float())
    assert torch.equal(losses, same)


def test_heads_reject_class_indices_with_the_next_step() -> None:
    batch = torch.rand(4, 3), torch.arange(4) % 2
    heads: list[Callable[[], Any]] = [
        lambda: prototype_start(lambda params, x: x)({}, (batch,)),
        lambda: zero_start(3)({}, (batch,)),
        lambda: nearest_neighbor(lambda params, x: x, {}, batch, batch),
    ]
    for head in heads:
        with pytest.raises(ValueError, match=r"one-hot targets of shape .* torch\.nn\.functional"):
            head()


def test_class_indices_train_like_one_hot_targets() -> None:
    X = torch.randn(40, 4, generator=generator())
    pool = FewShot.from_arrays(X, np.arange(40) % 4, **SIZES)

    def indexed(num_tasks: int, random: torch.Generator) -> Task:
        tasks = pool.sample(num_tasks, random)
        batches = [(x, y.argmax(-1)) for x, y in (*tasks.support, tasks.query)]
        return Task((batches[0],), batches[1])

    model = maml_model(mlp((4, 8, 3)), cross_entropy, inner_lr=0.1)
    one, other = (fit(model, draw, iterations=3, num_tasks=2) for draw in (pool.sample, indexed))
    for name, value in one.model.items():
        torch.testing.assert_close(value, other.model[name])


def test_functions_become_regression_tasks() -> None:
    def line(points: int, random: torch.Generator) -> Any:
        x = torch.rand(points, generator=random)
        return x.numpy(), torch.rand(1, generator=random) * x

    tasks = FunctionTasks(line, shots=3, queries=5).sample(4, generator())
    (support, targets), (query, values) = tasks.support[0], tasks.query
    assert (support.shape, query.shape) == ((4, 3, 1), (4, 5, 1))
    slopes = torch.cat([targets / support, values / query], 1)
    torch.testing.assert_close(slopes, slopes[:, :1].expand_as(slopes))
    assert len(slopes[:, 0].unique()) == 4
    with pytest.raises(ValueError, match=r"with 8 points \(shots \+ queries\), got shape \(7,\)"):
        FunctionTasks(lambda points, _: (torch.ones(7),) * 2, 3, 5).sample(1, generator())


def test_fit_takes_the_steps_of_a_plain_loop() -> None:
    """MAML with one inner step, against autograd on one task at a time."""
    net = mlp((1, 8, 1)).double()
    params = fit(
        maml_model(net, squared_error, inner_lr=0.1),
        lambda n, random: doubled(Sinusoids(5, 5).sample(n, random)),
        iterations=3, num_tasks=2, outer_lr=0.01, seed=4,
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for iteration in (1, 2, 3):
        tasks = doubled(Sinusoids(5, 5).sample(2, torch_generator(4, iteration, "tasks")))
        optimizer.zero_grad()
        for task in range(2):
            (x, y), (x2, y2) = (tuple(z[task] for z in b) for b in (tasks.support[0], tasks.query))
            names = dict(net.named_parameters())
            inner = torch.func.functional_call(net, names, (x,))
            slopes = torch.autograd.grad(
                F.mse_loss(inner, y), list(names.values()), create_graph=True
            )
            adapted = {n: p - 0.1 * g for (n, p), g in zip(names.items(), slopes, strict=True)}
            (F.mse_loss(torch.func.functional_call(net, adapted, (x2,)), y2) / 2).backward()
        optimizer.step()
    for name, value in net.named_parameters():
        torch.testing.assert_close(params.model[name], value.detach())


def doubled(task: Task) -> Task:
    batches = [tuple(x.double() for x in batch) for batch in (*task.support, task.query)]
    return Task((batches[0],), batches[1])


def test_evaluate_tasks_prints_the_table_of_a_plain_loop(
    capsys: pytest.CaptureFixture[str],
) -> None:
    X = np.random.default_rng(0).normal(size=(60, 4)) + np.arange(60)[:, None] % 6
    pool = FewShot.from_arrays(X, np.arange(60) % 6, **SIZES)
    net = mlp((4, 8, 3))
    model = maml_model(net, cross_entropy, inner_lr=0.3, inner_steps=2)
    params = model.loop.init(model.params)
    curves = evaluate_tasks(model, params, pool.sample, num_tasks=6, seed=3)
    tasks, right = pool.sample(6, torch_generator(3, 0, "test")), []
    for task in range(6):
        (x, y), (x2, y2) = (tuple(z[task] for z in b) for b in (tasks.support[0], tasks.query))
        now = {n: p.detach().clone() for n, p in net.named_parameters()}
        for _ in range(3):
            found = torch.func.functional_call(net, now, (x2,)).argmax(-1)
            right.append((found == y2.argmax(-1)).float().mean().item())
            for p in now.values():
                p.requires_grad_()
            loss = F.cross_entropy(torch.func.functional_call(net, now, (x,)), y.argmax(-1))
            slopes = torch.autograd.grad(loss, list(now.values()))
            now = {n: (p - 0.3 * g).detach() for (n, p), g in zip(now.items(), slopes, strict=True)}
    expected = np.reshape(right, (6, 3))
    assert curves.values["accuracy"] == pytest.approx(expected)
    shown = capsys.readouterr().out
    assert "6 tasks" in shown
    assert all(f"{100 * mean:.3f}" in shown for mean in expected.mean(0))


def test_a_prototypical_network_needs_a_classifier() -> None:
    net = Classifier(linear(4, 8), linear(8, 3))
    options: Any = {"inner_lr": 0.1, "inner_steps": 0, "start": "prototypes"}
    X = np.random.default_rng(0).normal(size=(60, 4)) + 3 * (np.arange(60)[:, None] % 6)
    pool = FewShot.from_arrays(X, np.arange(60) % 6, **SIZES)
    model = maml_model(net, cross_entropy, **options)
    params = fit(model, pool.sample, iterations=2)
    assert evaluate_tasks(model, params, pool.sample, num_tasks=20).mean("accuracy")[0] > 0.8
    options["inner_steps"] = 2
    zero = maml_model(net, cross_entropy, **options | {"start": "zero"})
    evaluate_tasks(zero, fit(zero, pool.sample, iterations=2), pool.sample, num_tasks=2)
    with pytest.raises(ValueError, match=r"must be a metarl\.nn\.Classifier"):
        maml_model(mlp((4, 3)), cross_entropy, **options)


def test_wrong_sizes_and_values_are_one_line_errors() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 8)), np.arange(60) % 6
    pool = FewShot.from_arrays(X, y, **SIZES)
    model = maml_model(mlp((8, 4, 3)), cross_entropy, inner_lr=0.1)
    params = fit(model, pool, iterations=1)  # the sampler itself is accepted, as is its method
    for name in ("num_ways", "num_shots", "num_queries"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            FewShot.from_arrays(X, y, **SIZES | {name: 0})
    with pytest.raises(ValueError, match="images in class 0, got 60"):
        FewShot.from_arrays(X, y, **SIZES | {"num_shots": 56})
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        FewShot.from_arrays(X * np.nan, y, **SIZES)
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        FunctionTasks(lambda n, _: (torch.rand(n), torch.rand(n)), shots=0, queries=1)
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        fit(model, pool, iterations=-1)
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        evaluate_tasks(model, params, pool, num_tasks=0)
    few = maml_model(mlp((8, 4, 2)), inspect.unwrap(cross_entropy), inner_lr=0.1)
    with pytest.raises(ValueError, match="must have 3 outputs, one per class, got 2"):
        fit(few, pool, iterations=1)
    wide = maml_model(mlp((1, 4, 2)), inspect.unwrap(squared_error), inner_lr=0.1)
    with pytest.raises(ValueError, match="outputs of the network must have the shape"):
        fit(wide, Sinusoids(5, 5), iterations=1)
