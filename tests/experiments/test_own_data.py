"""Small data of users: few classes, no split, other data than in training, moved folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarl.data import images, load_images
from metarl.experiments.images.other_data import converted
from metarl.runs import Run
from tests.support.commands import checkpoints, history, metarl, refusal
from tests.support.image_data import needs_omniglot
from tests.support.own_images import write_classes


SIZES = ["--ways", 2, "--filters", 4, "--num-tasks", 2, "--iterations", 2, "--mode", "eager"]
SIZES += ["--checkpoint-every", 2, "--log-every", 2]
SMALL = [*SIZES, "--validation-tasks", 2]
NAMES = [f"sign-{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty classes of eight images."""
    return write_classes(tmp_path_factory.mktemp("own") / "pictures", NAMES, num_images=8)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders with two and with five classes of ten color images."""
    root = tmp_path_factory.mktemp("own")
    return {n: write_classes(root / f"own{n}", NAMES[:n], color=True, seed=n) for n in (2, 5)}


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the folder of pictures, with a relative path."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pictures.parent)
        folder = ["--data", "folder", "--data-root", "pictures", "--image-size", 28]
        metarl(
            "train",
            "fewshot",
            *folder,
            *SMALL,
            "--method",
            "protomaml",
            "--inner-steps",
            1,
            "--out",
            out,
        )
    return out


def newest(run: Path) -> dict[str, Any]:
    return Run.open(run).evaluations()[0]


# Evaluation on other data.


@pytest.mark.parametrize(
    "data", ["glyphs", "folder", pytest.param("omniglot", marks=needs_omniglot)]
)
def test_any_image_run_is_evaluated_on_two_and_on_five_classes(
    data: str, pictures: Path, own: dict[int, Path], tmp_path: Path, capsys: Any
) -> None:
    root = (
        ["--data-root", pictures, "--image-size", 20, "--split", "all-train"]
        if data == "folder"
        else []
    )
    words = ["--data", data, *root, *SIZES, "--method", "protonet", "--ways", 5]
    metarl("train", "fewshot", *words, "--validation-tasks", 0, "--out", tmp_path / "run")
    for number, folder in own.items():
        other = ("--data", "folder", "--data-root", folder)
        capsys.readouterr()
        metarl("evaluate", tmp_path / "run", *other, "--num-tasks", 20)
        shown = " ".join(capsys.readouterr().out.split())
        assert f"20 test tasks of {number} ways from the {number} classes of other data" in shown
        entry = newest(tmp_path / "run")
        assert (entry["data"], entry["num_classes"], entry["num_ways"]) == (
            "folder",
            number,
            number,
        )
        assert entry["inverted"] is (data != "folder")
        assert entry["num_queries"] == 9
        assert entry["mean"][0] > 0.9  # the patterns differ, even for an untrained network
    assert len(list((tmp_path / "run/evaluations").iterdir())) == 2


def test_a_learned_head_is_replaced_for_a_different_number_of_classes(
    own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    metarl("train", "fewshot", *SMALL, "--ways", 3, "--out", run)
    other = ("--data", "folder", "--num-tasks", 3, "--data-root")
    metarl("evaluate", run, *other, own[5])
    assert newest(run)["num_ways"] == 3
    assert "--num-ways must be at most 2" in refusal(capsys, "evaluate", run, *other, own[2])
    line = refusal(capsys, "evaluate", run, *other, own[2], "--ways", 2)
    assert "learned head for 3 classes; use --start zero or prototypes for 2" in line
    for start in ("zero", "prototypes"):
        metarl("evaluate", run, *other, own[2], "--start", start)
        assert newest(run)["num_ways"] == 2
    metarl("train", "fewshot", *SMALL, "--method", "pretrained", "--out", tmp_path / "joint")
    metarl("evaluate", tmp_path / "joint", *other, own[2], "--start", "prototypes")


def test_an_evaluation_on_the_same_files_equals_that_of_the_run(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    """The test classes in a folder of their own give the same tasks."""
    metarl("evaluate", trained, "--num-tasks", 5)
    expected = newest(trained)
    (test := tmp_path / "test").mkdir()
    config = json.loads((trained / "config.json").read_text())["config"]
    for name in load_images("folder", data_root=pictures, image_size=28).test.names:
        shutil.copytree(pictures / name, test / name)
    metarl("evaluate", trained, "--num-tasks", 5, "--data", "folder", "--data-root", test)
    found = newest(trained)
    assert found["mean"] == expected["mean"]
    assert "data" not in expected
    assert config["data_root"] == str(pictures)


def test_split_folders_split_files_and_depths_select_the_classes_to_evaluate(
    trained: Path, own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("--num-tasks", 2, "--data", "folder", "--data-root")
    for part, number in (("train", 2), ("test", 5)):
        shutil.copytree(own[number], tmp_path / "split" / part)
    for folder in list((tmp_path / "split/train").iterdir()):
        folder.rename(folder.with_name(f"other-{folder.name}"))
    metarl("evaluate", trained, *other, tmp_path / "split")
    assert newest(trained)["num_classes"] == 5
    metarl("evaluate", trained, *other, tmp_path / "split", "--split", "all-test")
    assert newest(trained)["num_classes"] == 7
    metarl("evaluate", trained, *other, tmp_path, "--class-depth", 3)
    assert newest(trained)["num_classes"] == 7
    (tmp_path / "split.json").write_text(json.dumps({"test": NAMES[:3]}))
    metarl("evaluate", trained, *other, own[5], "--split", tmp_path / "split.json")
    assert newest(trained)["num_classes"] == 3
    line = refusal(capsys, "evaluate", trained, "--split", "all-test")
    assert "--split and --class-depth require --data" in line
    line = refusal(capsys, "evaluate", trained, *other, own[5], "--tune-inner-lr")
    assert "--data folder has no validation classes" in line


def test_other_classes_are_detected_before_they_are_decoded(
    trained: Path, own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(own[5], tmp_path / "broken"))
    for file in broken.rglob("*.png"):
        file.write_text("not an image")
    line = refusal(capsys, "evaluate", trained, "--data-root", broken)
    assert "have changed since training" in line
    assert "run `metarl evaluate RUN --data folder --data-root DIR`" in line
    line = refusal(capsys, "evaluate", trained, "--data-root", own[2])
    assert "have changed since training (" in line
    assert "at least 3 class folders, one each for train, validation and test" in line
    many = ("--data", "folder", "--shots", 9, "--queries", 2)
    line = refusal(capsys, "evaluate", trained, "--data-root", broken, *many)
    assert "must be at most 10, the number of images in class " in line
    few = ["--data", "folder", "--ways", 2, "--data-root", broken, "--out", tmp_path / "run"]
    assert "at least 1 pixel" not in (line := refusal(capsys, "train", "fewshot", *few))
    assert "too few validation classes" in line


def test_conversions_of_channels_equal_those_of_pillow() -> None:
    pixels = torch.randint(0, 256, (3, 3, 5, 5), dtype=torch.uint8)
    image = images.pillow("Image")
    expected = [
        np.asarray(image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in pixels
    ]
    classes = images.Classes(pixels, (3,), ("a",))
    found = converted(images.Splits(*[classes] * 3), 1, inverted=True).test.images
    assert np.array_equal(255 - found[:, 0].numpy(), np.stack(expected))


# Training on small data.


def test_the_advice_for_too_few_images_names_images(
    own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "folder", "--data-root", own[5], "--image-size", 16, "--split", "all-train"]
    words += ["--ways", 2, "--shots", 30, "--out", tmp_path / "run"]
    line = refusal(capsys, "train", "fewshot", *words)
    assert line.endswith("got 60. Lower them, or add images")


def test_a_folder_without_class_folders_needs_them(
    own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in next(own[2].iterdir()).iterdir():
        shutil.copy(file, tmp_path)
    words = ["--data", "folder", "--data-root", tmp_path, "--out", tmp_path / "run"]
    for split in ([], ["--split", "all-train"]):
        line = refusal(capsys, "train", "fewshot", *words, *split)
        assert line.endswith(
            "one subfolder of images per class, got none. Add a subfolder for each class"
        )


@pytest.mark.parametrize("number", [2, 5])
def test_all_classes_of_a_small_folder_are_used_for_training(
    number: int, own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--data", "folder", "--data-root", own[number], "--image-size", 16]
    run = tmp_path / "run"
    line = refusal(capsys, "train", "fewshot", *folder, *SIZES, "--out", run)
    assert ("too few validation" if number == 5 else "at least 3 class folders") in line
    assert "et --split all-train to use all classes for training" in line
    metarl("train", "fewshot", *folder, *SIZES, "--split", "all-train", "--out", run)
    assert not any("validation/loss" in entry for entry in Run.open(run).metrics())
    assert json.loads((run / "config.json").read_text())["config"]["validation_tasks"] == 0
    assert "--data folder has no test classes" in refusal(capsys, "evaluate", run)
    metarl("evaluate", run, "--tasks", "train", "--num-tasks", 3)
    capsys.readouterr()
    (other,) = {2, 5} - {number}
    for root, warned in ((own[number], True), (own[other], False)):
        metarl("evaluate", run, "--data", "folder", "--data-root", root, "--num-tasks", 3)
        assert ("contains the training images" in capsys.readouterr().err) == warned
    metarl("resume", run, "--iterations", 4)


def test_training_without_validation_tasks_holds_out_no_validation_classes(
    own: dict[int, Path], tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "ten", NAMES[:10], num_images=4)
    without = load_images("folder", data_root=root, image_size=4, validation=False)
    assert [len(part.names) for part in without] == [8, 0, 2]
    folder = ["--data", "folder", "--data-root", root, "--image-size", 16]
    words = [*folder, *SMALL, "--validation-tasks", 0]
    metarl("train", "fewshot", *words, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", "--num-tasks", 3)
    assert not any("validation/loss" in entry for entry in Run.open(tmp_path / "run").metrics())


def test_a_split_file_is_stored_in_the_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "split.json", tmp_path / "run"
    parts = {"train": NAMES[:3], "test": NAMES[3:6]}
    file.write_text(json.dumps(parts))
    folder = ["--data", "folder", "--data-root", pictures, "--split", file, "--image-size", 16]
    metarl("train", "fewshot", *folder, "--method", "protonet", "--ways", 2, "--filters", 2,
           "--iterations", 1, "--num-tasks", 1, "--mode", "eager", "--out", run)  # fmt: skip
    file.unlink()
    config = json.loads((run / "config.json").read_text())["config"]
    assert json.loads(config["split"]) == parts | {"validation": []}
    assert config["validation_tasks"] == 0
    metarl("evaluate", run, "--num-tasks", 2)
    metarl("resume", run, "--iterations", 2)


def test_invalid_splits_give_one_line_errors(pictures: Path, tmp_path: Path) -> None:
    def error(contents: Any, kind: type[Exception] = ValueError) -> str:
        (tmp_path / "split.json").write_text(json.dumps(contents))
        with pytest.raises(kind) as raised:
            load_images("folder", data_root=pictures, split=str(tmp_path / "split.json"))
        return str(raised.value)

    assert 'lists of class names at "train", "validation" and "test"' in error({"training": []})
    assert "JSON object" in error(["sign-00"])
    assert "class 'dog' in train of `split` has no folder: expected" in error({"train": ["dog"]})
    line = error({"train": ["sign-00"], "test": ["sign-00"]})
    assert "class 'sign-00' is in train and in test. Remove it from one" in line
    with pytest.raises(FileNotFoundError, match=r"unknown split 'nothing': expected one of own"):
        load_images("folder", data_root=pictures, split="nothing")


def test_two_level_folders_are_classes(tmp_path: Path) -> None:
    for alphabet in ("greek", "latin"):
        write_classes(tmp_path / "two" / alphabet, NAMES[:3], num_images=2)
    with pytest.raises(ValueError, match=r"none in 2 \(first: greek\)\. Set class_depth=2"):
        load_images("folder", data_root=tmp_path / "two", split="all-train")
    options: Any = {"data_root": tmp_path / "two", "image_size": 8, "class_depth": 2}
    everything = load_images("folder", split="all-train", **options).train
    assert everything.names[:4] == (*(f"greek/{name}" for name in NAMES[:3]), "latin/sign-00")
    assert sum(len(part.names) for part in load_images("folder", **options)) == 6
    by_alphabet = load_images("folder", split='{"train": ["greek"], "test": ["latin"]}', **options)
    assert by_alphabet.test.names == tuple(f"latin/{name}" for name in NAMES[:3])
    with pytest.raises(ValueError, match=r"class_depth=2 requires data=folder, got data=glyphs"):
        load_images("glyphs", class_depth=2)


# Moved folders.


def test_a_pulled_run_is_resumed_and_evaluated_with_a_data_root(
    trained: Path, pictures: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    metarl("push", trained, tmp_path / "shared", "--no-picture")
    metarl("pull", tmp_path / "shared", "--out", tmp_path / "pulled")
    pulled = tmp_path / "pulled"
    assert str(pictures.parent) not in (tmp_path / "shared/config.json").read_text()
    line = refusal(capsys, "resume", pulled, "--iterations", 4)
    assert "--data-root must be a folder with one subfolder of images per class, got None" in line
    elsewhere = Path(shutil.copytree(pulled, tmp_path / "elsewhere"))
    metarl("resume", pulled, "--iterations", 4, "--data-root", pictures)
    metarl("resume", trained, "--iterations", 4)
    assert history(pulled) == history(trained)
    assert checkpoints(pulled).keys() < checkpoints(trained).keys()
    metarl("evaluate", pulled, "--num-tasks", 2)  # resume has stored the folder
    monkeypatch.setenv("METARL_DATA", str(pictures))
    metarl("evaluate", elsewhere, "--num-tasks", 2)
    metarl("resume", elsewhere, "--iterations", 4)
    assert history(elsewhere) == history(trained)


def test_a_moved_run_finds_its_data_from_any_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(trained, tmp_path / "project/runs/moved"))
    monkeypatch.chdir(tmp_path)
    metarl("resume", moved, "--iterations", 6)
    about = json.loads((moved / "config.json").read_text())
    pictures = Path(about["config"]["data_root"])
    shutil.copytree(pictures, tmp_path / "project/pictures")
    about["config"]["data_root"] = "pictures"  # as older versions stored it
    (moved / "config.json").write_text(json.dumps(about))
    metarl("evaluate", moved, "--num-tasks", 2)


def test_a_data_root_is_only_accepted_by_runs_with_data(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "resume", whole, "--iterations", 9, "--data-root", "x")
    assert "cannot change --data-root: the experiment of" in line


def test_errors_of_few_classes_name_the_class_and_the_next_step(
    own: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_classes(tmp_path / "[five]", NAMES[:5], num_images=4)
    next((root / NAMES[0]).iterdir()).unlink()

    def error(*words: Any) -> str:
        data = ["--data", "folder", "--data-root", root, "--image-size", 16, "--iterations", 1]
        return refusal(capsys, "train", "fewshot", *data, *words, "--out", tmp_path / "run")

    everything = ("--split", "all-train")
    assert "or set --split all-train" in error("--ways", 5, "--validation-tasks", 0)
    line = error("--ways", 5, "--shots", 2, *everything, "--validation-tasks", 0)
    assert f"at most 3, the number of images in class {NAMES[0]}, got 4" in line
    (split := tmp_path / "split.json").write_text("{}")
    assert "at least one class, got '{}'" in error("--split", split)
    split.write_text(json.dumps({"train": [], "test": NAMES[:2]}))
    assert "has no train classes" in error("--split", split)
