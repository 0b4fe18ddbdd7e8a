"""Platform differences: spawned processes, unusual paths, read-only installs and encodings."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metarl.commands import cli
from tests.support import nightly
from tests.support.commands import TRAIN, built_wheel, history, metarl
from tests.support.own_environment import playground


OWN = ["--env", "playground:playground/Pendulum-v0"]
ONE = ["--num-tasks", "1", "--episodes-per-task", "2"]


def commands_of_a_user(*lines: list[Any]) -> None:
    """Run command lines in a spawned process, whose own children are spawned too."""
    multiprocessing.set_start_method("spawn", force=True)
    for words in lines:
        cli.run([str(word) for word in words])


@pytest.mark.nightly
def test_training_evaluation_and_pictures_work_in_spawned_processes(tmp_path: Path) -> None:
    """Spawned processes, as on macOS and Windows, inherit no state."""
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    own, plane = tmp_path / "own", tmp_path / "plane"
    lines = [
        [*TRAIN, *OWN, *ONE, "--iterations", 1, "--vectorization", "async", "--out", own],
        [*TRAIN, "--iterations", 1, "--out", plane],
        ["evaluate", plane, *ONE],
        ["render", plane, "--episodes-per-task", 2, "--out", tmp_path / "paths.png"],
    ]
    context: Any = multiprocessing.get_context("spawn")
    with playground(tmp_path):
        process = context.Process(target=commands_of_a_user, args=lines)
        process.start()
        process.join()
        metarl(*TRAIN, *OWN, *ONE, "--iterations", 1, "--out", tmp_path / "here")
    assert process.exitcode == 0
    assert history(own) == history(tmp_path / "here")
    assert (tmp_path / "paths.png").stat().st_size > 10_000


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # it is drawn as a box
@pytest.mark.parametrize("name", ["Läufe – 実験 (1), it's 100% $HOME"])
def test_paths_can_contain_spaces_and_any_letter(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    run = tmp_path / name / name
    metarl(*TRAIN, "--iterations", 1, "--out", run)
    metarl("resume", run, "--iterations", 2)
    metarl("evaluate", run, *ONE)
    metarl("plot", run, "--out", tmp_path / name / f"{name}.png")
    metarl("render", run, "--episodes-per-task", 2, "--out", run / "media" / f"{name}.png")
    assert len(history(run)) == 2
    assert (tmp_path / name / f"{name}.png").exists()
    assert (run / "media" / f"{name}.png").exists()
    assert name in capsys.readouterr().out


def everything_in(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Return the files in folders with their modification times."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@pytest.mark.nightly
def test_the_wheel_works_from_read_only_folders(
    tmp_path: Path,
) -> None:
    """Installed read-only and used in a read-only folder, including MuJoCo's log."""
    wheel = built_wheel(tmp_path)
    site, here, out = (tmp_path / name for name in ("site", "here", "out"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*pip, str(site), str(wheel)], check=True)
    here.mkdir()
    for path in (here, site, *site.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = everything_in(site, here)
    robot = [*TRAIN, *ONE, "--env", "metarl/RllabHalfCheetahDir-v0", "--iterations", "1", "--out"]
    code = f"""
import pathlib, metarl, metarl.envs, metarl.experiments
assert pathlib.Path(metarl.__file__).parts[-3] == "site", metarl.__file__
assert pathlib.Path(metarl.envs.__file__).parts[-4] == "site", metarl.envs.__file__
assert pathlib.Path(metarl.experiments.__file__).parts[-4] == "site"
from metarl.commands import cli
cli.run({[*robot, str(out / "run")]})
cli.run({["evaluate", str(out / "run"), *ONE]})
cli.run({["plot", str(out / "run"), "--out", str(out / "curves.png")]})
"""
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (out / "curves.png").exists()
    assert everything_in(site, here) == before


@pytest.mark.parametrize("encoding", [nightly("ascii"), "cp1252"])
def test_limited_encodings_do_not_stop_commands(encoding: str, tmp_path: Path) -> None:
    """On Windows, redirected output has the encoding of the system."""
    words = [*TRAIN, "--iterations", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "metarl", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        encoding=encoding,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("iteration 1/1  return -")
