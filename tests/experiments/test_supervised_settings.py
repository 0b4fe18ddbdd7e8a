"""Settings of supervised runs: every flag has the documented effect."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.commands.cli import parse_train
from metarl.core import MetaState, Task, tree
from metarl.data.images import Classes, Splits
from metarl.experiments.fewshot import QUERIES, FewShotConfig, ImageClassification
from metarl.experiments.images.tasks import chunk_size
from metarl.experiments.presets import presets_of
from metarl.experiments.regression import RegressionConfig, SinusoidRegression
from metarl.experiments.supervised_setup import Parts
from tests.support.commands import history, metarl
from tests.support.problems import seeded


IMAGES = 20  # images per class
COUNTS = {"train": 6, "validation": 4, "test": 5}


def splits() -> Splits:
    """Noise images, which are all different."""
    return Splits(*(
        Classes(
            torch.randint(256, (classes * IMAGES, 1, 8, 8), generator=seeded(classes)).byte(),
            (IMAGES,) * classes,
            tuple(f"{name}{index}" for index in range(classes)),
        )
        for name, classes in COUNTS.items()
    ))  # fmt: skip


def built(config: FewShotConfig, images: Splits) -> Parts:
    experiment = ImageClassification(config)
    experiment.splits = images
    return experiment.parts


def parts_of(**settings: Any) -> Parts:
    defaults: dict[str, Any] = {"num_ways": 2, "filters": 3, "mode": "eager", "num_tasks": 2}
    return built(FewShotConfig(**defaults | settings), splits())


def first_state(parts: Parts) -> MetaState:
    return parts.learner(1).init(parts.model.params)


def drawn(parts: Parts, kind: str | None = None) -> Task:
    draw = parts.draw if kind is None else parts.evaluated[kind]
    task = draw(3, seeded(0))
    assert isinstance(task, Task)
    return task


def sizes(task: Task) -> tuple[list[int], int]:
    """Return the numbers of examples in the support batches and in the query."""
    return [batch[0].shape[1] for batch in task.support], task.query[0].shape[1]


@pytest.mark.parametrize(
    ("settings", "training", "testing"),
    [
        ({}, ([2], 2), ([2], 2 * QUERIES)),
        ({"num_shots": 3}, ([6], 6), ([6], 2 * QUERIES)),
        ({"num_shots": 8}, ([16], 16), ([16], 2 * (IMAGES - 8))),
        ({"num_queries": 4}, ([2], 8), ([2], 2 * QUERIES)),
        ({"test_queries": 4}, ([2], 2), ([2], 8)),
        ({"train_shots": 5}, ([10], 2), ([2], 2 * QUERIES)),
        ({"num_ways": 4}, ([4], 4), ([4], 4 * QUERIES)),
        (
            {"inner_batch": 3, "num_shots": 4, "inner_steps": 2, "test_steps": 5},
            ([3, 3], 8),
            ([3] * 5, 2 * QUERIES),
        ),
    ],
)  # fmt: skip
def test_tasks_have_the_configured_sizes(
    settings: dict[str, Any], training: Any, testing: Any
) -> None:
    parts = parts_of(**settings)
    assert sizes(drawn(parts)) == training
    for kind in COUNTS:
        assert sizes(drawn(parts, kind)) == testing


@pytest.mark.parametrize(
    ("rotations", "turned"),
    [("none", set()), ("train", {None}), ("all", {None, "train", "validation", "test"})],
)
def test_rotated_classes_are_added_if_configured(rotations: str, turned: set[str | None]) -> None:
    known = {
        name: {image.numpy().tobytes() for image in classes.images}
        for name, classes in splits()._asdict().items()
    }
    parts = parts_of(rotations=rotations)
    for kind in (None, *COUNTS):
        images = (drawn(parts, kind).query[0] * 255).round().byte().flatten(0, 1)
        upright = [image.numpy().tobytes() in known[kind or "train"] for image in images]
        assert all(upright) != (kind in turned)


def test_every_iteration_samples_new_tasks(tmp_path: Path) -> None:
    sizes = ("--num-tasks", 2, "--hidden", 4, "--log-every", 1, "--checkpoint-every", 4)
    still = ("--outer-lr", 0, "--validation-tasks", 2, "--iterations", 4)
    metarl("train", "regression", *sizes, *still, "--out", tmp_path / "run")
    losses = [line["query/loss"] for line in history(tmp_path / "run")]
    assert len(set(losses)) == 4


def test_query_statistics_come_from_the_query_or_the_support() -> None:
    alone, together = {}, {}
    for mode in ("query", "support"):
        parts = parts_of(bn_mode=mode)
        task = tree.map_leaves(lambda x: x[0], drawn(parts, "test"))
        params = next(parts.test_loop.steps(first_state(parts).params, task.support))
        inputs, _, *reference = task.query
        together[mode] = parts.model.apply(params, inputs, *reference)[:1]
        alone[mode] = parts.model.apply(params, inputs[:5], *reference)[:1]
    assert torch.allclose(alone["support"], together["support"], atol=1e-5)
    assert not torch.allclose(alone["query"], together["query"], atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "name", "shape"),
    [
        ({"filters": 5}, "body.blocks.3.conv.weight", (5, 5, 3, 3)),
        ({"num_ways": 3}, "head.weight", (3, 3)),
        ({"network": "conv4-flat"}, "head.weight", (2, 3)),
        ({"per_step_norm": True, "inner_steps": 4}, "body.blocks.0.norm.weight", (4, 3)),
    ],
)
def test_networks_have_the_configured_shapes(
    settings: dict[str, Any], name: str, shape: tuple[int, ...]
) -> None:
    assert first_state(parts_of(**settings)).params.model[name].shape == shape


@pytest.mark.parametrize("size", [2, 8])
def test_a_network_that_is_too_deep_for_the_images_is_rejected(size: int) -> None:
    images = Splits(*(c._replace(images=c.images[..., :size, :size]) for c in splits()))
    config = FewShotConfig(num_ways=2, network="conv4-pool")
    with pytest.raises(
        ValueError, match=f"conv4-pool is too deep for images of {size}x{size} pixels"
    ):
        built(config, images)


def test_training_has_no_requirements_for_unused_task_sizes() -> None:
    """Eight images per class are enough for two shots, but not for the test sizes."""
    few = splits().train
    chosen = [IMAGES * index + image for index in range(COUNTS["train"]) for image in range(8)]
    few = few._replace(images=few.images[chosen], counts=(8,) * COUNTS["train"])
    config = FewShotConfig(num_ways=2, num_shots=5, train_shots=2, num_queries=2, test_queries=5)
    parts = built(config, splits()._replace(train=few))
    assert sizes(drawn(parts, "test")) == ([10], 10)
    with pytest.raises(ValueError, match=r"train classes or images in data=glyphs: .* at most 8"):
        drawn(parts, "train")


def changed_by(**settings: Any) -> dict[str, torch.Tensor]:
    """Return the change of every parameter in one meta-update."""
    parts = parts_of(**settings)
    before = {name: p.clone() for name, p in first_state(parts).params.model.items()}
    state, _ = parts.learner(1).step(first_state(parts), drawn(parts))
    return {name: p - before[name] for name, p in state.params.model.items()}


def test_the_meta_gradient_is_clipped_if_configured() -> None:
    free, cut = (
        changed_by(outer="sgd", outer_lr=1.0),
        changed_by(outer="sgd", outer_lr=1.0, clip=1e-4),
    )
    assert max(x.abs().max() for x in free.values()) > 1e-3
    for name, change in free.items():
        assert torch.allclose(cut[name], change.clamp(-1e-4, 1e-4), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"outer_lr": 2e-3},
        {"inner_lr": 1.5},
        {"first_order": True},
        {"adapts": "head"},
        {"inner_steps": 2},
        {"method": "imaml", "cg_steps": 1},
        {"method": "imaml", "cg_damping": 3.0},
        {"method": "imaml", "proximal": 5.0},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_setting_changes_the_update(settings: dict[str, Any]) -> None:
    kind = {"method": settings["method"]} if "method" in settings else {}
    few = {"inner_steps": 2} if kind else {}
    usual = changed_by(outer="sgd", **kind, **few)
    found = changed_by(outer="sgd", **few | settings)
    assert any((found[name] - change).abs().max() > 1e-7 for name, change in usual.items())


@pytest.mark.parametrize("flag", ["first_order", "per_step_norm"])
def test_methods_set_their_defining_flags(flag: str) -> None:
    method = {"first_order": "fomaml", "per_step_norm": "maml++"}[flag]
    assert getattr(FewShotConfig(method=method).complete(), flag)


@pytest.mark.parametrize(
    ("experiment", "name"),
    [(e, n) for e in ("regression", "fewshot", "text") for n in presets_of(e)],
)
def test_a_preset_sets_the_values_of_the_run(experiment: str, name: str) -> None:
    kind, config, _ = parse_train([experiment, "--preset", name, "--out", "unused"])
    for setting, value in presets_of(experiment)[name].items():
        assert getattr(kind(config).config, setting) == value


def test_regression_is_evaluated_on_100_points() -> None:
    parts = SinusoidRegression(RegressionConfig(num_shots=5, num_queries=7)).parts
    assert sizes(drawn(parts)) == ([5], 7)
    for kind in COUNTS:
        assert sizes(drawn(parts, kind)) == ([5], 100)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 3),
        ({"inner_steps": 5}, 5),
        ({"inner_steps": 5, "test_steps": 2}, 2),
        ({"inner": "meta-sgd"}, 1),
        ({"method": "lslr", "inner_steps": 4}, 4),
        ({"method": "maml++", "inner_steps": 8}, 8),
        ({"method": "reptile"}, 50),
        ({"method": "protonet"}, 0),
    ],
)
def test_learned_rates_are_tested_with_the_number_of_training_steps(
    settings: dict[str, Any], steps: int
) -> None:
    assert FewShotConfig(**settings).complete().test_steps == steps


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"iterations": 49}, "eager"),
        ({"iterations": 50}, "traced"),
        ({"variable": True, "method": "protomaml"}, "eager"),
        ({"iterations": 1, "mode": "traced"}, "traced"),
    ],
)
def test_short_runs_are_not_traced(settings: dict[str, Any], mode: str) -> None:
    assert FewShotConfig(**settings).complete().mode == mode


@pytest.mark.parametrize(
    ("network", "images", "size", "tasks"),
    [
        ("conv4-stride", 2, 28, 8),  # 0.5 MB of activations each
        ("conv4-stride", 16, 28, 1),
        ("conv4-pool", 2, 28, 1),
        ("mini-32", 2, 28, 1),
        ("mini-32", 16, 84, 1),
    ],
)
def test_tasks_with_large_activations_are_processed_one_at_a_time(
    network: str, images: int, size: int, tasks: int
) -> None:
    assert chunk_size(FewShotConfig(network=network), images, size) == tasks
