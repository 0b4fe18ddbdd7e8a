"""Pictures of a run during training: schedule, contents, tracking and unchanged results."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.commands import cli
from metarl.commands import media as drawing
from metarl.commands.opened import opened
from metarl.experiments import OTHERS, experiments
from metarl.runs import checkpoint, media
from metarl.runs.config import RunConfig
from metarl.runs.folder import Run
from metarl.runs.trackers import SafeTracker, Tracker
from tests.support.commands import TRAIN, history, metarl


class Heard(Tracker):
    """A tracker that records the pictures it receives."""

    def __init__(self, *_: Any) -> None:
        self.shown: list[tuple[int, str, str]] = []

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        del iteration, metrics

    def show(self, iteration: int, name: str, path: Path) -> None:
        self.shown.append((iteration, name, path.read_text()))

    def close(self, *, failed: bool) -> None:
        del failed


def due(**settings: Any) -> list[int]:
    config = RunConfig(iterations=25, **settings)
    made = media.Media(Run(Path("run")), config, SafeTracker("none", Tracker))
    return [iteration for iteration in range(1, 26) if made.is_due(iteration)]


def test_pictures_are_due_at_the_first_checkpoint_after_every_interval() -> None:
    assert due(checkpoint_every=5) == []
    assert due(checkpoint_every=5, media_every=10) == [10, 20]
    assert due(checkpoint_every=5, media_every=7) == [10, 15, 25]
    assert due(checkpoint_every=5, media_every=1) == [5, 10, 15, 20, 25]
    assert due(checkpoint_every=10, media_every=23) == [25]
    assert due(checkpoint_every=1, media_every=26) == []


@pytest.mark.nightly
def test_pictures_do_not_change_results_and_are_sent_to_the_tracker(
    whole: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = [*TRAIN, "--iterations", 6, "--media-every", 4, "--track", "tensorboard"]
    metarl(*words, "--out", tmp_path / "run")
    assert history(tmp_path / "run") == history(whole)
    for iteration in (0, 2, 4, 6):
        same = [
            checkpoint.load(Run.open(folder).checkpoint_path(iteration))
            for folder in (whole, tmp_path / "run")
        ]
        for mine, other in zip(*(one.params for one in same), strict=True):
            assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    drawn = {path.stem: path.read_bytes() for path in (tmp_path / "run/media").iterdir()}
    assert set(drawn) == {"00000004-adaptation", "00000004-curves"}
    (evaluation,) = Run.open(tmp_path / "run").evaluations()
    assert evaluation["iteration"] == 4
    told = events.EventAccumulator(str(tmp_path / "run/tracking")).Reload()
    for name in ("adaptation", "curves"):
        (image,) = told.Images(f"media/{name}")
        assert image.step == 4
        assert image.encoded_image_string == drawn[f"00000004-{name}"]
    assert [scalar.step for scalar in told.Scalars("return/step_1")] == [1, 2, 3, 4, 5, 6]


def test_a_failed_picture_gives_one_warning_and_others_are_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(words: list[str], **options: Any) -> None:
        folder, iteration = Path(words[4]), int(words[5])
        assert (folder / f"checkpoints/{iteration:08d}.safetensors").exists()
        (folder / "media").mkdir(exist_ok=True)
        (folder / f"media/{iteration:08d}-curves.png").write_text("a curve")
        raise subprocess.CalledProcessError(1, words, "", "\nmetarl: error: no OpenGL\n")

    heard = Heard()
    monkeypatch.setattr(subprocess, "run", draw)
    monkeypatch.setattr(
        "metarl.runs.journal.tracker", lambda *_, **__: SafeTracker("heard", lambda: heard)
    )
    metarl(*TRAIN, "--iterations", 4, "--media-every", 2, "--out", tmp_path / "run")
    assert heard.shown == [(2, "media/curves", "a curve"), (4, "media/curves", "a curve")]
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "media_every" in line] == [
        "metarl: warning: media_every could not draw all figures (no OpenGL); the run continues"
    ]


@pytest.mark.parametrize("how", ["no program", "no end", "no python"])
def test_a_run_that_cannot_be_drawn_continues_without_pictures(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "no program":
        monkeypatch.setattr(media, "DRAWING", "metarl.there_is_none")
    if how == "no end":
        monkeypatch.setattr(media, "LIMIT", 0.01)
    if how == "no python":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    metarl(*TRAIN, "--iterations", 4, "--media-every", 2, "--out", tmp_path / "run")
    (told,) = capsys.readouterr().err.splitlines()
    reason = {"no program": "there_is_none", "no end": "timed out", "no python": "nowhere"}[how]
    assert reason in told
    assert "it is disabled and the run continues" in told
    assert [entry["iteration"] for entry in history(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize("experiment", experiments())
def test_drawing_commands_parse(experiment: str, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", experiment, {"device": "cpu"}) as run:
        written = drawing.commands(opened(run.folder), 30, "gif")
    verbs = [words[0] for words in written]
    plotted = experiment in OTHERS and experiment != "sb3"
    assert verbs == ["evaluate", "plot", *([] if plotted else ["render"])]
    for words in written:
        options, _ = cli.VERBS[words[0]].load(words[1:])
        parsed = cli.parse(options, words[1:], f"metarl {words[0]}")
        assert getattr(parsed, "out", tmp_path / "run/media/00000030").name.startswith("00000030")


def test_a_regression_shows_fits_and_a_failure_keeps_other_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    words = ["train", "regression", "--iterations", 20, "--checkpoint-every", 20, "--log-every", 10]
    metarl(*words, "--out", tmp_path / "run")
    assert drawing.main([tmp_path / "run", 20, "png"]) == 0
    (tmp_path / "run/evaluations").rename(tmp_path / "run/elsewhere")
    (tmp_path / "run/evaluations").write_text("in the way")
    picture = tmp_path / "run/media/00000020-curves.png"
    picture.unlink()
    capsys.readouterr()
    assert drawing.main([tmp_path / "run", 20, "png"]) == 1
    assert picture.stat().st_size > 10_000
    assert "evaluations" in capsys.readouterr().err


def test_stable_baselines3_runs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(media, "_draw", lambda *given: drawn.append(given) or "")
    words = ["train", "sb3", "--iterations", 3, "--eval-every", 64, "--num-envs", 2]
    size = ["--episodes", 2, "--hidden", 4, "--media-every", 2, "--media-format", "gif"]
    metarl(*words, *size, "--out", tmp_path / "run")
    assert drawn == [(tmp_path / "run", 2, "gif")]
