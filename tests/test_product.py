"""The product from the outside: every command, every error, and runs that die."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from metarl import cli
from metarl.envs.navigation import Navigation2D


TINY = [
    *("--num-tasks", "2", "--episodes-per-task", "3"),
    *("--hidden", "8", "8", "--checkpoint-every", "2"),
]
TRAIN = ["train", "maml-trpo", *TINY]


def metarl(*argv: Any) -> None:
    """Run a command line in this process; fail unless it exits with 0."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in argv])
    assert stopped.value.code == 0


def refusal(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """Run a command line that must fail; return its error, which must be a single line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in argv])
    assert stopped.value.code in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("metarl: error: ")
    return line


def history(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without what may differ: wall times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("[0-9]*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    metarl(*TRAIN, "--iterations", 6, "--out", folder)
    return folder


def test_a_run_folder_holds_what_it_should(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
    }
    assert sorted(checkpoints(whole)) == [f"{n:08d}.safetensors" for n in (0, 2, 4, 6)]
    entries = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert set(entries[0]) >= {
        "return/step_0",
        "return/step_1",
        "trpo/kl",
        "trpo/improvement",
        "trpo/step_fraction",
        "policy/std_before",
        "policy/std_after",
        "baseline/explained_variance",
        "gradient/inner_0",
        "gradient/outer",
        "env/steps",
        "time/sampling",
        "time/update",
        "time/other",
    }
    about = json.loads((whole / "config.json").read_text())
    assert about["experiment"] == "maml-trpo"
    assert about["config"]["hidden"] == [8, 8]
    assert "torch" in about["versions"]


def test_evaluate_render_and_plot(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metarl("evaluate", whole, "--num-tasks", 3, "--episodes-per-task", 4, "--inner-steps", 2)
    assert "held-out tasks" in capsys.readouterr().out
    (report,) = [json.loads(path.read_text()) for path in (whole / "evaluations").iterdir()]
    assert np.shape(report["returns"]) == (3, 3)
    assert np.allclose(np.mean(report["returns"], 0), report["mean"])
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    for name in ("paths.png", "curves.png"):
        verb = ["render", whole, "--num-tasks", 2] if name == "paths.png" else ["plot", whole]
        metarl(*verb, "--out", whole / "media" / name)
        assert (whole / "media" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
# imageio leaves the pipes of its ffmpeg process to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_render_films_a_given_task(whole: Path) -> None:
    imageio = pytest.importorskip("imageio.v3", reason="pip install 'metarl-torch[video]'")
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    out = whole / "media" / "film.mp4"
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
        ["--inner", "meta-sgd", "--estimator", "ratio"],
    ],
    ids=" ".join,
)
def test_variants_train_and_evaluate(flags: list[str], tmp_path: Path) -> None:
    metarl(*TRAIN, *flags, "--iterations", 1, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", "--num-tasks", 2, "--episodes-per-task", 2)
    oracle = flags[-1] == "--observe-task"
    (path,) = (tmp_path / "run/evaluations").iterdir()
    assert len(json.loads(path.read_text())["mean"]) == (1 if oracle else 4)


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole: Path, tmp_path: Path) -> None:
    metarl(*TRAIN, "--iterations", 6, "--out", tmp_path / "again")
    assert history(tmp_path / "again") == history(whole)
    assert checkpoints(tmp_path / "again") == checkpoints(whole)
    metarl(*TRAIN, "--iterations", 1, "--seed", 1, "--out", tmp_path / "other")
    assert history(tmp_path / "other") != history(whole)[:1]


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing(whole: Path, tmp_path: Path) -> None:
    for threads in ("1", "2", "3"):
        command = [sys.executable, "-m", "metarl.cli", *TRAIN, "--iterations", "3"]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        out = tmp_path / threads
        subprocess.run([*command, "--out", str(out)], check=True, env=environment)
        assert history(out) == history(whole)[:3]


@pytest.mark.parametrize("dies_at", [0, 1, 3, 4, 5])
def test_resume_continues_bit_for_bit(whole: Path, tmp_path: Path, dies_at: int) -> None:
    """Rebuild what a process leaves that dies in the middle of an iteration."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:dies_at]) + lines[dies_at][:20])
    for path in (run / "checkpoints").iterdir():
        if int(path.stem) > dies_at:
            path.rename(path.with_name(f".{path.name}.tmp"))
            path.with_name(f".{path.name}.tmp").write_bytes(b"half a checkp")
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


def test_resume_of_a_run_that_died_at_birth(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.json", run)
    (run / "lock").touch()
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


@pytest.mark.slow
def test_a_killed_process_is_resumed_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "metarl.cli", *TRAIN, "--iterations", "6", "--out", str(run)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        written = run / "metrics.jsonl"
        if written.exists() and len(written.read_text().splitlines()) >= 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


def test_resume_of_a_whole_run_says_so_and_can_go_further(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    metarl("resume", run)
    assert "complete" in capsys.readouterr().out
    metarl("resume", run, "--iterations", 7)
    assert len(history(run)) == 7
    assert history(run)[:6] == history(whole)


def test_a_second_writer_is_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from metarl.tracking import Run

    with Run.open(whole).lock():
        assert "another process" in refusal(capsys, "resume", whole)


def test_an_out_that_exists_is_refused_and_left_alone(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoints(whole)
    assert f"metarl resume {whole}" in refusal(capsys, *TRAIN, "--out", whole)
    assert checkpoints(whole) == before
    (tmp_path / "thesis.tex").write_text("precious")
    assert "not empty" in refusal(capsys, *TRAIN, "--out", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert "not empty" in refusal(capsys, *TRAIN, "--out", tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--env", "metarl/Navigation2-v0"], "Navigation2D"),
        (["--env", "CartPole-v1"], "has no tasks"),
        (["--preset", "navigation-slow"], "navigation-quick"),
        (["--iterations", "0"], "--iterations must be at least 1, got 0"),
        (["--discount", "1.5"], "--discount must be between 0 and 1"),
        (["--max-kl", "0"], "--max-kl must be greater than 0"),
        (["--inner-steps=-1"], "--inner-steps must be at least 0"),
        (["--chunk-size", "0"], "--chunk-size must be at least 1"),
        (["--seed=-1"], "--seed must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_settings_are_one_line_and_leave_no_folder(
    flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *TRAIN, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rendr"], "did you mean 'render'"),
        (["train", "maml-tpro"], "did you mean 'maml-trpo'"),
        (["evaluate", "nowhere"], "holds no run"),
        (["resume", "nowhere"], "holds no run"),
        (["render", "nowhere", "--out", "a.txt"], "must end in"),
        (["plot", "nowhere", "--out", "a.png"], "holds no run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misunderstood_commands_are_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *words)


def test_cuda_without_cuda_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refusal(capsys, *TRAIN, "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cpu" in message


def test_damaged_and_foreign_checkpoints_are_one_line_and_stay(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints/00000006.safetensors"
    good = last.read_bytes()
    for damaged in (good[: len(good) // 2], b"", b"not a checkpoint at all", good[:-1]):
        last.write_bytes(damaged)
        assert "--checkpoint" in refusal(capsys, "evaluate", run)
        assert last.read_bytes() == damaged
    save_file({"weights": np.zeros(3)}, last)
    assert "not a checkpoint of metarl" in refusal(capsys, "evaluate", run)
    metarl("evaluate", run, "--checkpoint", 4, "--num-tasks", 2, "--episodes-per-task", 2)
    assert "[0, 2, 4, 6]" in refusal(capsys, "evaluate", run, "--checkpoint", 3)


def test_resume_falls_back_to_the_last_whole_checkpoint(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints/00000006.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    metarl("resume", run)
    assert "not a whole checkpoint" in capsys.readouterr().err
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)
    assert load_file(last)


class Poisoned(Navigation2D):
    """Navigation whose rewards turn into NaN at the third reset after import."""

    resets = 0

    def reset(self, **kwargs: Any) -> Any:
        type(self).resets += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(action)
        return seen, float("nan") if type(self).resets > 2 * 2 * 2 * 3 else reward, *rest


def test_a_loss_that_is_not_finite_stops_with_one_line_and_keeps_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium.register("tests/Poisoned-v0", entry_point=Poisoned, max_episode_steps=5)
    Poisoned.resets = 0
    out = tmp_path / "run"
    flags = ["--env", "tests/Poisoned-v0", "--iterations", "9", "--out", out]
    message = refusal(capsys, *TRAIN, *flags)
    assert "iteration 3" in message
    assert "lower --inner-lr" in message
    assert [entry["iteration"] for entry in history(out)] == [1, 2]
    assert sorted(checkpoints(out)) == ["00000000.safetensors", "00000002.safetensors"]


def test_help_names_every_command_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    metarl("--help")
    overview = capsys.readouterr().out
    assert all(verb in overview for verb in ("train", *cli.VERBS))
    metarl("train")
    assert "navigation-paper" in capsys.readouterr().out
    for verb in cli.VERBS:
        metarl(verb, "--help")
        assert "--" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_or_iteration_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.copy(run / "checkpoints/00000002.safetensors", run / "checkpoints/00000006.safetensors")
    assert "belongs to another run or iteration" in refusal(capsys, "evaluate", run)


def test_resume_changes_nothing_where_no_checkpoint_or_not_all_metrics_can_be_read(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.jsonl").write_text("")
    (run / "checkpoints/00000006.safetensors").unlink()
    assert "lacks iterations up to 4" in refusal(capsys, "resume", run)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    (run / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["resume", str(run), "--iterations", "1"])
    assert "nothing was changed" in capsys.readouterr().err.splitlines()[-1]
    assert history(run) == history(whole)
    assert {path.read_bytes() for path in (run / "checkpoints").iterdir()} == {b"damaged"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "--inner-lr", "nan"], "--inner-lr must be finite"),
        (["render", "--task", "{bad", "--out", "a.png"], "--task must be JSON"),
        (["render", "--inner-steps=-1", "--out", "a.png"], "--inner-steps must be at least 0"),
        (["render", "--num-tasks", "0", "--out", "a.png"], "--num-tasks must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_settings_of_a_finished_run_are_one_line(
    words: list[str], expected: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, words[0], whole, *words[1:])


def test_damaged_configuration_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    about = json.loads((run / "config.json").read_text())
    del about["config"]["hidden"]  # takes its default, which is not what the checkpoints say
    (run / "config.json").write_text(json.dumps(about))
    assert "differs from config.json in ['hidden']" in refusal(capsys, "evaluate", run)
    about["config"]["hidden"] = "8x8"
    (run / "config.json").write_text(json.dumps(about))
    assert "--hidden must be tuple" in refusal(capsys, "resume", run)
    (run / "config.json").write_text("{")
    assert "not a configuration" in refusal(capsys, "resume", run)
