"""Trained regression networks adapt to points and predict values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

import metarl
from metarl.experiments import experiment_of, experiments
from metarl.models import read_adapted
from metarl.runs import Run
from metarl.runs.config import from_json
from metarl.supervised.methods import METHODS


Trained = Callable[..., Path]
X = np.linspace(-3, 3, 10)
METHODS_OF_REGRESSION = sorted(
    {*METHODS} - {"leopard", "oracle", "protonet", "protomaml", "zero-head"}
)


@pytest.mark.parametrize("method", METHODS_OF_REGRESSION)
def test_adaptation_lowers_the_error_on_the_support_points(method: str, trained: Trained) -> None:
    model = metarl.load(trained("regression", method))
    few, many = (model.adapt(X, 2 * np.sin(X), steps=n) for n in (1, 10))
    errors = [np.mean((m.predict(X) - 2 * np.sin(X)) ** 2) for m in (few, many)]
    assert errors[1] < errors[0]


def test_maml_equals_a_plain_loop(trained: Trained) -> None:
    run = Run.open(trained("regression", "maml"))
    experiment: Any = experiment_of(run)
    module = experiment.parts.model.apply.module
    module.load_state_dict(experiment.read(run, 1).model)
    module.requires_grad_(True)
    x, y = torch.tensor(X).float()[:, None], torch.tensor(np.sin(X)).float()[:, None]
    for _ in range(4):
        module.zero_grad()
        mse_loss(module(x), y).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.01 * parameter.grad
    adapted = metarl.load(run.folder).adapt(X, np.sin(X), steps=4)
    np.testing.assert_allclose(adapted.predict(X), module(x)[:, 0].detach().numpy(), atol=1e-6)


def test_a_saved_network_predicts_the_same(trained: Trained, tmp_path: Path) -> None:
    adapted = metarl.load(trained("regression", "maml")).adapt(X[:, None], np.sin(X)[:, None])
    adapted.save(tmp_path / "sine.safetensors")
    saved = read_adapted(tmp_path / "sine.safetensors")
    kind, settings = experiments()[saved.experiment].load()
    again = kind(from_json(settings, saved.config, tmp_path)).adapted(saved)
    assert np.array_equal(again.predict(X), adapted.predict(X))


def test_a_network_that_observes_the_task_does_not_adapt(trained: Trained) -> None:
    with pytest.raises(ValueError, match="method=oracle observes the amplitude and the phase"):
        metarl.load(trained("regression", "oracle"))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0], [1.0, 2.0], "`x` and `y` must have equal lengths, got 1 and 2"),
        ([[1.0, 2.0]], [1.0], r"`x` must have shape \(n,\) or \(n, 1\) with n > 0, got \(1, 2\)"),
        ([], [], r"got \(0,\)"),
        ([np.nan], [1.0], "`x` must be finite"),
        (["a"], [1.0], "`x` must be an array of numbers"),
        ([1.0], None, "`y` must"),
    ],
)
def test_invalid_points_are_one_line_errors(x: Any, y: Any, message: str, trained: Trained) -> None:
    with pytest.raises(ValueError, match=message):
        metarl.load(trained("regression", "maml")).adapt(x, y)


def test_points_are_read_from_a_csv_file(trained: Trained, tmp_path: Path) -> None:
    model, file = metarl.load(trained("regression", "maml")), tmp_path / "points.csv"
    file.write_text("x,y\n0,0\n1,0.84\n2,0.91\n")
    expected = model.adapt([0, 1, 2], [0, 0.84, 0.91]).predict([0.5])
    (row,) = model.adapt(file).table(_write(tmp_path / "new.csv", "x\n0.5\n")).rows
    assert row == [0.5, f"{expected[0]:.6g}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "must contain the column x once, got the columns a, b"),
        ("x,x,y\n1,2,3\n", "the column x once, got the columns x, x, y"),
        ("x,y\n1,2\n1,high\n", "line 3 must contain numbers, got 'high'"),
        ("x,y\n1\n", "line 2 must contain 2 values, got 1"),
        ("x,y\n1,2,3\n", "line 2 must contain 2 values, got 3"),
        ('x,y\n1,"2\n', "must be valid CSV"),
        ("x,y\n", "a header and at least one row"),
    ],
)
def test_invalid_csv_files_are_one_line_errors(
    text: str, message: str, trained: Trained, tmp_path: Path
) -> None:
    file = _write(tmp_path / "points.csv", text)
    with pytest.raises(ValueError, match=rf"points\.csv.*{message}"):
        metarl.load(trained("regression", "maml")).adapt(file)
    with pytest.raises(IsADirectoryError, match=r"must be a \.csv file for a regression run"):
        metarl.load(trained("regression", "maml")).adapt(tmp_path)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
