"""`metarl headstart`: environment steps that adaptation saves over training from scratch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.commands.headstart import Learning
from tests.support.commands import history, metarl, refusal


pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")

GOALS = ('{"goal": [0.3, -0.4]}', '{"goal": [-0.5, 0.5]}')
SCRATCH = ["train", "sb3", "--hidden", 8, "--num-envs", 5, "--eval-every", 1000, "--episodes", 4]
TINY = ["--episodes", 2, "--inner-steps", 2, "--repeats", 3]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds on one task, and one seed on a second task."""
    folders = [tmp_path_factory.mktemp("scratch") / name for name in "abc"]
    for folder, goal, seed in zip(folders, (GOALS[0], GOALS[0], GOALS[1]), (0, 1, 0), strict=True):
        metarl(*SCRATCH, "--iterations", 2, "--task", goal, "--seed", seed, "--out", folder)
    return folders


@pytest.mark.parametrize(("level", "steps"), [(-9.0, 100), (-5.0, 300), (-4.0, None)])
def test_a_level_is_reached_at_the_first_return_above_it(level: float, steps: float | None) -> None:
    run = Learning(np.array([100.0, 200.0, 300.0, 400.0]), np.array([-8.0, -9.0, -5.0, -6.0]))
    assert run.reaches(level) == steps


def test_table_and_figure_match_the_runs(
    whole: Path,
    scratch: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("metarl.commands.headstart.shared_legend", drawn.append)
    out = tmp_path / "made" / "headstart.png"
    metarl("headstart", whole, "--scratch", *scratch, *TINY, "--out", out)
    assert [axes.get_title() for axes in drawn[0].axes] == ["goal (0.3, −0.4)", "goal (−0.5, 0.5)"]
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert labels.count("before adaptation, 0 steps") == labels.count("adapted") == 1
    assert out.read_bytes().startswith(b"\x89PNG")
    first, second = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert (json.loads(first["task"]), json.loads(second["task"])) == tuple(map(json.loads, GOALS))
    for row, folders in ((first, scratch[:2]), (second, scratch[2:])):
        assert row["adaptation_steps"] == 2 * 100
        assert len(row["returns"]) == 3
        returns = [[entry["return/step_0"] for entry in history(folder)] for folder in folders]
        assert row["scratch_best"] == [max(each) for each in returns]
        reached = sorted(
            1000.0 * next(i for i, r in enumerate(each) if r >= row["returns"][1])
            for each in returns
            if max(each) >= row["returns"][1]
        )
        assert [number for number in row["scratch_steps"] if number is not None] == reached
        assert len(row["scratch_steps"]) == len(folders)
    assert "goal (0.3, -0.4)" in capsys.readouterr().out


def test_incomparable_runs_give_one_line_errors(
    whole: Path, scratch: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "x.png")
    swapped = refusal(capsys, "headstart", scratch[0], "--scratch", whole, *out)
    assert "trained by Stable-Baselines3 do not adapt" in swapped
    assert "is not a run on one task of metarl/Navigation2D-v0" in refusal(
        capsys, "headstart", whole, "--scratch", whole, *out
    )
    assert "--scratch" in refusal(capsys, "headstart", whole, *out)
    assert "--out must end in" in refusal(
        capsys, "headstart", whole, "--scratch", *scratch, "--out", tmp_path / "x.txt"
    )
    assert not (tmp_path / "x.png").exists()
