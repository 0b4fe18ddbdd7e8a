"""``metarl compare``: methods over seeds from one command, which goes on where it stopped."""

import json
import shutil
from pathlib import Path

import pytest
from commands import checkpoints, history, metarl, refusal

from metarl.experiments import presets
from metarl.experiments.compare import Compare, read_entry
from metarl.tracking import Run


METHODS = ("maml-trpo", "vpg-maml --outer-lr 0.01")
TINY = {"env": "metarl/Navigation2D-v0", "num_tasks": 2, "episodes_per_task": 2, "hidden": (4,)}
FLAGS = ("--preset", "tiny", "--evaluate=--num-tasks 2 --episodes-per-task 2", "--out", "c")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(presets.POLICIES, "tiny", TINY)
    monkeypatch.chdir(tmp_path)  # so that the folder has the same name in every test


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


def test_every_method_and_seed_is_a_run_that_says_what_made_it(folder: Path) -> None:
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


def test_the_same_command_again_trains_nothing(folder: Path) -> None:
    before = contents(folder)
    metarl("compare", *METHODS, *FLAGS, "--iterations", 2, "--seeds", 0, 1)
    assert contents(folder) == before


def test_what_is_missing_or_unfinished_is_made(folder: Path) -> None:
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


def test_more_iterations_go_on(folder: Path) -> None:
    metarl("compare", *METHODS, *FLAGS, "--iterations", 3, "--seeds", 0, 1)
    for name in NAMES:
        run = Run.open(folder / name)
        assert run.checkpoints()[-1] == 3
        assert {entry["iteration"] for entry in run.evaluations()} == {2, 3}


def test_another_question_in_the_same_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    flags = ("--env", "metarl/Bandit-v0", "--preset", "tiny", "--out", "c")
    assert "was started with another --env" in refusal(capsys, "compare", "maml-trpo", *flags)
    assert contents(folder) == before


def test_the_last_method_is_checked_before_the_first_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("maml-trpo", "promp --max-kl 1", "--out", tmp_path / "c")
    assert "--max-kl" in refusal(capsys, "compare", *words)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["", "maml", "render"])
def test_an_unknown_method_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="there is no method"):
        read_entry(text)


def test_flags_make_the_name() -> None:
    entry = read_entry("maml-trpo --first-order --inner-lr 0.1")
    assert entry.name == "maml-trpo-first-order-inner-lr-0.1"
    assert entry.flags == ["--first-order", "--inner-lr", "0.1"]


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="compare needs methods"):
        Compare(methods=(), out=Path("x"))
    with pytest.raises(ValueError, match="--seeds needs at least one"):
        Compare(methods=("promp",), out=Path("x"), seeds=())


def test_supervised_methods_compare_too(tmp_path: Path) -> None:
    sine = "regression --iterations 2 --num-tasks 2 --validation-tasks 2 --hidden 4"
    words = (f"{sine} --method fomaml", f"{sine} --method anil", "--seeds", 0)
    for _ in range(2):  # the second time it finds nothing to do
        metarl("compare", *words, "--evaluate=--num-tasks 3", "--out", tmp_path / "c")
    assert (tmp_path / "c" / "curves.png").exists()
    config = json.loads(next((tmp_path / "c").glob("*anil-0/config.json")).read_text())
    assert config["config"]["adapts"] == "head"


SMALL = "--num-tasks 2 --episodes-per-task 2 --hidden 4"


@pytest.mark.slow
def test_runs_side_by_side_are_the_same_runs(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_run_that_fails_beside_others_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"maml-trpo {SMALL} --env gone:gone/Gone-v0", "--iterations", 1, "--seeds", 0]
    told = refusal(capsys, "compare", *words, "--jobs", 2, "--out", "failed")
    assert "gone" in told
    assert ".log has the rest" in told
