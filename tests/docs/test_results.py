"""Published results: the page matches the files, and rows use the documented evaluations."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metarl.runs.folder import Run
from tests.support import ROOT
from tests.support.commands import script


PATH = ROOT / "docs/results.py"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return script(PATH)


def test_the_results_page_matches_the_files(results: ModuleType) -> None:
    results.main(["check"])


def evaluation(iteration: int, *, value: float, **changes: Any) -> dict[str, Any]:
    entry = {"iteration": iteration, "mean": [value] * 4, "inner_lr": 0.1, "num_tasks": 40}
    entry |= {"episodes_per_task": 40, "seed": 1, "command": "metarl evaluate RUN", **changes}
    return entry | {"interval95": [0.0] * len(entry["mean"])}


def test_a_row_uses_the_newest_evaluation_of_its_protocol(
    results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run.create(tmp_path / "run", "example", {"seed": 5}) as run:
        run.log(1, {"env/steps": 10.0, "time/update": 2.0})
        for name, entry in {
            "z": evaluation(1, value=1.0),
            "y": evaluation(1, value=2.0),  # newer
            "x": evaluation(1, value=3.0, num_tasks=2),
            "w": evaluation(1, value=4.0, mean=[4.0] * 6),
            "v": evaluation(0, value=5.0),
        }.items():
            run.write_evaluation(name, entry)
    row = results._row("A", str(run.folder), accepted=results.PROTOCOL)
    assert (row["method"], row["seeds"], row["mean"]) == ("A", [5], [2.0] * 4)
    assert "'num_tasks': 40" in capsys.readouterr().out
    row = results._row("A@0", str(run.folder), accepted=results.PROTOCOL)
    assert row["mean"] == [5.0] * 4
    with pytest.raises(ValueError, match="no evaluation at iteration 7 of the protocol"):
        results._row("A@7", str(run.folder), accepted=results.PROTOCOL)
