"""Commands on a finished run: evaluate, render and plot."""

import gc
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.drawing.series import comparable_evaluations
from metarl.experiments import meta_rl
from metarl.models import policy
from metarl.rl.evaluate import AdaptationCurve, adaptation_curve
from metarl.runs.finding import runs_in
from metarl.runs.folder import Run
from metarl.runs.records import measured, metrics_in
from metarl.util.output import require_writable
from tests.support.commands import FEW, TRAIN, metarl, refusal
from tests.support.own_environment import register


def test_evaluate_render_and_plot(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metarl("evaluate", whole, "--num-tasks", 3, "--episodes-per-task", 4, "--inner-steps", 2)
    assert "3 test tasks" in " ".join(capsys.readouterr().out.split())
    (report,) = [json.loads(path.read_text()) for path in (whole / "evaluations").iterdir()]
    assert np.shape(report["returns"]) == (3, 3)
    assert np.allclose(np.mean(report["returns"], 0), report["mean"])
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    for name in ("paths.png", "curves.png"):
        verb = ["render", whole, "--num-tasks", 2] if name == "paths.png" else ["plot", whole]
        metarl(*verb, "--out", whole / "media" / name)
        assert (whole / "media" / name).read_bytes().startswith(b"\x89PNG")


# imageio leaves the pipes of its ffmpeg process to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_render_records_the_given_task(whole: Path) -> None:
    imageio = pytest.importorskip("imageio.v3", reason="pip install 'metarl-torch[video]'")
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    out = whole / "media" / "video.mp4"
    task = '{"goal": [0.3, -0.4]}'
    metarl("render", whole, "--task", task, "--inner-steps", 1, "--episodes-per-task", 3,
           "--out", out)  # fmt: skip
    frames = imageio.imread(out)
    assert len(frames) == 100
    assert np.ptp(frames[0]) > 0
    assert not np.array_equal(frames[0], frames[-1])
    gc.collect()  # now, while the marker above is in force


@pytest.mark.parametrize(
    "flags",
    [
        ["--inner-steps", "0"],
        ["--inner-steps", "0", "--observe-task"],
        ["--inner-steps", "3"],
        ["--first-order"],
        ["--inner", "meta-sgd", "--inner-loss", "ratio"],
    ],
    ids=" ".join,
)
def test_variants_train_and_evaluate(flags: list[str], tmp_path: Path) -> None:
    metarl(*TRAIN, *flags, "--iterations", 1, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", *FEW)
    oracle = flags[-1] == "--observe-task"
    (path,) = (tmp_path / "run/evaluations").iterdir()
    assert len(json.loads(path.read_text())["mean"]) == (1 if oracle else 4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "--inner-lr", "nan"], "--inner-lr must be finite"),
        (["evaluate", "--inner-lr", "1", "--tune-inner-lr"], "are mutually exclusive"),
        (
            ["evaluate", "--inner-steps", "0", "--tune-inner-lr"],
            "requires --inner-steps of at least",
        ),
        (["render", "--inner-lr", "1", "2", "--out", "a.png"], "one step size per run: expected 1"),
        (["render", "--task", "{bad", "--out", "a.png"], "must be a JSON object such as"),
        (["render", "--inner-steps=-1", "--out", "a.png"], "--inner-steps must be at least 0"),
        (["render", "--num-tasks", "0", "--out", "a.png"], "--num-tasks must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_settings_of_a_finished_run_give_one_line_errors(
    words: list[str], expected: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, words[0], whole, *words[1:])


def test_the_fixed_step_size_of_meta_curvature_can_be_changed(tmp_path: Path) -> None:
    flags = ("--inner", "meta-curvature", "--iterations", 1, "--out", tmp_path / "run")
    metarl(*TRAIN, *flags)
    means = []
    for rate in ("0", "0.1"):
        metarl("evaluate", tmp_path / "run", *FEW, "--inner-lr", rate, "--inner-steps", 1)
        means.append(Run.open(tmp_path / "run").evaluations()[0]["mean"])
    assert means[0][0] == means[1][0]
    assert means[0][1] != means[1][1]


def test_runs_that_a_command_does_not_support_give_one_line_errors(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAIN, "--env", "metarl/SparsePoint-v0", "--inner", "meta-sgd", "--iterations", 1]
    other = tmp_path / "other"
    metarl(*words, "--out", other)
    assert "has learned step sizes" in refusal(capsys, "evaluate", other, "--inner-lr", 1)
    line = refusal(capsys, "render", whole, other, "--out", tmp_path / "a.png")
    assert "the same environment, got metarl/Navigation2D-v0 and metarl/SparsePoint-v0" in line
    (other / "metrics.jsonl").unlink()
    assert "has no metrics yet" in refusal(capsys, "plot", other, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_the_step_size_is_tuned_with_the_test_protocol_on_validation_tasks(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def spy(*args: Any, **kwargs: Any) -> AdaptationCurve:
        calls.append(args)
        return adaptation_curve(*args, **kwargs)

    monkeypatch.setattr(policy, "adaptation_curve", spy)
    monkeypatch.setattr(meta_rl, "TUNING_RATES", (0.1, 0.2))
    sizes = ["--num-tasks", 3, "--episodes-per-task", 4, "--inner-steps", 2]
    metarl("evaluate", copied, *sizes, "--tune-inner-lr")
    tasks = [call[4] for call in calls]
    assert [len(drawn) for drawn in tasks] == [3, 3, 3]
    assert tasks[0] == tasks[1]
    assert not [task for task in tasks[0] if task in tasks[2]]
    assert all(call[0].episodes_per_task == 4 and call[2].num_steps == 2 for call in calls)
    draws = [call[5].initial_seed() for call in calls]
    assert draws[0] == draws[1] != draws[2]
    (entry,) = [e for e in Run.open(copied).evaluations() if e["tuned"]]
    assert entry["inner_lr"] in (0.1, 0.2)


def test_tuned_and_untuned_evaluations_have_different_files(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(copied)
    rate = run.read_config()["config"]["inner_lr"]
    monkeypatch.setattr(meta_rl, "TUNING_RATES", (rate,))
    sizes = [*FEW, "--inner-steps", 1]
    metarl("evaluate", run.folder, *sizes)
    metarl("evaluate", run.folder, *sizes, "--tune-inner-lr")
    assert [(e["tuned"], e["inner_lr"]) for e in run.evaluations()] == [(True, rate), (False, rate)]


def test_evaluations_report_infos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metarl(*TRAIN, "--env", register("Reports"), "--iterations", 1, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", *FEW, "--info", "success", "guess")
    (entry,) = Run.open(tmp_path / "run").evaluations()
    assert np.shape(entry["infos"]["success"]) == np.shape(entry["returns"]) == (2, 4)
    success = measured(entry, "success")
    assert success["mean"] == pytest.approx(np.mean(entry["infos"]["success"], 0).tolist())
    assert metrics_in(entry) == ["return", "success", "guess"]
    assert measured(entry, "return")["values"] == entry["returns"]
    assert "infos on 2 test tasks" in " ".join(capsys.readouterr().out.split())
    line = refusal(capsys, "evaluate", tmp_path / "run", *FEW, "--info", "solved")
    assert "--info must be entries that own/Reports-v0 returns in its infos, got solved" in line
    plot = ("plot", tmp_path / "run", "--metric", "success", "--out", tmp_path / "a.png")
    line = refusal(capsys, *plot)
    assert "--metric must be a metric of" in line
    assert "expected one of return, got success" in line


def test_tables_of_many_infos_fit_into_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    env = register("RewardTerms")
    metarl(*TRAIN, "--env", env, "--iterations", 1, "--out", tmp_path / "run")
    capsys.readouterr()
    names = [f"reward_term_{number}" for number in range(8)]
    metarl("evaluate", tmp_path / "run", *FEW, "--info", *names)
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┃│┏"]
    assert max(map(len, table)) <= 80
    assert all(name in "".join(table) for name in names)
    assert sum("±" in line for line in table) == 4 * sum("┏" in line for line in table)


def test_a_plot_only_compares_evaluations_with_equal_protocols(tmp_path: Path) -> None:
    runs = []
    for seed, sizes in enumerate(([40, 2], [2], [40])):
        with Run.create(tmp_path / str(seed), "example", {}) as run:
            for iteration, num_tasks in enumerate(sizes):
                entry = {"iteration": iteration, "num_tasks": num_tasks, "mean": [float(seed)]}
                entry |= {"interval95": [0.0], "episodes_per_task": 1, "seed": 1}
                run.write_evaluation(str(iteration), entry)
        runs.append(run)
    assert [e["mean"] for e in comparable_evaluations(runs)] == [[0.0], [1.0]]
    assert [e["mean"] for e in comparable_evaluations(runs[::-1])] == [[2.0], [0.0]]


def test_the_runs_of_a_comparison_are_plotted_with_their_labels(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compare"
    for number in (2, 10):
        copy = Path(shutil.copytree(whole, folder / f"maml-{number}"))
        about = json.loads((copy / "config.json").read_text())
        about["config"]["seed"] = number
        (copy / "config.json").write_text(json.dumps(about))
    (folder / "table.md").touch()
    assert [path.name for path in runs_in(folder)] == ["maml-2", "maml-10"]
    capsys.readouterr()
    metarl("plot", folder, "--labels", "MAML", "--out", tmp_path / "a.pdf")
    assert "MAML: maml (2 seeds)\n" in capsys.readouterr().out
    error = refusal(capsys, "plot", folder, "--labels", "a", "b", "--out", tmp_path / "b.pdf")
    assert error.endswith("Runs are averaged if only their seeds differ")
    assert refusal(capsys, "evaluate", folder).endswith(f"such as {folder}/maml-2")
    error = refusal(capsys, "plot", folder / "*-?", "--out", tmp_path / "c.pdf")
    assert error.endswith("No folder matches this pattern")


def test_folder_names_are_not_parsed_as_formulas(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    priced = shutil.copytree(whole, tmp_path / r"$\5 to $10")
    metarl("plot", priced, "--out", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_the_output_path_is_checked_before_the_computation(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    assert "is a folder" in refusal(capsys, "plot", whole, "--out", tmp_path / "folder.png")
    message = refusal(capsys, "plot", whole, "--out", tmp_path / "file/curves.png")
    assert "cannot be written" in message
    require_writable(tmp_path / "new/folder/curves.png")
    assert (tmp_path / "new/folder").is_dir()


def test_missing_matplotlib_gives_a_one_line_error(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refusal(capsys, "plot", whole, "--out", tmp_path / "curves.png")
    assert "plots require matplotlib; run pip install 'metarl-torch[plot]'" in message
