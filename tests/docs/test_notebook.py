"""The notebook of the documentation matches its text, and commands run in notebooks."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.commands import FEW, TRAIN


NOTEBOOK = ROOT / "docs" / "sinusoid.ipynb"


@pytest.mark.nightly
def test_the_notebook_runs_and_maml_fits_better_than_joint_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    namespace: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    matplotlib.pyplot.close("all")
    maml, joint = capsys.readouterr().out.splitlines()
    assert float(maml.split()[-1]) < 0.5 < 1 < float(joint.split()[-1])


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


def test_the_notebook_is_saved_with_its_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert all(output["output_type"] != "error" for output in shown)
