"""Trained image classifiers adapt to labeled images, and predict new images one by one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import cross_entropy

import metarl
from metarl.data import load_images
from metarl.experiments import experiment_of, experiments
from metarl.models import AdaptedClassifier, read_adapted
from metarl.runs import Run
from metarl.runs.config import from_json
from metarl.supervised.methods import METHODS


Trained = Callable[..., Path]
Images = NDArray[np.uint8]
LABELS = [2, 2, 0, 0, 1, 1]


def support(glyphs: Images) -> Images:
    return glyphs[:, :2].reshape(6, 28, 28)


def query(glyphs: Images) -> Images:
    return glyphs[:, 2:6].reshape(12, 28, 28)


IMAGE_METHODS = sorted({*METHODS} - {"leopard", "oracle"})


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_an_image_has_the_same_class_alone_and_in_a_batch(
    method: str, trained: Trained, glyphs: Images
) -> None:
    model, steps = metarl.load(trained("fewshot", method)), 3 if method == "reptile" else None
    adapted = model.adapt(support(glyphs), LABELS, steps=steps)
    together = adapted.predict_proba(query(glyphs))
    alone = [adapted.predict_proba(image[None])[0] for image in query(glyphs)]
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)
    assert (np.argmax(alone, -1) == together.argmax(-1)).all()
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-5)
    assert adapted.classes == (0, 1, 2)
    assert (adapted.predict(query(glyphs)) == together.argmax(-1)).all()
    assert adapted.mode == "support"


def test_maml_equals_a_plain_loop_with_the_statistics_of_the_support_set(
    trained: Trained, glyphs: Images
) -> None:
    run = Run.open(trained("fewshot", "maml"))
    experiment: Any = experiment_of(run)
    module = experiment.parts.model.apply.module
    module.load_state_dict(experiment.read(run, 1).model)
    module.requires_grad_(True)
    x, q = (torch.from_numpy(part)[:, None] / 255 for part in (support(glyphs), query(glyphs)))
    for _ in range(3):
        module.zero_grad()
        cross_entropy(module(x), torch.tensor(LABELS)).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.4 * parameter.grad
    expected = module(q, x).softmax(-1).detach().numpy()
    adapted = metarl.load(run.folder).adapt(support(glyphs), LABELS)
    np.testing.assert_allclose(adapted.predict_proba(query(glyphs)), expected, atol=1e-5)


def test_the_statistics_of_a_batch_would_give_other_probabilities(
    trained: Trained, glyphs: Images
) -> None:
    adapted = metarl.load(trained("fewshot", "protonet")).adapt(support(glyphs), LABELS)
    few = adapted.predict_proba(query(glyphs)[:2])
    assert np.abs(few - adapted.predict_proba(query(glyphs))[:2]).max() < 1e-6
    buffers = dict(adapted.module().named_buffers())
    assert {name.rpartition(".")[2] for name in buffers} == {"mean", "variance"}


def test_shots_and_labels_may_differ_between_classes(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "protonet"))
    images = np.concatenate([glyphs[0, :1], glyphs[1, :5]])
    adapted = model.adapt(images, ["one", *["five"] * 5])
    assert adapted.classes == ("five", "one")
    assert set(adapted.predict(glyphs[2])) <= {"five", "one"}


def test_every_form_of_images_gives_the_same_classifier(
    trained: Trained, glyphs: Images, pictures: Path
) -> None:
    model, gray = metarl.load(trained("fewshot", "protonet")), support(glyphs)
    files = [pictures / f"support/{x}/{x}{i}.png" for x in "abc" for i in (0, 1)]
    forms = [
        gray, gray[:, None], gray[..., None], gray[..., None].repeat(3, -1), gray / 255,
        torch.from_numpy(gray), list(gray), files, [str(path) for path in files],
        [Image.fromarray(255 - image) for image in gray],
        [torch.from_numpy(image) for image in gray],
    ]  # fmt: skip
    expected = model.adapt(pictures / "support").predict_proba(query(glyphs))
    for form in forms:
        adapted = model.adapt(form, np.repeat(["a", "b", "c"], 2))
        assert np.array_equal(adapted.predict_proba(query(glyphs)), expected)


def test_a_learned_head_has_its_number_of_classes(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "maml"))
    images, labels = glyphs[:2, :2].reshape(4, 28, 28), list("aabb")
    with pytest.raises(ValueError, match=r"learned head for 3 classes, got 2.*start=prototypes"):
        model.adapt(images, labels)
    assert model.adapt(images, labels, start="prototypes").predict_proba(images).shape == (4, 2)
    assert metarl.load(trained("fewshot", "protonet")).adapt(images, labels).classes == ("a", "b")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 28)), LABELS, r"must have shape \(n, height, width\).*got \(4, 28\)"),
        (np.zeros((2, 28, 28, 2)), [0, 1], "1, 3 or 4 channels"),
        (np.full((2, 28, 28), 2.0), [0, 1], "floats must have values from 0 to 1, got 2 to 2"),
        (np.full((2, 28, 28), -1), [0, 1], "integers must have values from 0 to 255"),
        (np.full((2, 28, 28), np.nan), [0, 1], "got nan"),
        ([], [], "at least one image"),
        (np.zeros((2, 28, 28), np.uint8), [0], r"shape \(2,\), one label per example, got \(1,\)"),
        (np.zeros((2, 28, 28), np.uint8), None, "`labels` must"),
        (np.zeros((2, 28, 28), np.uint8), [0, 0], "at least two classes"),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.array([0.5, 1.5]),
            r"all strings, got 0\.5 \(float\)",
        ),
        (np.zeros((2, 28, 28), np.uint8), ["a", 1], "all integers or all strings"),
    ],
)
def test_invalid_images_and_labels_are_one_line_errors(
    images: Any, labels: Any, message: str, trained: Trained
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        metarl.load(trained("fewshot", "protonet")).adapt(images, labels)
    assert "\n" not in str(raised.value)


def test_steps_that_ignore_the_support_set_are_an_error(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "maml"))
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        model.adapt(support(glyphs), LABELS, steps=0)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 0, got -1"):
        model.adapt(support(glyphs), LABELS, steps=-1)


def test_learned_step_sizes_that_do_not_fit_are_an_error(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "meta-sgd"))
    with pytest.raises(ValueError, match="learned step sizes"):
        model.adapt(glyphs[:2, 0], [0, 1], start="prototypes")


def test_norms_per_step_and_proximal_terms_support_a_new_head(
    trained: Trained, glyphs: Images
) -> None:
    for method in ("maml++", "imaml"):
        model = metarl.load(trained("fewshot", method))
        adapted = model.adapt(glyphs[:2, 0], [0, 1], start="prototypes")
        assert adapted.predict_proba(glyphs[2]).shape == (20, 2)


def reloaded(path: Path) -> AdaptedClassifier:
    saved = read_adapted(path)
    kind, settings = experiments()[saved.experiment].load()
    adapted: AdaptedClassifier = kind(from_json(settings, saved.config, path)).adapted(saved)
    return adapted


@pytest.mark.parametrize("method", ["protonet", "maml", "maml++"])
def test_a_saved_classifier_predicts_the_same(
    method: str, trained: Trained, glyphs: Images, tmp_path: Path
) -> None:
    adapted = metarl.load(trained("fewshot", method)).adapt(support(glyphs), LABELS)
    adapted.save(tmp_path / "digits.safetensors")
    again = reloaded(tmp_path / "digits.safetensors")
    assert again.classes == adapted.classes
    assert np.array_equal(again.predict_proba(query(glyphs)), adapted.predict_proba(query(glyphs)))


def test_neither_the_data_nor_their_digest_are_needed(
    trained: Trained, tmp_path: Path, glyphs: Images
) -> None:
    for index, image in enumerate(glyphs.reshape(-1, 28, 28)):
        path = tmp_path / f"data/{index // 5}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(path)
    run = trained("fewshot", "protonet", data="folder", data_root=tmp_path / "data", image_size=16,
                  num_ways=2, filters=4)  # fmt: skip
    shutil.rmtree(tmp_path / "data")
    run = Path(shutil.move(run, tmp_path / "moved"))
    adapted = metarl.load(run).adapt(glyphs[:2, 0], ["x", "y"])
    assert adapted.images == ("folder", 3, 16)
    assert set(adapted.predict(glyphs[2])) <= {"x", "y"}


def test_files_of_omniglot_are_inverted_and_arrays_are_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from metarl.data import ImageFormat

    drawing = np.full((105, 105), 255, np.uint8)
    drawing[40:60, 20:80] = 0  # dark ink
    Image.fromarray(drawing).convert("1").save(tmp_path / "a.png")
    images = ImageFormat("omniglot", 1, 28)
    (file,) = images.convert([tmp_path / "a.png"])
    (array,) = images.convert(255 - drawing[None])
    assert torch.equal(file, array)
    assert file.float().mean() < 50
    assert capsys.readouterr().err == ""
    images.convert(drawing[None])
    assert "light background" in capsys.readouterr().err


def test_images_of_a_data_set_are_converted_to_themselves() -> None:
    from metarl.data import ImageFormat

    images = load_images("glyphs").test.images[:50]
    assert torch.equal(ImageFormat("glyphs", 1, 28).convert(images), images)


def test_single_images_are_lists_of_one_and_wrong_images_are_one_line_errors(
    trained: Trained, glyphs: Images, pictures: Path
) -> None:
    adapted = metarl.load(trained("fewshot", "protonet")).adapt(support(glyphs), LABELS)
    file = pictures / "inputs/0/a2.png"
    assert adapted.predict(file) == adapted.predict([file]) == adapted.predict(Image.open(file))
    Image.open(file).save(pictures / "a.tif")
    assert adapted.predict(pictures / "a.tif") == adapted.predict(file)
    wrong: list[tuple[Any, str]] = [
        (pictures, "must be a list of files, got the folder"),
        ([3], r"got 3 \(int\)"),
        ([[file]], r"\(list\)"),
        (3, r"got 3 \(int\)"),
        (np.zeros((0, 28, 28)), "at least one image"),
        (np.zeros((28, 28, 3)), r"images\[None\]"),
        ([np.zeros((0, 0))], "must contain numbers"),
        ([Image.new("F", (9, 9))], "got floats"),
    ]
    for images, message in wrong:
        with pytest.raises(ValueError, match=message):
            adapted.predict(images)
    with pytest.raises(IsADirectoryError):
        adapted.save(pictures)


def test_wrong_options_are_one_line_errors(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "protonet"))
    for start in ("foo", "learned"):
        with pytest.raises(ValueError, match=f"must be one of prototypes, zero, got '{start}'"):
            model.adapt(support(glyphs), LABELS, start=start)
    learned = metarl.load(trained("fewshot", "maml"))
    assert learned.adapt(support(glyphs), LABELS, start="learned").classes == (0, 1, 2)
    with pytest.raises(ValueError, match="`encoder` requires a run with a pretrained encoder"):
        metarl.load(trained("fewshot", "maml"), encoder="x")


def test_labels_can_be_arrays_of_objects_of_one_type(trained: Trained, glyphs: Images) -> None:
    model = metarl.load(trained("fewshot", "protonet"))
    for labels in (list("aabbcc"), LABELS):
        adapted = model.adapt(support(glyphs), np.array(labels, object))
        assert adapted.classes == tuple(sorted(set(labels)))
    with pytest.raises(ValueError, match=r"or all strings, got 2 \(int\) and 'a' \(str\)|'a'.*2"):
        model.adapt(support(glyphs), [*LABELS[:5], "a"])
    with pytest.raises(ValueError, match=r"or all strings, got nan \(float\)"):
        model.adapt(support(glyphs), np.array(["a", *LABELS[:4], float("nan")], object)[[5] * 6])


def test_images_that_cannot_be_decoded_are_one_line_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarl.data import ImageFormat

    Image.new("L", (40, 40)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no image")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, reason in (("bomb", "exceeds limit"), ("text", "cannot identify image file")):
        match = rf"{name}\.png cannot be read as an image \([^<]*{reason}[^<]*\)"
        with pytest.raises(ValueError, match=match):
            ImageFormat("folder", 1, 28).convert([tmp_path / f"{name}.png"])
