"""The command ``metarl predict`` classifies new images and sentences from a few examples."""

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl as library
from metarl.core import torch_generator
from metarl.data import ImageFormat, load_images
from metarl.experiments import experiment_of
from metarl.experiments.supervised_evaluation import SupervisedEvaluation
from metarl.runs import Run
from metarl.supervised.evaluate import BLOCK
from tests.support.commands import metarl, refusal
from tests.support.image_data import OMNIGLOT, needs_omniglot
from tests.support.own_images import write_glyphs


IMAGES = ("--ways", 3, "--shots", 2, "--filters", 16, "--validation-tasks", 5, "--num-tasks", 4,
          "--mode", "eager")  # fmt: skip


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Folders support/CLASS/ with two images per class, and inputs/ with twelve images."""
    test = load_images("glyphs").test
    glyphs = test.images.reshape(-1, 20, 28, 28)[[test.names.index(x) for x in "W■∴"]].numpy()
    return write_glyphs(tmp_path, glyphs)


@pytest.mark.parametrize("method", ["protonet", "maml"])
def test_twelve_images_are_classified_from_two_examples_of_three_classes(
    method: str, pictures: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Story (b)."""
    monkeypatch.chdir(pictures)
    metarl("train", "fewshot", "--method", method, *IMAGES, "--iterations", 20,
           "--checkpoint-every", 20, "--out", "run")  # fmt: skip
    metarl("push", "run", "shared", "--no-picture")
    capsys.readouterr()
    metarl("predict", "shared", "--support", "support", "--inputs", "inputs", "--out", "out.csv")
    printed = capsys.readouterr().out
    header, *found = rows(Path("out.csv"))
    assert header == ["file", "class", "probability"]
    assert [row[0] for row in found] == sorted(f"{i % 2}/{x}{i}.png" for x in "abc" for i in
                                               range(2, 6))  # fmt: skip
    assert sum(Path(file).name[0] == label for file, label, _ in found) >= 9
    assert all(1 / 3 <= float(row[2]) <= 1 for row in found)
    assert all(row[0] in printed for row in found)
    adapted = library.load("run").adapt("support")
    assert adapted.predict([Path("inputs", row[0]) for row in found]).tolist() == [
        row[1] for row in found
    ]


@pytest.mark.nightly
def test_sentences_are_classified_from_two_examples_of_three_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Story (c), with MiniLM."""
    from metarl.text.encoders import packaged

    if packaged("sentence-transformers/all-MiniLM-L6-v2") is None:
        pytest.skip("needs a package with MiniLM")
    monkeypatch.chdir(tmp_path)
    classes = {
        "weather": ["It rains all day.", "The sun is shining.", "Snow fell at night.",
                    "Strong winds are expected.", "The sky is cloudy.", "It is a foggy morning."],
        "food": ["The soup was delicious.", "I ordered a pizza.", "The bread is fresh.",
                 "She cooked rice and beans.", "The cake tastes sweet.", "We ate pasta."],
        "sports": ["The team won the match.", "She scored a goal.", "He runs marathons.",
                   "The players trained hard.", "The final was long.", "They lost the game."],
    }  # fmt: skip
    examples = [{"text": x, "label": c} for c, texts in classes.items() for x in texts[:2]]
    inputs = [{"text": x} for texts in classes.values() for x in texts[2:]]
    for name, lines in (("examples", examples), ("inputs", inputs)):
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("data").mkdir()
    Path("data/topics.jsonl").write_text("\n".join(
        json.dumps({"sentence1": f"{word} {n}", "label": word})
        for word in ("good", "bad") for n in range(90)))  # fmt: skip
    metarl("train", "text", "--method", "protonet", "--data-root", "data", "--tasks", "topics",
           "--iterations", 2, "--num-tasks", 2, "--validation-tasks", 1, "--log-every", 1,
           "--checkpoint-every", 2, "--out", "run")  # fmt: skip
    shutil.rmtree("data")
    metarl("predict", "run", "--support", "examples.jsonl", "--inputs", "inputs.jsonl",
           "--out", "out.csv")  # fmt: skip
    header, *found = rows(Path("out.csv"))
    assert header == ["text", "class", "probability"]
    expected = [c for c in classes for _ in range(4)]
    assert sum(row[1] == c for row, c in zip(found, expected, strict=True)) >= 10


def test_points_are_predicted(tmp_path: Path) -> None:
    metarl("train", "regression", "--iterations", 1, "--num-tasks", 2, "--validation-tasks", 1,
           "--mode", "eager", "--log-every", 1, "--checkpoint-every", 1,
           "--out", tmp_path / "run")  # fmt: skip
    (tmp_path / "points.csv").write_text("x,y\n0,0\n1,0.84\n2,0.91\n")
    (tmp_path / "new.csv").write_text("x\n0.5\n1.5\n")
    metarl("predict", tmp_path / "run", "--support", tmp_path / "points.csv", "--inputs",
           tmp_path / "new.csv", "--test-steps", 4, "--out", tmp_path / "out.csv")  # fmt: skip
    model = library.load(tmp_path / "run").adapt(tmp_path / "points.csv", steps=4)
    header, *found = rows(tmp_path / "out.csv")
    assert header == ["x", "y"]
    np.testing.assert_allclose(
        [float(row[1]) for row in found], model.predict([0.5, 1.5]), rtol=1e-5
    )


def test_wrong_command_lines_are_one_line_errors(
    pictures: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pictures / "run"
    small = ("--iterations", 1, "--log-every", 1, "--checkpoint-every", 1)
    metarl("train", "fewshot", "--method", "maml", *IMAGES, *small, "--out", run)
    shutil.rmtree(pictures / "support/c")

    def error(*words: Any, at: Path = run) -> str:
        support = () if "--support" in words else ("--support", pictures / "support")
        return refusal(
            capsys, "predict", at, *support, "--inputs", pictures / "inputs", *words
        )  # fmt: skip

    assert "use --start prototypes or --start zero" in error().lower()
    assert "--support must be an existing file or folder" in error("--support", pictures / "absent")
    assert "--test-steps" in error("--test-steps", -1) or "--steps" in error("--test-steps", -1)
    assert "--encoder requires a run with a pretrained encoder" in error("--encoder", "x")
    assert "one subfolder per class" in error("--support", pictures / "inputs/0")
    assert "does not predict" in error(at=whole)
    for out in ("support/a/a0.png", "inputs/out.csv", "inputs"):
        assert "--out must be outside" in error("--out", pictures / out)
    assert "not a regular file" in error("--out", "/dev/full")
    (pictures / "points.csv").write_text("x,y\n")
    line = error("--support", pictures / "points.csv")
    assert "must be a folder of images for an image run, got a file" in line
    (pictures / "inputs/notes.txt").touch()
    metarl("predict", run, "--support", pictures / "support", "--inputs", pictures / "inputs",
           "--start", "prototypes")  # fmt: skip
    assert "1 other files ignored" in " ".join(capsys.readouterr().out.split())


def test_long_tables_are_printed_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    from metarl.commands.predict import SHOWN, show
    from metarl.util import Table

    show(Table("many", ["x"], [[f"row{n}"] for n in range(SHOWN + 9)]), "run")
    printed = capsys.readouterr().out
    assert "row49" in printed
    assert "row50" not in printed
    assert "(first 50; use --out for all)" in " ".join(printed.split())


def test_square_brackets_are_printed_and_long_cells_are_shortened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from metarl.util import print_table

    print_table("[/] run", ["[b]x"], [["[/]"], ["a [copy].png"], ["\ud800\x1b"], ["z" * 500]])
    printed = capsys.readouterr().out
    for text in ("[/] run", "[b]x", "[/]", "a [copy].png", "\ufffd\ufffd", "…"):
        assert text in printed
    assert printed.count("z") == 99


def accuracy(run: Path, evaluation: SupervisedEvaluation) -> float:
    """Return the accuracy of `predict` on the tasks of an evaluation, images one by one."""
    experiment: Any = experiment_of(Run.open(run)).with_options(evaluation)
    generator, model, right = torch_generator(evaluation.seed, 0, "test"), library.load(run), []
    for _ in range(0, evaluation.num_tasks, BLOCK):
        tasks = experiment.parts.evaluated["test"](BLOCK, generator)
        for support, labels, query, truth in zip(*tasks.support[0], *tasks.query[:2], strict=True):
            adapted = model.adapt(support, labels.argmax(-1).tolist())
            found = adapted.predict(query)
            right.append((found == truth.argmax(-1).numpy()).mean())
            assert adapted.predict(query[-1:]) == found[-1:]
    return float(np.mean(right))


@pytest.mark.nightly
def test_predictions_are_as_accurate_as_the_evaluation_on_the_same_tasks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metarl("train", "fewshot", "--method", "maml", *IMAGES, "--iterations", 10,
           "--checkpoint-every", 10, "--out", run)  # fmt: skip
    metarl("evaluate", run, "--bn-mode", "support", "--num-tasks", BLOCK)
    (result,) = Run(run).evaluations()
    options = SupervisedEvaluation(run, num_tasks=BLOCK, bn_mode="support")
    assert accuracy(run, options) == pytest.approx(result["mean"][-1], abs=0.002)


@pytest.mark.nightly
@needs_omniglot
def test_predictions_on_new_alphabets_are_as_accurate_as_the_evaluation(tmp_path: Path) -> None:
    """On real images: five classes, one example each, fifteen new images per class."""
    run = tmp_path / "run"
    metarl("train", "fewshot", "--method", "protonet", "--data", "omniglot", "--split",
           "background", "--ways", 5, "--shots", 1, "--queries", 5, "--num-tasks", 8,
           "--iterations", 100, "--checkpoint-every", 100, "--validation-tasks", 5,
           "--out", run)  # fmt: skip
    metarl("evaluate", run, "--bn-mode", "support", "--num-tasks", 100)
    (result,) = Run(run).evaluations()
    found = accuracy(run, SupervisedEvaluation(run, num_tasks=100, bn_mode="support"))
    print(
        f"predict {found:.4f}, evaluate {result['mean'][-1]:.4f} ± {result['interval95'][-1]:.4f}"
    )
    assert abs(found - result["mean"][-1]) < min(0.002, result["interval95"][-1])


@needs_omniglot
def test_files_of_omniglot_are_converted_like_the_data_set(tmp_path: Path) -> None:
    archive = OMNIGLOT / "images_evaluation"
    if not archive.is_dir():
        with zipfile.ZipFile(OMNIGLOT / "images_evaluation.zip") as packed:
            names = [n for n in packed.namelist() if n.startswith("images_evaluation/Angelic/")]
            packed.extractall(tmp_path, names)
        archive = tmp_path / "images_evaluation"
    files = sorted((archive / "Angelic").rglob("*.png"), key=str)[:20]
    test = load_images("omniglot", split="background").test
    assert test.names[0].startswith("Angelic")
    assert torch.equal(ImageFormat("omniglot", 1, 28).convert(files), test.images[:20])
