"""The notebooks of the documentation match their text, and commands run in notebooks."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from tests.docs.test_pages import parse, sentences
from tests.support import ROOT
from tests.support.commands import FEW, TRAIN


def sinusoids_are_fitted(printed: list[str], scope: dict[str, Any]) -> None:
    maml, joint = printed
    assert float(maml.split()[-1]) < 0.5 < 1 < float(joint.split()[-1])


def goals_are_found(printed: list[str], scope: dict[str, Any]) -> None:
    first, last = scope["rows"][0], scope["rows"][-1]
    assert last["return/step_1"] > last["return/step_0"] + 15
    assert last["return/step_1"] > first["return/step_1"] + 30
    means = [float(line.split()[-1]) for line in printed if line.startswith("return after step")]
    assert means[0] + 15 < means[1] < means[2]
    assert scope["update"]["trpo/kl"] <= 0.01


def new_classes_are_recognized(printed: list[str], scope: dict[str, Any]) -> None:
    maml, random = scope["trained"]["mean"], scope["before"]["mean"]
    assert maml[0] < 0.25 < random[3] < maml[3] < scope["prototypes"]["mean"][0]
    assert int(printed[-1].split()[0]) >= 9


class Book(NamedTuple):
    """A notebook: its number of figures, replacements that reduce its size, and a check."""

    figures: int
    small: dict[str, str]
    check: Callable[[list[str], dict[str, Any]], None]


BOOKS = {
    "sinusoid": Book(2, {"iterations=2000": "iterations=50", "(600": "(6"}, sinusoids_are_fitted),
    "navigation": Book(
        2,
        {
            "--num-tasks 10 --iterations 25": "--num-tasks 2 --episodes-per-task 2 --iterations 2",
            '"evaluate", "runs/navigation"': '"evaluate", "runs/navigation", "--num-tasks", "2"',
            "episodes=20)": "episodes=2)",
            "num_tasks=10": "num_tasks=2",
            "range(5)": "range(1)",
        },
        goals_are_found,
    ),
    "characters": Book(
        3,
        {
            "--iterations 200 --checkpoint-every 200": "--iterations 1",
            '"100"': '"2"',
        },
        new_classes_are_recognized,
    ),
}
every_book = pytest.mark.parametrize("name", BOOKS)


def cells_of(name: str) -> list[Any]:
    found: list[Any] = json.loads((ROOT / "docs" / f"{name}.ipynb").read_text())["cells"]
    return found


def executed(name: str, small: dict[str, str]) -> dict[str, Any]:
    """Run the code of a notebook from top to bottom; return its variables."""
    matplotlib = pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[vision]'")
    matplotlib.use("Agg")
    code = [f"{''.join(x['source'])}\n" for x in cells_of(name) if x["cell_type"] == "code"]
    for old, new in small.items():
        assert any(old in cell for cell in code), old
        code = [cell.replace(old, new) for cell in code]
    scope: dict[str, Any] = {}
    for cell in code:
        exec(cell, scope)
    matplotlib.pyplot.close("all")
    return scope


@every_book
def test_notebooks_run_with_small_sizes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executed(name, BOOKS[name].small)


@pytest.mark.nightly
@every_book
def test_notebooks_compute_what_their_text_describes(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = executed(name, {})
    BOOKS[name].check(capsys.readouterr().out.splitlines(), scope)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::ResourceWarning")
@pytest.mark.nightly
def test_commands_in_a_notebook_print_progress_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install 'metarl-torch[test]'")
    nbformat = importlib.import_module("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    train = [*TRAIN, "--iterations", "40", "--out", "run"]
    cells = [
        f"from metarl.commands import cli\ncli.run({train})",
        f'cli.run(["evaluate", "run", *{FEW}])',
        'cli.run(["plot", "run", "--nothing"])',
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    client = nbclient.NotebookClient(
        book, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    trained, evaluated, refused = (cell.outputs for cell in book.cells)
    lines = "".join(output.text for output in trained).splitlines()
    assert re.fullmatch(r"iteration 40/40  return .* KL \S+  0 s left", lines[-1])
    assert len(lines) == 20
    shown = "".join(str(output.get("data") or output.text) for output in evaluated)
    assert "adaptation steps" in shown
    assert refused[-1].ename == "UsageError"


@every_book
def test_notebooks_are_saved_with_their_figures(name: str) -> None:
    path = ROOT / "docs" / f"{name}.ipynb"
    assert path.stat().st_size < 300_000
    shown = [output for cell in cells_of(name) for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == BOOKS[name].figures
    assert all(output["output_type"] != "error" for output in shown)


@every_book
def test_the_text_of_notebooks_is_short_and_its_commands_parse(name: str) -> None:
    text = "\n\n".join("".join(x["source"]) for x in cells_of(name) if x["cell_type"] == "markdown")
    assert median(map(len, sentences(text))) <= 18
    for command in re.findall(r"`(metarl [^`]+)`", text):
        parse(command)


def test_all_notebooks_are_tested() -> None:
    assert {path.stem for path in (ROOT / "docs").glob("*.ipynb")} == {*BOOKS}
