"""``metarl compare``: methods over seeds from one command, which can be repeated to resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.commands import compare, comparison, side_by_side
from metarl.commands.compare import Compare, read_entry
from metarl.commands.comparison import task_values
from metarl.commands.side_by_side import AllStopped, SideBySide, divided
from metarl.drawing.curves import figure
from metarl.experiments import presets
from metarl.runs.folder import Run
from metarl.util import bootstrap95, interquartile_mean
from tests.support.commands import FEW, checkpoints, history, metarl, refusal
from tests.support.own_environment import forget, register


METHODS = ("maml-trpo", "vpg-maml --outer-lr 0.01")
TINY = {"env": "metarl/Navigation2D-v0", "num_tasks": 2, "episodes_per_task": 2, "hidden": (4,)}
FLAGS = ("--preset", "tiny", "--evaluate=--num-tasks 2 --episodes-per-task 2", "--out", "c")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(presets.POLICIES, "tiny", TINY)
    monkeypatch.chdir(tmp_path)  # the folder has the same name in every test


@pytest.fixture(scope="module")
def whole_comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.POLICIES, "tiny", TINY)
        patch.chdir(tmp_path_factory.mktemp("compare"))
        metarl("compare", *METHODS, *FLAGS, "--iterations", 2, "--seeds", 0, 1)
        return Path("c").absolute()


@pytest.fixture
def folder(whole_comparison: Path) -> Path:
    return Path(shutil.copytree(whole_comparison, "c"))


NAMES = [f"{m}-{seed}" for m in ("maml-trpo", "vpg-maml-outer-lr-0.01") for seed in (0, 1)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder
    }


def test_every_method_and_seed_is_a_run_that_records_its_command(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(NAMES)
    for name in NAMES:
        run = Run.open(folder / name)
        about = run.read_config()
        assert about["command"].startswith(f"metarl train {about['experiment']} --preset")
        assert about["config"]["seed"] == int(name[-1])
        (evaluation,) = run.evaluations()
        assert evaluation["command"].startswith(f"metarl evaluate {folder / name}")
    assert Run.open(folder / NAMES[-1]).read_config()["config"]["outer_lr"] == 0.01


def test_the_table_averages_over_seeds(folder: Path) -> None:
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0].startswith("| method | seeds | env steps | after 0 | after 1 |")
    means = [Run.open(folder / name).evaluations()[0]["mean"][0] for name in NAMES[:2]]
    first = lines[2].split(" | ")
    assert first[0] == "| maml-trpo"
    assert first[1] == "2"
    assert float(first[3].split()[0]) == pytest.approx(sum(means) / 2, rel=5e-3)
    assert (folder / "curves.png").stat().st_size > 1000


def test_the_second_table_has_interquartile_means_over_tasks_and_seeds(folder: Path) -> None:
    _, _, table = (folder / "table.md").read_text().split("\n\n")
    runs = [Run.open(folder / name) for name in NAMES[:2]]
    returns = np.array([run.evaluations()[0]["returns"] for run in runs])
    name, seeds, *cells = table.splitlines()[2].strip("| ").split(" | ")
    assert (name, seeds) == ("maml-trpo", "2")
    for cell, step in zip(cells, (0, -1), strict=True):
        middle, low, high = (float(word.strip("[],")) for word in cell.split())
        assert middle == pytest.approx(interquartile_mean(returns[..., step].ravel()), rel=5e-3)
        ends = bootstrap95(returns[..., step])
        assert [low, high] == pytest.approx(ends.tolist(), rel=5e-3)
    assert (folder / "profiles.png").stat().st_size > 1000


def test_infos_have_tables_and_figures() -> None:
    forget("own/")
    flags = ("--env", register("Reports"), "--info", "success", "--out", "c")
    metarl("compare", "vpg-maml", *flags, *FLAGS[:3], "--iterations", 1, "--seeds", 0)
    text = Path("c/table.md").read_text()
    assert "success on test tasks, by adaptation steps" in text
    assert "success on test tasks, interquartile mean" in text
    assert {path.name for path in Path("c").iterdir() if path.is_file()} == {
        "table.md", "curves.png", "curves-success.png", "profiles.png", "profiles-success.png",
    }  # fmt: skip
    line = Run.open(Path("c/vpg-maml-0")).metrics()[0]
    assert 0 <= line["success/step_1"] <= 1
    metarl("plot", "c/vpg-maml-0", "--metric", "success", "--out", "success.png")
    assert Path("success.png").stat().st_size > 1000


def test_runs_on_different_tasks_have_no_interquartile_mean() -> None:
    one, two = ({"tasks": [n], "returns": [[0.0, 1.0]], "mean": [0, 1]} for n in (1, 2))
    assert task_values({"a": [one, one]}, "return")["a"].shape == (2, 1, 2)
    assert task_values({"a": [one, two]}, "return") == {}
    assert task_values({"a": [one], "b": [{"mean": [0.0]}]}, "return") == {}


def test_repeating_the_command_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    monkeypatch.setenv("COLUMNS", "80")
    metarl("compare", *METHODS, *FLAGS, "--iterations", 2, "--seeds", 0, 1)
    assert contents(folder) == before
    lines = capsys.readouterr().out.splitlines()
    assert "run 1 of 4: c/maml-trpo-0" in lines
    assert any(line.startswith("run 4 of 4: c/vpg-maml-outer-lr-0.01-1, about") for line in lines)
    assert max(len(line) for line in lines if "│" in line) <= 80


def test_manual_evaluations_are_excluded_from_the_table_and_the_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, drawn = (folder / "table.md").read_bytes(), []
    sizes = FEW
    metarl("evaluate", folder / NAMES[0], *sizes, "--inner-lr", 2)  # the same protocol
    metarl("evaluate", folder / NAMES[1], "--num-tasks", 3, "--episodes-per-task", 2)

    def spy(runs: list[Run], out: Path, *, choose: Callable[[list[Run]], Any], **keys: Any) -> None:
        drawn.extend(entry["command"] for entry in choose(runs))
        figure(runs, out, choose=choose, **keys)

    monkeypatch.setattr(comparison, "figure", spy)
    metarl("compare", *METHODS, *FLAGS, "--iterations", 2, "--seeds", 0, 1)
    assert (folder / "table.md").read_bytes() == table
    words = "--num-tasks 2 --episodes-per-task 2"
    assert sorted(drawn) == sorted(f"metarl evaluate c/{name} {words}" for name in NAMES)


def test_the_figure_draws_the_selected_evaluations(folder: Path) -> None:
    asked: list[str] = []

    def choose(members: Any) -> list[dict[str, Any]]:
        asked.extend(run.folder.name for run in members)
        return [run.evaluations()[0] for run in members]

    figure([Run.open(folder / name) for name in NAMES], folder / "own.png", choose=choose)
    assert sorted(asked) == sorted(NAMES)


def test_flags_select_a_different_checkpoint_to_compare(folder: Path) -> None:
    flags = (
        *FLAGS[:2],
        "--evaluate=--num-tasks 2 --episodes-per-task 2 --checkpoint 0",
        *FLAGS[3:],
    )
    metarl("compare", *METHODS, *flags, "--iterations", 2, "--seeds", 0)
    entries = [e for e in Run.open(folder / NAMES[0]).evaluations() if e["iteration"] == 0]
    cell = (folder / "table.md").read_text().splitlines()[2].split(" | ")[3]
    assert float(cell.split()[0]) == pytest.approx(entries[0]["mean"][0], rel=5e-3)


@pytest.mark.nightly
def test_missing_and_unfinished_runs_are_completed(folder: Path) -> None:
    before = contents(folder)
    (folder / NAMES[0] / "checkpoints" / "00000002.safetensors").unlink()
    for path in (folder / NAMES[0] / "evaluations").iterdir():
        path.unlink()
    more = ("--iterations", 2, "--seeds", 0, 1, 2)
    metarl("compare", *METHODS, *FLAGS, *more)
    after = contents(folder)
    assert (folder / "maml-trpo-2" / "config.json").exists()
    name = f"{NAMES[0]}/checkpoints/00000002.safetensors"
    assert after[name] == before[name]


@pytest.mark.nightly
def test_more_iterations_continue_the_existing_runs(folder: Path) -> None:
    metarl("compare", *METHODS, *FLAGS, "--iterations", 3, "--seeds", 0, 1)
    for name in NAMES:
        run = Run.open(folder / name)
        assert run.checkpoints()[-1] == 3
        assert {entry["iteration"] for entry in run.evaluations()} == {2, 3}


def test_different_settings_in_the_same_folder_are_rejected(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    flags = ("--env", "metarl/Bandit-v0", "--preset", "tiny", "--out", "c")
    assert "was started with different values of --env" in refusal(
        capsys, "compare", "maml-trpo", *flags
    )
    assert contents(folder) == before


def test_the_last_method_is_checked_before_the_first_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("maml-trpo", "promp --max-kl 1", "--out", tmp_path / "c")
    assert "--max-kl" in refusal(capsys, "compare", *words)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["", "maml", "render"])
def test_an_unknown_method_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="unknown method"):
        read_entry(text)


def test_the_name_of_a_method_includes_its_flags() -> None:
    entry = read_entry("maml-trpo --first-order --inner-lr 0.1")
    assert entry.name == "maml-trpo-first-order-inner-lr-0.1"
    assert entry.flags == ["--first-order", "--inner-lr", "0.1"]


def test_names_preserve_a_minus_sign() -> None:
    names = [read_entry(f"sb3 --task '{{\"direction\": {d}}}'").name for d in (-1, 1, -0.5, "-.5")]
    assert names == [
        "sb3-task-direction-minus1", "sb3-task-direction-1", "sb3-task-direction-minus0.5",
        "sb3-task-direction-minus.5",
    ]  # fmt: skip
    assert read_entry("promp --outer-lr 1e-3").name == "promp-outer-lr-1e-3"


@pytest.mark.parametrize(
    "methods", [("promp", "promp"), ("promp --inner-lr 1", "promp --inner-lr=1")]
)
def test_methods_with_the_same_name_are_rejected(
    methods: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "compare", *methods, "--out", tmp_path / "c")
    assert "List every method only once" in told
    assert not (tmp_path / "c").exists()


def test_a_comparison_without_methods_is_rejected() -> None:
    with pytest.raises(ValueError, match="compare requires at least one method"):
        Compare(methods=(), out=Path("x"))
    with pytest.raises(ValueError, match="`seeds` must contain at least one seed"):
        Compare(methods=("promp",), out=Path("x"), seeds=())
    with pytest.raises(ValueError, match="must be distinct"):
        Compare(methods=("promp",), out=Path("x"), seeds=(0, 0))


def test_supervised_methods_can_be_compared(tmp_path: Path) -> None:
    sine = "regression --iterations 2 --num-tasks 2 --validation-tasks 2 --hidden 4"
    words = (f"{sine} --method fomaml", f"{sine} --method anil", "--seeds", 0)
    for _ in range(2):  # the second command has nothing to do
        metarl("compare", *words, "--evaluate=--num-tasks 3", "--out", tmp_path / "c")
    assert (tmp_path / "c" / "curves.png").exists()
    config = json.loads(next((tmp_path / "c").glob("*anil-0/config.json")).read_text())
    assert config["config"]["adapts"] == "head"


def test_settings_are_parsed_before_threads_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing replaces sys.stderr temporarily, which is not thread-safe."""
    reading, done = [], []
    parse = compare.cli.parse_train

    def spy(words: list[str]) -> Any:
        reading.append(threading.current_thread())
        return parse(words)

    def execute(self: SideBySide, path: Path, words: list[str]) -> None:
        done.append(words[:2])

    monkeypatch.setattr(compare.cli, "parse_train", spy)
    monkeypatch.setattr(SideBySide, "execute", execute)
    monkeypatch.setattr(compare, "evaluate", lambda *args: None)
    errors = sys.stderr
    metarl("compare", *METHODS, *FLAGS, "--iterations", 3, "--seeds", 0, 1, "--jobs", 2)
    assert sorted(done) == sorted(["resume", f"c/{name}"] for name in NAMES)
    assert {*reading} == {threading.main_thread()}
    assert sys.stderr is errors


WAITS = """trap 'echo told; exit 143' TERM; echo ready; while :; do sleep 0.05; done"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_parallel_runs(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "PROGRAM", ("sh", "-c", WAITS))
    beside, before = SideBySide(2), signal.getsignal(number)

    def ready() -> None:
        while sum("ready" in log.read_text() for log in tmp_path.glob("*.log")) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=ready, daemon=True).start()
    with pytest.raises(AllStopped, match=f"stopped by {number.name}"):
        beside.map(lambda path: beside.execute(path, []), [tmp_path / n for n in "abcd"])
    logs = {log.name: log.read_text().split() for log in tmp_path.glob("*.log")}
    assert logs["a.log"] == logs["b.log"] == ["ready", "told"]
    assert [words for name, words in logs.items() if name > "b.log" and words] == []
    assert signal.getsignal(number) == before


def test_parallel_processes_share_the_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 5, 7, 9, 11}, raising=False)
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a,MIG-1")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in divided(4)] == ["3", "GPU-8a", "MIG-1", "3"]
    assert {place["OMP_NUM_THREADS"] for place in divided(2)} == {"3"}
    assert {place["OMP_NUM_THREADS"] for place in divided(9)} == {"1"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in divided(3)] == ["0", "1", "0"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert "CUDA_VISIBLE_DEVICES" not in divided(1)[0]


def test_compare_under_torchrun_reports_one_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "comparisons support only one process" in refusal(
        capsys, "compare", "promp", "--out", "none"
    )
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stopped:
        compare.cli.main(["compare", "promp", "--out", "none"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == ""
    assert not Path("none").exists()


SMALL = "--num-tasks 2 --episodes-per-task 2 --hidden 4"


@pytest.mark.nightly
def test_parallel_runs_equal_sequential_runs(tmp_path: Path) -> None:
    words = [f"maml-trpo {SMALL}", "--iterations", 2, "--seeds", 0, 1]
    asked = "--evaluate=--num-tasks 2 --episodes-per-task 2"
    metarl("compare", *words, asked, "--out", "alone")
    metarl("compare", *words, asked, "--jobs", 2, "--out", "beside")
    for folder in Path("alone").glob("*-[01]"):
        mine = Path("beside") / folder.name
        assert checkpoints(mine) == checkpoints(folder)
        assert history(mine) == history(folder)
        assert "iteration 2/2" in mine.with_name(f"{mine.name}.log").read_text()
    assert Path("beside/table.md").read_text() == Path("alone/table.md").read_text()


def test_a_failing_parallel_run_reports_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"maml-trpo {SMALL} --env gone:gone/Gone-v0", "--iterations", 1, "--seeds", 0]
    told = refusal(capsys, "compare", *words, "--jobs", 2, "--out", "failed")
    assert "gone" in told
    assert "The full output is in " in told


@pytest.mark.nightly
def test_stopped_parallel_runs_are_resumed(tmp_path: Path) -> None:
    method = f"maml-trpo {SMALL} --checkpoint-every 100000"
    words = ["compare", method, "--seeds", "0", "1"]
    words += ["--evaluate=--num-tasks 2 --episodes-per-task 2", "--out", "stopped"]
    argv = [sys.executable, "-m", "metarl", *words, "--jobs", "2", "--iterations", "100000"]
    started = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    metrics = [Path(f"stopped/{read_entry(method).name}-{s}/metrics.jsonl") for s in (0, 1)]
    until = time.monotonic() + 60
    while not all(path.exists() and path.stat().st_size for path in metrics):
        if started.poll() is not None or time.monotonic() > until:
            break
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    errors = started.communicate(timeout=60)[1]
    assert started.returncode == 128 + signal.SIGTERM
    (*_, last) = errors.splitlines()
    assert last == "metarl: error: stopped by SIGTERM. Run the same command to continue"
    reached = []
    for path in metrics:
        run = Run.open(path.parent)
        with run.lock():  # its process has ended
            reached.append(run.checkpoints()[-1])
        assert reached[-1] == run.metrics()[-1]["iteration"] > 0
    metarl(*words, "--iterations", max(reached) + 1)
    assert [Run.open(path.parent).checkpoints()[-1] for path in metrics] == [max(reached) + 1] * 2
