"""Figures: readable ticks, one legend inside of the figure, styles and CSV files."""

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.drawing import Panel, figure, paths_figure, paths_video, performance_profiles
from metarl.runs import Run
from tests.support.commands import metarl, refusal


pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of all figures that are written."""
    from matplotlib.figure import Figure

    found: list[Any] = []
    original = Figure.savefig

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        self.canvas.draw()
        found.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


def ticks(axis: Any) -> list[Any]:
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]


def legends(drawn: Any) -> list[Any]:
    found = [*drawn.legends, *(axes.get_legend() for axes in drawn.axes)]
    return [each for each in found if each is not None]


def require_readable(drawn: Any) -> None:
    """Assert that no tick labels overlap and that the only legend is inside of the figure."""
    for axes in drawn.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [text.get_window_extent() for text in ticks(axis)]
            assert len(boxes) > 1
            assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    (legend,) = legends(drawn)
    box, whole = legend.get_window_extent(), drawn.bbox
    assert 0 <= box.x0 <= box.x1 <= whole.x1
    assert 0 <= box.y0 <= box.y1 <= whole.y1
    assert not any(box.overlaps(axes.get_window_extent()) for axes in drawn.axes)


def long_run(whole: Path, folder: Path, *, metric: str = "return", seed: int = 0) -> Run:
    """Copy a run, with 50 iterations of 20,000 environment steps and another seed."""
    shutil.copytree(whole, folder)
    about = json.loads((folder / "config.json").read_text())
    about["config"]["inner_lr"] = 0.1 + seed
    (folder / "config.json").write_text(json.dumps(about))
    lines = [
        {"iteration": n, "env/steps": 20_000, **{f"{metric}/step_{k}": n * k / 99 for k in (0, 1)}}
        | {f"return/step_{k}": -n * k / 99 for k in (0, 1)}
        for n in range(1, 51)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Run.open(folder)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_ticks_do_not_collide_and_the_only_legend_is_inside(
    count: int, whole: Path, tmp_path: Path, saved: list[Any]
) -> None:
    name = "maml-trpo-inner-meta-sgd-inner-loss-dice-num-tasks-40-episodes-per-task-20-seed"
    runs = [long_run(whole, tmp_path / f"{name}-{n}", seed=n) for n in range(count)]
    figure(runs, tmp_path / "curves.png")
    require_readable(saved[0])
    assert "1M" in [text.get_text() for text in ticks(saved[0].axes[0].xaxis)]


def test_success_rates_are_in_percent(whole: Path, tmp_path: Path, saved: list[Any]) -> None:
    figure([long_run(whole, tmp_path / "run", metric="success")], tmp_path / "a.pdf",
           metric="success")  # fmt: skip
    assert all(text.get_text().endswith("%") for text in ticks(saved[0].axes[0].yaxis))
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_plot_takes_labels_a_size_a_style_and_a_table(
    whole: Path, tmp_path: Path, saved: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [long_run(whole, tmp_path / name, seed=n).folder for n, name in enumerate("ab")]
    look = ("--size", 5.5, 2.4, "--style", "paper", "--csv", tmp_path / "points.csv")
    metarl("plot", *runs, "--labels", "MAML", "ProMP", *look, "--out", tmp_path / "a.pdf")
    (drawn,) = saved
    assert tuple(drawn.get_size_inches()) == (5.5, 2.4)
    (legend,) = legends(drawn)
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["MAML", "ProMP", "before adaptation"]
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    points = [r for r in rows if (r["curve"], r["adapted"]) == ("ProMP", "1")]
    assert [float(row["x"]) for row in points][:2] == [20_000, 40_000]
    assert float(points[1]["mean"]) == pytest.approx(-2 / 99)
    line = refusal(capsys, "plot", *runs, "--labels", "one", "--out", tmp_path / "a.png")
    assert "--labels must contain one distinct name per curve: expected 2 for a, b, got one" in line


def test_paths_have_one_legend_and_scales(tmp_path: Path, saved: list[Any]) -> None:
    line = np.linspace(0, 0.5, 20).reshape(20, 1, 1) * np.ones((1, 3, 2))
    panel = Panel("maml-trpo, goal (0.3, -0.4)", (0.3, -0.4), [0.1 * line, line], [-20.0, -1.0])
    paths_figure([[panel] * 3] * 2, tmp_path / "paths.png")
    (drawn,) = saved
    (legend,) = legends(drawn)
    texts = [text.get_text() for text in legend.get_texts()]
    assert sorted(texts) == ["after 1 step", "before adaptation", "goal", "start"]
    assert len(ticks(drawn.axes[0].yaxis)) > 1
    assert drawn.axes[0].get_title() == "maml-trpo, goal (0.3, −0.4)\nreturn −20.0 → −1.0"
    across, up = ([text.get_text() for text in ticks(axis)] for axis in
                  (drawn.axes[-1].xaxis, drawn.axes[0].yaxis))  # fmt: skip
    assert across == up


def test_paths_of_different_numbers_of_episodes_are_drawn_side_by_side(
    tmp_path: Path, saved: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = np.linspace(0, 0.5, 20).reshape(20, 1, 1) * np.ones((1, 3, 2))
    steps = Panel("maml", (0.3, -0.4), [0 * line, 0.5 * line, line], [-3.0, -2.0, -1.0])
    trial = Panel("rl2", (0.3, -0.4), [0 * line, line], [-3.0, -1.0], ["episode 1", "episode 4"])
    paths_figure([[steps], [trial]], tmp_path / "paths.png")
    (legend,) = legends(saved[0])
    texts = {text.get_text() for text in legend.get_texts()}
    assert {"before adaptation", "after 2 steps", "episode 1", "episode 4"} < texts
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, text, **k: titles.append(text))
    monkeypatch.setattr("metarl.drawing.paths.write_video", lambda frames, out, fps: next(frames))
    paths_video([steps, trial], tmp_path / "paths.gif")
    found = [title.splitlines()[1] for title in titles]
    assert found[:3] == ["before: return −3.0", "after 1 step: return −2.0",
                         "after 2 steps: return −1.0"]  # fmt: skip
    assert found[3:] == ["episode 1: return −3.0", "episode 4: return −1.0"]


def test_profiles_have_one_legend_below(tmp_path: Path, saved: list[Any]) -> None:
    results = {f"method {'x' * 60} {n}": np.random.default_rng(n).random((3, 9)) for n in range(4)}
    performance_profiles(results, tmp_path / "profiles.png", label="success", percent=True)
    require_readable(saved[0])
    assert all(text.get_text().endswith("%") for text in ticks(saved[0].axes[0].xaxis))
