"""Augmentation and normalization of photographs in training, evaluation and trained models."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl as library
from metarl.core import Task, torch_generator, tree
from metarl.data import FAMILIES, TRANSFORMS, Splits, load_images, pixel_statistics
from metarl.experiments.fewshot import FewShotConfig, ImageClassification
from metarl.experiments.supervised_models import image_classifier
from metarl.runs import Run
from tests.support.commands import history, metarl, refusal
from tests.support.own_images import write_classes


NAMES = [f"thing-{number:02}" for number in range(12)]
SIZES = {"num_ways": 2, "filters": 3, "num_tasks": 4, "image_size": 16, "validation_tasks": 2}
FLAGS = ["--data", "folder", "--ways", 2, "--filters", 3, "--num-tasks", 4, "--image-size", 16]
FLAGS += [
    "--mode",
    "eager",
    "--validation-tasks",
    2,
    "--iterations",
    4,
    "--checkpoint-every",
    2,
    "--log-every",
    1,
]
AUGMENTED = ["--augment", "crop", "flip", "color", "--normalize", "data"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of eight color images."""
    root = tmp_path_factory.mktemp("photographs") / "pictures"
    return write_classes(root, NAMES, num_images=8, size=16, color=True)


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four iterations with all transforms and normalization."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["--method", "protomaml", "--inner-steps", 1, *AUGMENTED]
    metarl("train", "fewshot", *FLAGS, "--data-root", pictures, *words, "--out", out)
    return out


def built(pictures: Path, **settings: Any) -> ImageClassification:
    sizes: dict[str, Any] = {"data": "folder", "data_root": pictures, "mode": "eager", **SIZES}
    return ImageClassification(FewShotConfig(device="cpu", **sizes | settings))


def drawn(experiment: ImageClassification, iteration: int = 1) -> Task:
    tasks, _ = experiment.draw(experiment.init(), iteration)
    assert isinstance(tasks, Task)
    return tasks


def same(one: Task, other: Task) -> bool:
    return all(map(torch.equal, tree.leaves(one), tree.leaves(other)))


# Augmentation.


def test_only_the_images_of_training_tasks_are_augmented(pictures: Path) -> None:
    plain, changed = built(pictures), built(pictures, augment=("flip",))
    before, after = drawn(plain), drawn(changed)
    for (images, targets), (others, labels) in zip(
        (*before.support, before.query), (*after.support, after.query), strict=True
    ):
        mirrored = (others == images.flip(-1)).all((-3, -2, -1))
        kept = (others == images).all((-3, -2, -1))
        assert (mirrored | kept).all()
        assert mirrored.any()
        assert kept.any()
        assert torch.equal(targets, labels)
    for split in ("train", "validation", "test"):
        tasks = [
            experiment.parts.evaluated[split](3, torch_generator(0, 0, split))
            for experiment in (plain, changed)
        ]
        assert same(*tasks)  # type: ignore[arg-type]


def test_augmented_tasks_depend_only_on_the_seed_and_the_iteration(pictures: Path) -> None:
    augmented = {"augment": ("crop", "flip", "color")}
    first = drawn(built(pictures, **augmented))
    assert same(first, drawn(built(pictures, **augmented, chunk_size=1)))
    assert not same(first, drawn(built(pictures, **augmented), 2))
    assert not same(first, drawn(built(pictures, **augmented, seed=1)))


def test_minibatches_reference_images_and_pretraining_use_augmented_images(
    pictures: Path,
) -> None:
    """A bright image has no pixel that is exactly 0, unless it is cropped."""
    options: list[dict[str, Any]] = [
        {"inner_batch": 2, "num_shots": 2, "inner_steps": 3},
        {"bn_mode": "support"},
        {"method": "pretrained"},
        {"variable": True, "num_ways": 6, "start": "zero", "inner_steps": 1, "num_tasks": 2},
    ]
    for settings in options:
        experiment = built(pictures, augment=("crop",), **settings)
        experiment.splits = Splits(*(
            part._replace(images=part.images.clamp(min=50)) for part in experiment.splits
        ))  # fmt: skip
        tasks, _ = experiment.draw(experiment.init(), 1)
        for task in [tasks] if isinstance(tasks, Task) else tasks:
            images = [x for x in tree.leaves(task) if x.ndim == 5]
            assert images
            assert all((x == 0).any() for x in images)


def test_a_resumed_run_equals_an_uninterrupted_run(
    pictures: Path, trained: Path, tmp_path: Path
) -> None:
    words = ["--method", "protomaml", "--inner-steps", 1, *AUGMENTED, "--iterations", 2]
    metarl("train", "fewshot", *FLAGS, "--data-root", pictures, *words, "--out", tmp_path / "half")
    metarl("resume", tmp_path / "half", "--iterations", 4)
    assert history(tmp_path / "half") == history(trained)


def test_the_help_names_all_data_sets_and_transforms(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("train", "fewshot", "--help")
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    (data,) = re.findall(r"--data STR (.*?)\. With", shown)
    assert re.findall(r"[\w-]+", data)[3:] == [*list(FAMILIES)[:-1], "or", "folder"]
    (transforms,) = re.findall(r"--augment (.*?) \(default: none\)", shown)
    assert all(f" {name} " in transforms for name in TRANSFORMS)


def test_unknown_transforms_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--augment", "crop", "blur", "--out", tmp_path / "run"]
    line = refusal(capsys, "train", "fewshot", *words)
    assert "--augment must be one of crop, flip, color, got" in line


# Normalization.


def test_a_run_stores_the_statistics_of_its_training_images(trained: Path, pictures: Path) -> None:
    train = load_images("folder", data_root=pictures, image_size=16).train
    config = library.load(trained).learner.origin.config
    assert config.pixels == pixel_statistics(train.images)
    assert config.augment == ("crop", "flip", "color")
    features = built(pictures, normalize="data").parts.model.apply.module.body
    assert features.input_mean.flatten().tolist() == pytest.approx(config.pixels[0])


def test_every_later_use_normalizes_with_the_statistics_of_training(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    """Adaptation and prediction equal those of a plain network on normalized images."""
    model = library.load(trained)
    config = model.learner.origin.config
    mean, std = (torch.tensor(values)[:, None, None] for values in config.pixels)
    plain = image_classifier(
        "fewshot", replace(config, pixels=None), model.learner.params, torch.device("cpu")
    )
    data = load_images("folder", data_root=pictures, image_size=16, split="all-train").train
    images = data.images[:16]  # two classes
    support, query = images[::2], images[1::2].float() / 255
    labels = ["a"] * 4 + ["b"] * 4
    adapted = model.adapt(support.numpy(), labels)
    targets = torch.eye(2).repeat_interleave(4, 0)
    expected = plain.learner.adapt((support.float() / 255 - mean) / std, targets)
    logits = expected((query - mean) / std)
    torch.testing.assert_close(adapted.network(query), logits)
    torch.testing.assert_close(adapted.module()(query), logits)
    exported = torch.export.export(adapted.module(), (query,)).module()
    torch.testing.assert_close(exported(query), logits)
    adapted.save(tmp_path / "saved.safetensors")
    restored = library.load_adapted(tmp_path / "saved.safetensors")
    np.testing.assert_array_equal(
        restored.predict_proba(images[1::2].numpy()), adapted.predict_proba(images[1::2].numpy())
    )


def test_evaluations_on_other_data_use_the_statistics_of_training(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    """The test classes in a folder of their own give the same result."""
    metarl("evaluate", trained, "--num-tasks", 5)
    expected = Run.open(trained).evaluations()[0]["mean"]
    for name in load_images("folder", data_root=pictures, image_size=16).test.names:
        (tmp_path / "test" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "test" / name).symlink_to(pictures / name)
    words = ["--num-tasks", 5, "--data", "folder", "--data-root", tmp_path / "test"]
    metarl("evaluate", trained, *words)
    assert Run.open(trained).evaluations()[0]["mean"] == expected


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_normalization_equals_training_on_normalized_images(pictures: Path, mode: str) -> None:
    """One meta-update with second derivatives, in both modes."""
    options: dict[str, Any] = {"method": "maml", "mode": mode, "outer": "sgd", "chunk_size": 4}
    normalized, plain = built(pictures, normalize="data", **options), built(pictures, **options)
    tasks = drawn(plain)
    assert same(tasks, drawn(normalized))
    mean, std = (torch.tensor(x)[:, None, None] for x in normalized.config.pixels or ())

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - mean) / std if x.ndim == 5 else x

    updated = [
        experiment.learner(1).step(experiment.init(), batch)[0].params.model
        for experiment, batch in ((normalized, tasks), (plain, tree.map_leaves(scaled, tasks)))
    ]
    assert updated[0].keys() == updated[1].keys()
    for name, value in updated[0].items():
        torch.testing.assert_close(value, updated[1][name], rtol=1e-5, atol=1e-6)
