"""Published results: the pages match the files, and rows use the documented evaluations."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metarl.runs.folder import Run
from tests.support import ROOT
from tests.support.commands import script


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return script(ROOT / "docs/results.py")


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    return script(ROOT / "docs/collect.py")


def test_the_result_pages_match_the_files(results: ModuleType) -> None:
    results.main(["check"])


def test_results_without_a_page_are_detected(results: ModuleType) -> None:
    assert results.topic_of("omniglot-5-way-1-shot") == "images"
    with pytest.raises(ValueError, match=r"docs/results/unknown.json belongs to no page"):
        results.topic_of("unknown")


def evaluation(iteration: int, *, value: float, **changes: Any) -> dict[str, Any]:
    entry = {"iteration": iteration, "mean": [value] * 4, "inner_lr": 0.1, "num_tasks": 40}
    entry |= {"episodes_per_task": 40, "seed": 1, "command": "metarl evaluate RUN", **changes}
    return entry | {"interval95": [0.0] * len(entry["mean"])}


def test_a_row_uses_the_newest_evaluation_of_its_protocol(
    collect: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    row = collect._row("A", str(run.folder), accepted=collect.PROTOCOL)
    assert (row["method"], row["seeds"], row["mean"]) == ("A", [5], [2.0] * 4)
    assert "'num_tasks': 40" in capsys.readouterr().out
    row = collect._row("A@0", str(run.folder), accepted=collect.PROTOCOL)
    assert row["mean"] == [5.0] * 4
    assert "iqm" not in row  # the evaluation contains no results of single tasks
    with pytest.raises(ValueError, match="no evaluation at iteration 7 of the protocol"):
        collect._row("A@7", str(run.folder), accepted=collect.PROTOCOL)


def test_rows_contain_the_interquartile_mean_over_tasks_and_seeds(
    results: ModuleType, collect: ModuleType, tmp_path: Path
) -> None:
    folders = []
    for seed in (0, 1):
        returns = [[task + 10.0 * seed + step for step in range(4)] for task in range(4)]
        with Run.create(tmp_path / str(seed), "example", {"seed": seed}) as run:
            run.log(1, {"env/steps": 10.0, "time/update": 2.0})
            run.write_evaluation("a", evaluation(1, value=1.0, returns=returns))
        folders.append(str(run.folder))
    row = collect._row("A", ",".join(folders), accepted=collect.PROTOCOL)
    assert row["iqm"] == [6.5, 7.5, 8.5, 9.5]
    assert len(row["iqm_interval95"]) == 4
    table = results._by_step({"rows": [row], "published": {}})
    assert table[0].endswith("| seeds | IQM after adaptation, 95 % bootstrap |")
    assert "| 2 | 9.50 [" in table[2]
