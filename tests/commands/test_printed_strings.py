"""Strings of other people's runs are printed without control characters, by every command."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarl.commands import cli
from metarl.runs import checkpoint
from tests.support.commands import FEW, TINY, metarl


HOSTILE = (
    "a\x1b[2J\x1b]8;;https://evil.example\x1b\\b\x1b]8;;\x1b\\\x1b]0;title\x07\x9b31m\x9d0;c\x9c"
    "\u202ed\u2066e\u200f\r\x08\x7f\u2028\nmetarl: verified"
)


def config(**changed: Any) -> Callable[[Path], None]:
    """Return a function that changes entries of config.json; settings are changed everywhere."""

    def change(run: Path) -> None:
        about = json.loads((run / "config.json").read_text())
        settings = {name: value for name, value in changed.items() if name in about["config"]}
        about["config"] |= settings
        entries = {name: value for name, value in changed.items() if name not in settings}
        (run / "config.json").write_text(json.dumps(about | entries))
        for path in (run / "checkpoints").iterdir():
            saved = checkpoint.load(path)
            checkpoint.write(path, saved._replace(config=saved.config | settings))

    return change


def evaluation(**changed: Any) -> Callable[[Path], None]:
    """Return a function that changes entries of the evaluation."""

    def change(run: Path) -> None:
        (path,) = (run / "evaluations").iterdir()
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def metrics(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line | {HOSTILE: 1.0, f"{HOSTILE}/step_0": 1.0} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluation_name(run: Path) -> None:
    (path,) = (run / "evaluations").iterdir()
    path.rename(path.with_name(HOSTILE.replace("/", "") + ".json"))


def damaged_evaluation(run: Path) -> None:
    evaluation_name(run)
    evaluation(mean=3)(run)


def media_name(run: Path) -> None:
    (run / "media" / (HOSTILE.replace("/", "") + ".png")).write_bytes(b"")


STEPS = [[0.0] * 2] * 5
STRINGS: dict[str, Callable[[Path], None]] = {
    "environment": config(env=f"metarl/{HOSTILE}-v0"),
    "module": config(env=f"{HOSTILE}:metarl/Navigation2D-v0"),
    "observed infos": config(info=[HOSTILE]),
    "network": config(network=HOSTILE),
    "method": config(method=HOSTILE),
    "experiment": config(experiment=HOSTILE),
    "setting": config(config={HOSTILE: HOSTILE}),
    "command": config(command=HOSTILE),
    "versions": config(versions={HOSTILE: HOSTILE}),
    "origin": config(pulled_from=HOSTILE),
    "changes": config(changed_by=[HOSTILE]),
    "entry": config(**{HOSTILE: HOSTILE}),
    "tasks": evaluation(tasks=[{HOSTILE: HOSTILE}] * 2),
    "infos": evaluation(infos={HOSTILE: STEPS}),
    "classes": evaluation(accuracies={HOSTILE: {HOSTILE: STEPS}}, classes=[HOSTILE]),
    "measure": evaluation(measure=HOSTILE),
    "measures": evaluation(measures={HOSTILE: {"mean": [1.0], "interval95": [1.0]}}),
    "incomplete measures": evaluation(measures={HOSTILE: {"mean": [1.0]}}),
    "evaluation command": evaluation(command=HOSTILE),
    "data": evaluation(data=HOSTILE, start=HOSTILE),
    "evaluation": evaluation_name,
    "damaged evaluation": damaged_evaluation,
    "metrics": metrics,
    "media": media_name,
}
COMMANDS: dict[str, list[Any]] = {
    "evaluate": ["evaluate", "maml-trpo-0", *FEW],
    "evaluate without --trust-env": ["evaluate", "pulled", *FEW],
    "plot": ["plot", "maml-trpo-0", "--out", "plot.svg", "--csv", "plot.csv"],
    "plot a metric": ["plot", "maml-trpo-0", "--out", "plot.png", "--metric", "unknown"],
    "render": ["render", "maml-trpo-0", "--out", "render.png"],
    "push": ["push", "maml-trpo-0", "pushed"],
    "pull": ["pull", "maml-trpo-0", "--out", "pulled"],
    "resume": ["resume", "maml-trpo-0", "--iterations", 7],
    "compare": [
        "compare", f"maml-trpo {' '.join(TINY)}", "--seeds", 0, "--iterations", 6, "--out", ".",
    ],
    "methods": ["methods", HOSTILE],
}  # fmt: skip


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluated run in the current folder, where `compare` also finds it."""
    monkeypatch.chdir(tmp_path)
    name = "maml-trpo-" + "-".join(word.strip("-") for word in TINY) + "-0"
    shutil.copytree(whole, name, ignore=shutil.ignore_patterns("evaluations", "media"))
    Path("maml-trpo-0").symlink_to(name)
    metarl("evaluate", name, *FEW)
    Path(name, "media").mkdir()
    return tmp_path / name


@pytest.mark.nightly
@pytest.mark.parametrize("string", STRINGS)
def test_strings_of_a_run_are_printed_without_control_characters(
    string: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    STRINGS[string](run)
    for name, words in COMMANDS.items():
        capsys.readouterr()
        with warnings.catch_warnings(record=True) as warned, pytest.raises(SystemExit):
            cli.main([str(word) for word in words])
        printed = "".join(capsys.readouterr()) + "\n".join(str(each.message) for each in warned)
        assert all(x.isprintable() or x == "\n" for x in printed), (name, printed)
        assert "\nmetarl: verified" not in printed
