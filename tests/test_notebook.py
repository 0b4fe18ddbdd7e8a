"""The notebook of the documentation runs, cell by cell, and shows what its text says."""

import json
from pathlib import Path
from typing import Any

import pytest


NOTEBOOK = Path(__file__).parents[1] / "docs" / "sinusoid.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_maml_fits_what_joint_training_does_not(
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


def test_the_notebook_was_saved_with_its_pictures() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert all(output["output_type"] != "error" for output in shown)
