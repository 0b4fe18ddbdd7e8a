"""Supervised runs on the command line: train, resume, evaluate, plot and errors."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metarl.core import Task
from metarl.data.images import Classes, Splits
from metarl.experiments.fewshot import QUERIES, FewShotConfig, ImageClassification
from metarl.runs import checkpoint
from metarl.runs.folder import Run
from metarl.runs.records import protocol
from metarl.supervised.methods import METHODS
from tests.support import nightly
from tests.support.commands import checkpoints, history, metarl, refusal


SINE = ["train", "regression", "--hidden", "8", "--num-tasks", "4", "--log-every", "2"]
SINE += ["--checkpoint-every", "4", "--validation-tasks", "5"]
MANY_STEPS = {"imaml", "reptile", "maml++", "protomaml"}
FEW_STEPS = ("--inner-steps", 2, "--test-steps", 3)  # tracing 16 steps takes a minute
OF_IMAGES = sorted(set(METHODS) - {"oracle", "leopard"})
OF_CLASSES = {"leopard", "protomaml", "protonet", "zero-head"}


@pytest.fixture(scope="module")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("regression") / "run"
    metarl(*SINE, "--iterations", 10, "--out", out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of eight images of 12×12 pixels with different stripes."""
    root = tmp_path_factory.mktemp("images") / "Bilder für α"  # any path is valid
    rng = np.random.default_rng(0)
    for index in range(12):
        (root / f"class{index:02}").mkdir(parents=True)
        stripes = 127 * (1 + np.sin(np.arange(12) * (index + 1) / 3))
        for number in range(8):
            noise = rng.uniform(-40, 40, (12, 12))
            pixels = np.clip(stripes + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class{index:02}" / f"{number}.png")
    return root


@pytest.fixture
def images(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    settings = {
        "--data": "folder", "--data-root": folder, "--image-size": 12, "--ways": 2, "--filters": 4,
        "--iterations": 4, "--checkpoint-every": 2, "--log-every": 2, "--num-tasks": 2,
        "--validation-tasks": 3, "--mode": "eager",
    }  # fmt: skip
    return ["train", "fewshot", *(str(word) for pair in settings.items() for word in pair)]


def test_metrics_are_averaged_and_checkpoints_are_validated(sine: Path) -> None:
    lines = history(sine)
    assert [line["iteration"] for line in lines] == [2, 4, 6, 8, 10]
    validated = [line["iteration"] for line in lines if "validation/loss" in line]
    assert validated == [4, 8, 10]
    assert set(checkpoints(sine)) == {f"{i:08}.safetensors" for i in (0, 4, 8, 10)}


def test_the_configuration_contains_the_values_of_the_method(sine: Path) -> None:
    config = json.loads((sine / "config.json").read_text())["config"]
    chosen = {name: config[name] for name in ("inner", "inner_steps", "test_steps", "outer")}
    assert chosen == {"inner": "sgd", "inner_steps": 1, "test_steps": 10, "outer": "adam"}


@pytest.mark.parametrize("dies_at", [0, 3, 4, 7, 9])
def test_resume_continues_bit_for_bit(sine: Path, tmp_path: Path, dies_at: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(sine, run)
    lines = (sine / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[: dies_at // 2]))
    for path in (run / "checkpoints").iterdir():
        if int(path.stem) > dies_at:
            path.unlink()
    metarl("resume", run)
    assert history(run) == history(sine)
    assert checkpoints(run) == checkpoints(sine)


@pytest.mark.parametrize("method", sorted(set(METHODS) - OF_CLASSES))
def test_every_method_of_regression_trains_and_is_evaluated(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    metarl(*SINE, "--method", method, "--iterations", 2, "--out", out)
    metarl("evaluate", out, "--num-tasks", 5, "--test-steps", 2)
    (path,) = (out / "evaluations").iterdir()
    assert len(json.loads(path.read_text())["mean"]) == 3


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        *((method, "eager") for method in OF_IMAGES),
        ("maml", "traced"),
        *(nightly(method, "traced") for method in OF_IMAGES if method != "maml"),
    ],
)
def test_every_method_of_classification_trains_and_is_evaluated(
    method: str, mode: str, images: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shots = ("--train-shots", 4) if method == "reptile" else ()
    few = FEW_STEPS if method in MANY_STEPS else ()
    metarl(*images, "--method", method, *shots, *few, "--mode", mode, "--out", out)
    metarl("evaluate", out, "--num-tasks", 4)
    (path,) = (out / "evaluations").iterdir()
    result = json.loads(path.read_text())
    assert result["measure"] == "accuracy"
    assert result["transductive"]
    config = json.loads((out / "config.json").read_text())["config"]
    assert len(result["mean"]) == config["test_steps"] + 1
    # Four tasks of two classes: accuracies are multiples of one query image.
    queries = 4 * 2 * min(QUERIES, 8 - config["num_shots"])
    right = [value * queries for value in result["mean"]]
    assert right == pytest.approx([round(x) for x in right], abs=1e-3)
    before, after = (
        checkpoint.load(path).params for path in sorted(out.glob("checkpoints/*"))[::2]
    )
    changed = {name for name in before.model if before.model[name].ne(after.model[name]).any()}
    assert any(name.startswith("body.") for name in changed)


@pytest.mark.parametrize("method", ["zero-head", "protomaml"])
def test_variable_tasks_train_and_are_evaluated(
    method: str, images: list[str], folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "validation", "test"):
        shutil.copytree(folder, tmp_path / "split" / split)
        for old in list((tmp_path / "split" / split).iterdir()):
            old.rename(old.with_name(f"{split}-{old.name}"))  # a class in two splits is refused
    words = [*images, "--data-root", tmp_path / "split", "--variable", "--method", method]
    words += ["--ways", "6", "--validation-tasks", "1"]
    metarl(*words, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", "--num-tasks", 3)


def test_classification_without_adaptation(images: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    metarl(*images, "--method", "pretrained", "--out", out)
    metarl("evaluate", out, "--num-tasks", 4, "--nearest-neighbor")
    metarl("evaluate", out, "--num-tasks", 4, "--start", "prototypes", "--test-steps", 0)
    metarl("evaluate", out, "--num-tasks", 4, "--tune-inner-lr", "--test-steps", 2)
    assert len(list((out / "evaluations").iterdir())) == 3


def test_an_ensemble_uses_the_best_checkpoints(sine: Path) -> None:
    metarl("evaluate", sine, "--num-tasks", 5, "--ensemble", 2)
    (path,) = (sine / "evaluations").glob("*ensemble-2*")
    chosen = json.loads(path.read_text())["checkpoints"]
    losses = {entry["iteration"]: entry.get("validation/loss") for entry in history(sine)}
    assert chosen == sorted((4, 8, 10), key=lambda iteration: losses[iteration])[:2]


def test_plots_of_losses_and_fits(sine: Path, tmp_path: Path) -> None:
    metarl("evaluate", sine, "--num-tasks", 5)
    metarl("plot", sine, "--out", tmp_path / "one.png")
    metarl("plot", sine, sine, "--out", tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width > two.width  # fits are drawn next to the curves


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("methods")
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)
    rates = dict(re.findall(r"^│ ([\w+-]+) +│ (learned|fixed) *│$", shown, re.MULTILINE))
    assert rates["sgd"] == rates["meta-curvature"] == "fixed"
    assert rates["lslr"] == rates["meta-curvature+lslr"] == "learned"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--method", "mamml"], "unknown --method mamml"),
        (["--method", "protomaml"], "requires classification tasks; use `metarl train fewshot`"),
        (["--preset", "omniglot-maml"], "expected one of sinusoid-paper"),
        (["--method", "maml", "--no-first-order"], "--no-first-order"),
        (["--checkpoint-every", "5"], "must be a multiple of --log-every 2, got 5"),
        (["--inner-lr", "-1"], "--inner-lr must be at least 0"),
    ],
)
def test_invalid_regressions_give_one_line_errors(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(capsys, *SINE, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--ways", "9"], "--num-ways must be at most 8, the number of classes in this data "),
        (["--shots", "8"], "must be at most 8, the number of images in class "),
        (["--variable", "--ways", 6], "no fixed number of classes"),
        (
            ["--variable", "--ways", 6, "--mode", "compiled"],
            "requires --mode eager",
        ),
        (["--method", "zero-head", "--variable"], "--num-ways must be greater than 5"),
        (["--network", "conv5"], "--network must be one of"),
        (["--data-root", "nowhere"], "nowhere"),
        (
            ["--start", "prototypes", "--inner", "meta-sgd"],
            "learns hyperparameters for each element of the head",
        ),
        (["--start", "zero", "--inner", "meta-curvature+lslr"], "use --inner sgd, adam or lslr"),
        (["--method", "reptile", "--train-shots", 1, "--adapts", "head"], "requires --adapts all"),
        (["--method", "imaml", "--start", "zero"], "requires --start learned, got --start zero"),
        (["--method", "protomaml", "--inner-batch", 2], "remove --inner-batch"),
        (["--method", "imaml", "--inner-batch", 2], "remove --inner-batch"),
        (["--method", "imaml", "--first-order"], "remove --first-order"),
        (["--outer-lr-end", "1e-5"], "set --outer-schedule cosine or linear"),
        (
            ["--method", "zero-head", "--inner-steps", 0],
            "at least 1 and does not support --adapts body",
        ),
        (["--variable", "--ways", 6, "--shots", 2], "remove --num-shots"),
        (["--start", "prototypes", "--per-step-norm"], "does not support --per-step-norm"),
        (["--method", "pretrained", "--inner-steps", 1], "remove --inner-steps and --start"),
        (["--method", "pretrained", "--start", "zero"], "remove --inner-steps and --start"),
        (["--variable", "--ways", 6, "--queries", 2], "remove --num-queries"),
        (
            ["--preset", "omniglot-reptile", "--method", "maml"],
            "requires --method reptile",
        ),
    ],
)
def test_invalid_classifications_give_one_line_errors(
    words: list[str],
    line: str,
    images: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert line in refusal(capsys, *images, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tune-inner-lr", "--inner-lr", 1], "are mutually exclusive"),
        (["--tune-inner-lr", "--test-steps", 0], "requires --test-steps of at least 1"),
        (["--ensemble", 2, "--checkpoint", 0], "are mutually exclusive"),
        (["--ensemble", 9], "the number of validated checkpoints in"),
        (["--nearest-neighbor", "--inner-lr", 1], "uses one checkpoint; remove --ensemble"),
        (["--nearest-neighbor"], "--nearest-neighbor requires classification tasks"),
        (["--ways", 3], "has no setting --num-ways"),
        (["--checkpoint", 3], "has no checkpoint of iteration 3"),
    ],
)
def test_invalid_evaluations_give_one_line_errors(
    words: list[Any], line: str, sine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(capsys, "evaluate", sine, *words)


def test_different_evaluations_have_different_files(sine: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sine, tmp_path / "run"))
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    asked = [(), ("--inner-lr", 0.5), ("--test-steps", 0), ("--seed", 0), ("--tasks", "validation")]
    for flags in asked:
        metarl("evaluate", run, "--num-tasks", 3, *flags)
    assert len(list((run / "evaluations").iterdir())) == len(asked)


def test_a_run_can_be_evaluated_with_a_different_start(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = ("--train-shots", 4, "--shots", 2, "--inner-batch", 3, "--inner-steps", 1)
    metarl(*images, "--method", "reptile", *shots, "--test-steps", 2, "--out", tmp_path / "reptile")
    metarl(*images, "--method", "lslr", "--out", tmp_path / "lslr")
    for run in (tmp_path / "reptile", tmp_path / "lslr"):
        for flags in (("--start", "prototypes"), ("--start", "zero"), ("--nearest-neighbor",)):
            metarl("evaluate", run, "--num-tasks", 3, *flags)
        entries = Run.open(run).evaluations()
        assert len(entries) == 3
        assert all(np.isfinite(entry["mean"]).all() for entry in entries)
        assert len({json.dumps(protocol(entry)) for entry in entries}) == 3
    metarl(*images, "--method", "protomaml", *FEW_STEPS, "--out", tmp_path / "proto")
    line = refusal(capsys, "evaluate", tmp_path / "proto", "--start", "learned")
    assert "has no learned head; remove --start" in line


def test_the_number_of_queries_is_recorded(images: list[str], folder: Path, tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        shutil.copytree(folder, tmp_path / "split" / split)
        for old in list((tmp_path / "split" / split).iterdir()):
            new = old.rename(old.with_name(f"{split}-{old.name}"))
            for number in range(5) if split == "validation" else ():
                (new / f"{number}.png").unlink()
    metarl(*images, "--data-root", tmp_path / "split", "--out", tmp_path / "run")
    for tasks in ("test", "validation"):
        metarl("evaluate", tmp_path / "run", "--num-tasks", 2, "--tasks", tasks)
    found = {
        entry["tasks"]: entry["num_queries"] for entry in Run.open(tmp_path / "run").evaluations()
    }
    assert found == {"test": 7, "validation": 2}


def test_an_ensemble_excludes_diverged_checkpoints(sine: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sine, tmp_path / "run"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = {4: 0.9, 8: float("nan"), 10: 0.1}
    for line in lines:
        if line["iteration"] in scores:
            line["validation/loss"] = scores[line["iteration"]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    metarl("evaluate", run, "--num-tasks", 3, "--ensemble", 2)
    (path,) = (run / "evaluations").iterdir()
    assert json.loads(path.read_text())["checkpoints"] == [10, 4]


def test_splits_have_disjoint_classes() -> None:
    shades = {"train": 40, "validation": 120, "test": 200}
    splits = Splits(*(
        Classes(torch.full((20, 1, 12, 12), shade, dtype=torch.uint8), (5,) * 4, tuple("abcd"))
        for shade in shades.values()
    ))  # fmt: skip
    config = FewShotConfig(num_ways=2, filters=4, image_size=12)
    experiment = ImageClassification(config)
    experiment.splits = splits
    parts = experiment.parts
    draws = [(parts.draw, shades["train"])]
    draws += [(parts.evaluated[name], shade) for name, shade in shades.items()]
    for draw, shade in draws:
        task = draw(3, torch.Generator().manual_seed(0))
        assert isinstance(task, Task)
        for batch in (task.support[0], task.query):
            assert torch.equal(batch[0], torch.full_like(batch[0], shade / 255))


def test_changed_classes_are_detected(
    images: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl(*images, "--out", tmp_path / "run")
    fewer = Path(shutil.copytree(folder, tmp_path / "fewer"))
    shutil.rmtree(fewer / "class03")
    line = refusal(capsys, "evaluate", tmp_path / "run", "--num-tasks", 2, "--data-root", fewer)
    assert "have changed since training" in line


def test_rendering_a_supervised_run_is_an_error(
    sine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "render", sine, "--out", tmp_path / "x.png")
    assert "has no policy to render. Use `metarl plot" in line


def test_a_different_number_of_ways_requires_a_new_head(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl(*images, "--out", tmp_path / "run")
    line = refusal(capsys, "evaluate", tmp_path / "run", "--ways", "3")
    assert "has a learned head for 2 classes; use --start zero or prototypes for 3" in line
