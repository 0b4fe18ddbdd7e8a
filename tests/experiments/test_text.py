"""Text runs on the command line: train, evaluate, resume, plot and errors."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from metarl.commands.measures import text as measured
from metarl.core import Batch
from metarl.experiments import settings
from metarl.experiments.text_evaluation import TextEvaluation, file_name
from metarl.runs import checkpoint
from metarl.runs.folder import Run
from metarl.runs.records import protocol
from metarl.text.encoders import load_pretrained
from metarl.text.files import Row, TextTask, read_tasks
from tests.support.commands import checkpoints, history, metarl, refusal
from tests.support.reference_text import Plain
from tests.support.sentences import LAYERS, LENGTH, SIZE, colored_rows, save_encoder, write_lines


METHODS: dict[str, tuple[Any, ...]] = {
    "leopard": (),
    "protonet": (),
    "protomaml": ("--inner-steps", 2),
    "zero-head": ("--inner-steps", 2),
    "pretrained": ("--test-steps", 3),
    "lslr": ("--start", "prototypes", "--inner-clip", 1.0),
}
TASKS = {  # numbers of rows and evaluation rows per label
    "coats": (["red", "blue"], 40, 0),
    "walls": (["green", "white", "black"], 40, 2),
    "few": (["grey", "red"], 8, 0),  # too small for validation
    "eyes": (["blue", "green", "grey"], 6, 5),
    "hats": (["red", "white"], 6, 7),
}
HELD_OUT = "eyes,hats"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The command line of a run on small tasks, which tests extend."""
    root = tmp_path_factory.mktemp("text")
    (root / "tasks").mkdir()
    for name, (labels, each, evaluation) in TASKS.items():
        rows, others = [], []
        for label in labels:
            made = colored_rows([label], each + evaluation)
            rows += made[:each]
            others += made[each:]
        write_lines(root / "tasks" / f"{name}.jsonl", rows)
        if others:
            write_lines(root / "tasks" / f"{name}.eval.jsonl", others)
    settings = {
        "--data-root": root / "tasks", "--encoder": save_encoder(root / "encoder"),
        "--held-out": HELD_OUT, "--top-layers": 1, "--max-length": 12, "--shots": 2,
        "--queries": 2, "--num-tasks": 2, "--validation-tasks": 2, "--checkpoint-every": 2,
        "--log-every": 1,
    }  # fmt: skip
    return ["train", "text", *(word for pair in settings.items() for word in pair)]


@pytest.fixture(scope="module")
def leopard(words: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four iterations."""
    out = tmp_path_factory.mktemp("runs") / "leopard"
    metarl(*words, "--iterations", 4, "--out", out)
    return out


@pytest.fixture
def evaluated(leopard: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(leopard, tmp_path / "run"))
    metarl("evaluate", run, "--tasks", HELD_OUT, "--shots", "2,4", "--samples", 3)
    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The saved figures, in order."""
    figures: list[Figure] = []

    def save(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        path.write_bytes(b"picture")

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_evaluated(
    method: str, words: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    metarl(*words, "--method", method, *METHODS[method], "--iterations", 2, "--out", out)
    config = Run.open(out).read_config()["config"]
    assert config["tasks"] == "coats,few,walls"
    before, after = (checkpoint.load(path).params for path in sorted(out.glob("checkpoints/*")))
    changed = {name for name in before.model if before.model[name].ne(after.model[name]).any()}
    for part in ("encoder.lower.model.embeddings", "encoder.lower", "encoder.upper"):
        assert any(name.startswith(f"body.{part}") for name in changed)
    metarl("evaluate", out, "--tasks", HELD_OUT, "--shots", "2,4", "--samples", 2)
    (path,) = (out / "evaluations").iterdir()
    result = json.loads(path.read_text())
    assert {task: list(found) for task, found in result["accuracies"].items()} == {
        "eyes": ["2", "4"],
        "hats": ["2", "4"],
    }
    for task, found in result["accuracies"].items():
        labels, _, each = TASKS[task]
        right = np.array([*found.values()]) * len(labels) * each
        assert right.shape == (2, 2, 2)
        assert right == pytest.approx(right.round())
        if method == "protonet":
            assert np.array_equal(right[..., 0], right[..., 1])
    assert (method == "protonet") == (config["test_steps"] == 0)


def test_resume_continues_bit_for_bit(leopard: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(leopard, tmp_path / "run"))
    (run / "checkpoints" / "00000004.safetensors").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]))
    metarl("resume", run)
    assert checkpoints(run) == checkpoints(leopard)
    assert history(run) == history(leopard)
    assert len(history(run)) == 4


@pytest.mark.parametrize(("given", "kept"), [(None, 1e-5), (0.0, 0.0), (2e-4, 2e-4)])
def test_the_encoder_has_a_separate_outer_step_size(
    given: float | None, kept: float, words: list[Any], tmp_path: Path
) -> None:
    flags = () if given is None else ("--encoder-lr", given)
    run = tmp_path / "run"
    metarl(*words, *flags, "--iterations", 1, "--checkpoint-every", 1, "--out", run)
    before, after = (checkpoint.load(path).params for path in sorted(run.glob("checkpoints/*")))
    moved = {name: (after.model[name] - x).abs().max().item() for name, x in before.model.items()}
    for part, expected in {
        "body.encoder.": kept,
        "body.features.": 1e-4,
        "generator.": 1e-4,
    }.items():
        found = max(size for name, size in moved.items() if name.startswith(part))
        assert found == pytest.approx(expected, rel=0.05), part  # Adam's first step


def test_accuracies_match_a_manual_computation(words: list[Any], tmp_path: Path) -> None:
    """Computed from tokens through the whole encoder; the first sentences generate the head."""
    run = tmp_path / "run"
    rates = ("--inner-lr", 0.3, "--inner-clip", 5.0, "--outer-lr", 1e-3, "--part-shots", 1)
    metarl(*words, *rates, "--iterations", 10, "--checkpoint-every", 10, "--out", run)
    metarl("evaluate", run, "--tasks", "eyes", "--shots", "2,4", "--samples", 3)
    (entry,) = Run.open(run).evaluations()
    config = Run.open(run).read_config()["config"]
    model, tokenizer = load_pretrained(config["encoder"])
    meta = checkpoint.load(max(run.glob("checkpoints/*"))).params
    plain = Plain(model, config["top_layers"], clip=5.0)

    def by_hand(task: TextTask, shots: int, index: int) -> list[float]:
        def batch(rows: Sequence[Row]) -> Batch:
            inputs = tokenizer([x.sentence1 for x in rows], padding=True, return_tensors="pt")
            labels = torch.tensor([task.labels.index(x.label) for x in rows])
            return dict(inputs), torch.eye(len(task.labels))[labels]

        rows = [[x for x in task.sample(shots, index) if x.label == y] for y in task.labels]
        parts = [batch([x for some in rows for x in some[n::shots]]) for n in range(shots)]
        path = plain.path(meta, (parts[0], *(parts[(1 + step) % shots] for step in range(3))))
        return [plain.accuracy(params, batch(task.evaluation)) for params in (path[0], path[-1])]

    (eyes,) = read_tasks(Path(config["data_root"]), ["eyes"])
    for shots in (2, 4):
        expected = np.array([by_hand(eyes, shots, index) for index in range(3)])
        assert np.array(entry["accuracies"]["eyes"][str(shots)]) == pytest.approx(expected)
        assert len({*map(tuple, expected)}) > 1  # samples differ
        assert not np.array_equal(expected[:, 0], expected[:, 1])  # and steps change something


def test_fine_tuning_uses_minibatches(words: list[Any], tmp_path: Path) -> None:
    found = []
    for size in (2, 1000):
        out = tmp_path / str(size)
        flags = ("--method", "pretrained", "--test-steps", 6, "--inner-batch", size)
        metarl(*words, *flags, "--iterations", 1, "--out", out)
        metarl("evaluate", out, "--tasks", HELD_OUT, "--shots", 4, "--samples", 4)
        found.append(Run.open(out).evaluations()[0]["accuracies"])
    assert found[0] != found[1]


def test_tasks_and_encoder_of_an_evaluation_can_be_in_other_folders(
    leopard: Path, words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(leopard, tmp_path / "run"))
    (tmp_path / "mine").mkdir()
    encoder = shutil.copytree(words[words.index("--encoder") + 1], tmp_path / "encoder")
    write_lines(tmp_path / "mine/moods.jsonl", colored_rows(["red", "grey"], 4))
    write_lines(tmp_path / "mine/moods.eval.jsonl", colored_rows(["red", "grey"], 3, seed=1))
    flags = ("--tasks", "moods", "--shots", 2, "--samples", 2)
    metarl("evaluate", run, *flags, "--data-root", tmp_path / "mine", "--encoder", encoder)
    assert list(Run.open(run).evaluations()[0]["accuracies"]) == ["moods"]
    metarl("evaluate", run, *flags[2:], "--data-root", tmp_path / "mine")  # all tasks in the folder
    assert list(Run.open(run).evaluations()[0]["accuracies"]) == ["moods"]
    line = refusal(capsys, "evaluate", tmp_path / "nowhere", *flags)
    assert "nowhere contains no run" in line


def test_a_pulled_run_is_resumed_with_the_folders_of_this_machine(
    leopard: Path, words: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    run, pulled = Path(shutil.copytree(leopard, tmp_path / "run")), tmp_path / "pulled"
    encoder = shutil.copytree(words[words.index("--encoder") + 1], tmp_path / "moved/encoder")
    tasks = shutil.copytree(words[words.index("--data-root") + 1], tmp_path / "moved/tasks")
    metarl("push", run, tmp_path / "shared", "--no-picture")
    metarl("pull", tmp_path / "shared", "--out", pulled)
    assert json.loads((pulled / "config.json").read_text())["config"]["encoder"] == "encoder"
    monkeypatch.chdir(tmp_path / "moved")
    metarl("resume", pulled, "--iterations", 6, "--data-root", "tasks", "--encoder", "encoder")
    config = json.loads((pulled / "config.json").read_text())["config"]
    assert (config["data_root"], config["encoder"]) == (str(tasks), str(encoder))
    metarl("resume", run, "--iterations", 6)
    assert history(pulled) == history(run)


def test_training_without_validation_tasks_needs_no_validation_rows(
    words: list[Any], tmp_path: Path
) -> None:
    flags = ("--tasks", "few", "--validation-tasks", 0, "--method", "protonet", "--iterations", 2)
    metarl(*words, *flags, "--out", tmp_path / "run")
    assert not any("validation/loss" in entry for entry in Run.open(tmp_path / "run").metrics())


def test_evaluations_are_reproducible_and_saved(evaluated: Path) -> None:
    (entry,) = Run.open(evaluated).evaluations()
    cells = np.array([list(found.values()) for found in entry["accuracies"].values()])
    assert entry["mean"] == pytest.approx(cells.mean((0, 1, 2)))
    assert len(entry["interval95"]) == 2
    metarl("evaluate", evaluated, "--tasks", HELD_OUT, "--shots", "2,4", "--samples", 3)
    (again,) = Run.open(evaluated).evaluations()  # replaces the previous evaluation
    assert again["accuracies"] == entry["accuracies"]
    hats = ("evaluate", evaluated, "--tasks", "hats", "--shots", 2, "--samples", 1)
    metarl(*hats, "--queries", 6)
    metarl(*hats, "--test-steps", 1, "--seed", 2)
    metarl("evaluate", evaluated, "--shots", "2,4", "--test-steps", 0, "--samples", 2)
    entries = Run.open(evaluated).evaluations()
    assert len({json.dumps(protocol(entry)) for entry in entries}) == len(entries) == 4
    assert list(entries[0]["accuracies"]) == ["eyes", "hats"]  # the held-out tasks


def test_evaluations_of_many_tasks_have_short_file_names() -> None:
    found = [
        file_name(
            TextEvaluation(Path("run"), shots="4", inner_lr=lr),
            {"tasks": ", ".join(tasks), "num_tasks": 40, "iteration": 2, "test_steps": 3},
        )
        for tasks in ([f"task{i}" for i in range(40)], [f"task{i}" for i in range(1, 41)])
        for lr in (None, 0.1)
    ]
    assert len(set(found)) == 4
    assert max(map(len, found)) < 120


def test_a_plot_shows_learning_and_accuracies_by_shots(
    leopard: Path, evaluated: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    metarl("plot", leopard, "--out", tmp_path / "x.png")
    learning, empty = drawn[-1].axes
    expected = [line["query/accuracy"] for line in history(leopard)]
    assert learning.lines[0].get_ydata() == pytest.approx(expected)
    assert [text.get_text() for text in empty.texts] == ["run `metarl evaluate` first"]
    metarl("plot", evaluated, "--out", tmp_path / "x.png")
    panel = drawn[-1].axes[1]
    (entry,) = Run.open(evaluated).evaluations()
    cells = np.array([list(found.values()) for found in entry["accuracies"].values()])
    curves = {bars.lines[0].get_linestyle(): bars.lines[0] for bars in panel.containers}
    for end, style in enumerate([":", "-"]):  # before and after adaptation
        assert curves[style].get_xdata().tolist() == [2, 4]
        assert curves[style].get_ydata() == pytest.approx(cells[..., end].mean((0, 2)))
    assert panel.get_xlabel() == "support sentences of each class"


def test_seeds_share_a_curve_and_different_accuracies_do_not(
    words: list[Any], evaluated: Path, tmp_path: Path, drawn: list[Figure],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = tmp_path / "run-2"
    metarl(*words, "--iterations", 4, "--seed", 2, "--out", other)
    metarl("evaluate", other, "--tasks", HELD_OUT, "--shots", "2,4", "--samples", 3)
    metarl("plot", evaluated, other, "--out", tmp_path / "x.png")
    panel = drawn[-1].axes[1]
    means = [Run.open(run).evaluations()[0]["mean"][1] for run in (evaluated, other)]
    (curve,) = (c for c in panel.containers if c.get_label() == "run (2 seeds)")
    assert np.mean(curve.lines[0].get_ydata()) == pytest.approx(np.mean(means))
    sine = tmp_path / "sine"
    metarl("train", "regression", "--hidden", 4, "--iterations", 1, "--out", sine)
    line = refusal(capsys, "plot", evaluated, sine, "--out", tmp_path / "x.png")
    assert "must have the same metric" in line


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--start", "learned"], "do not support --start learned; use --start generated"),
        (["--mode", "traced"], "--mode eager, got --mode traced"),
        (["--inner", "meta-sgd"], "--start generated creates a new head for each task"),
        (["--method", "meta-sgd", "--start", "zero"], "use --inner sgd, adam or lslr"),
        (["--top-layers", 4], "--top-layers must be from 0 to 3, got 4"),
        (["--max-length", 99], "meta-learning with 99 tokens. Lower --max-length"),
        (["--encoder", "no-such-folder/x"], "cannot load encoder 'no-such-folder/x'"),
        (["--tasks", "coats,sounds"], "unknown task 'sounds': expected one of coats"),
        (["--data-root", "nowhere"], "--data-root must be a folder with TASK.jsonl"),
        (["--held-out", ",".join(TASKS)], "leaves no training tasks; remove tasks from --held-out"),
        (
            ["--held-out", "eye,hats"],
            "unknown task 'eye' in --held-out: expected one of coats, eyes",
        ),
        (
            ["--tasks", ",", "--held-out", ",".join(TASKS)],
            "leaves no training tasks; remove tasks from --held-out",
        ),
        (["--per-step-norm"], "text encoders do not support --per-step-norm"),
        (["--outer-lr", 0], "--encoder-lr 1e-05 requires --outer-lr greater than 0, got 0"),
        (["--encoder-lr", -1], "--encoder-lr must be at least 0"),
        (["--part-shots", 0], "--part-shots must be at least 1"),
        (["--method", "reptile", "--start", "zero"], "use --estimator backprop"),
        (["--inner-batch", 4], "--start generated uses the whole support set"),
        (["--method", "pretrained", "--inner-steps", 2], "only adapts at test time"),
        (["--method", "pretrained", "--start", "zero"], "only adapts at test time"),
        (["--method", "pretrained", "--inner", "lslr"], "use --inner sgd or adam"),
        (
            ["--shots", 5, "--queries", 5],
            "at most 8, the number of rows in the smallest class of task few",
        ),
        (["--tasks", "few"], "validation, which uses a tenth of the rows: expected 40 rows"),
        (["--shots", 0], "--num-shots must be at least 1"),
    ],
)
def test_invalid_runs_give_one_line_errors(
    flags: list[Any], line: str, words: list[Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert line in refusal(capsys, *words, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tasks", "coats"], "task coats must have evaluation rows, got none. Add rows"),
        (["--tasks", "sounds"], "unknown task 'sounds'"),
        (["--tasks", "hats", "--shots", 8], "8 rows per class, got 6 for class 'red'. Lower"),
        (["--shots", "2,x"], "--shots must be positive integers such as"),
        (["--inner-lr", 0.1], "has learned step sizes (inner=lslr); remove --inner-lr"),
        (["--checkpoint", 3], "has no checkpoint of iteration 3"),
    ],
)
def test_invalid_evaluations_give_one_line_errors(
    flags: list[Any], line: str, leopard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(capsys, "evaluate", leopard, *flags)
    assert not Run.open(leopard).evaluations()


def test_evaluation_without_test_tasks_is_an_error(
    words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--held-out", "coats", "--tasks", "walls", "--iterations", 1]
    metarl(*words, *flags, "--out", tmp_path / "run")
    line = refusal(capsys, "evaluate", tmp_path / "run")
    assert "no test task has evaluation rows; set --tasks to names from coats" in line
    capsys.readouterr()
    metarl("evaluate", tmp_path / "run", "--tasks", "walls", "--shots", 2, "--samples", 1)
    warning = "was trained on walls, so the results do not measure generalization to new tasks"
    assert warning in capsys.readouterr().err


def test_benchmark_on_random_sentences(
    words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder = words[words.index("--encoder") + 1]
    small = {"encoder": str(encoder), "max_length": LENGTH, "top_layers": 1}
    monkeypatch.setattr(measured, "settings", partial(settings, **small))
    metarl("benchmark", "text", "--repeats", 1, "--out", tmp_path / "speed.json")
    figures = json.loads((tmp_path / "speed.json").read_text())["figures"]
    title = f"text: LEOPARD, 4 tasks x 3 ways x 4 shots, {LENGTH} tokens, encoder, top 1 layers"
    assert figures[title]["meta-step (s)"] > 0
    assert figures[title]["peak memory of the process (MB)"] > 100
    # A layer of SIZE has 4 SIZE^2 + 2 SIZE 24 weights. Sentences for the head and query sentences
    # take a forward and a backward pass, sentences for inner steps at least a forward pass.
    weights, tokens = LAYERS * (4 * SIZE**2 + 2 * SIZE * 24), 4 * 3 * LENGTH
    least = 2 * weights * tokens * (3 * (2 + 4) + 3 * 2) / 1e9
    assert least < figures[title]["matrix products of a meta-step (GFLOP)"] < 3 * least
    assert "matrix products" in capsys.readouterr().out
