"""An inner optimizer registered by a user in ten lines is a value of --inner everywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.core import InnerOptimizer, Params
from metarl.core.optimizers import (
    INNER_OPTIMIZERS,
    LEARNED_CONSTANTS,
    LEARNED_RATES,
    inner_optimizer,
    register_inner_optimizer,
)
from tests.support.commands import FEW, TINY, metarl, refusal


def sign_sgd(lr: float, **_: Any) -> InnerOptimizer:
    def constants(params: Params) -> Params:
        return {"lr": next(iter(params.values())).new_tensor(lr)}

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        return {n: -constants["lr"] * torch.tanh(1e3 * g) for n, g in grads.items()}, state

    return InnerOptimizer(constants, lambda params: (), update)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register_inner_optimizer("sign-sgd", sign_sgd, learned=True)
    yield
    del INNER_OPTIMIZERS["sign-sgd"]
    LEARNED_RATES.discard("sign-sgd")
    LEARNED_CONSTANTS.discard("sign-sgd")


def test_registered_inner_optimizer_trains_and_evaluates_a_policy(tmp_path: Path) -> None:
    flags = ("--inner", "sign-sgd", "--inner-lr", 0.01, "--iterations", 1)
    metarl("train", "maml-trpo", *TINY, *flags, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["inner"] == "sign-sgd"
    metarl("evaluate", tmp_path / "run", *FEW)


def test_registered_inner_optimizer_trains_and_evaluates_a_regressor(tmp_path: Path) -> None:
    flags = ("--inner", "sign-sgd", "--inner-lr", 0.01, "--iterations", 2)
    metarl("train", "regression", *flags, "--validation-tasks", 2, "--out", tmp_path / "run")
    metarl("evaluate", tmp_path / "run", "--num-tasks", 3)


def test_registered_inner_optimizer_is_listed_compared_and_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("methods")
    assert "sign-sgd" in capsys.readouterr().out
    flags = ("--seeds", 0, "--iterations", 1, f"--evaluate={' '.join(FEW)}")
    method = f"maml-trpo {' '.join(TINY)} --inner sign-sgd --inner-lr 0.01"
    metarl("compare", method, *flags, "--out", tmp_path / "compared")
    (run,) = (path.parent for path in (tmp_path / "compared").glob("*/config.json"))
    assert "sign-sgd" in (tmp_path / "compared/table.md").read_text()
    (run / "media").mkdir()
    (run / "media/paths.png").write_bytes(b"a picture, so that none has to be drawn")
    metarl("push", run, tmp_path / "pushed")
    assert "sign-sgd" in (tmp_path / "pushed/README.md").read_text()


@pytest.mark.parametrize("experiment", ["vpg-maml", "regression"])
def test_an_unknown_name_is_rejected_with_the_known_names(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "train", experiment, "--inner", "newton", "--out", tmp_path / "run")
    assert "--inner must be one of sgd, adam, lslr" in line
    assert "sign-sgd, got newton" in line


def test_names_are_checked_in_python() -> None:
    with pytest.raises(ValueError, match=r"inner must be one of sgd, .*, got newton"):
        inner_optimizer("newton", 0.1, 1)
    with pytest.raises(ValueError, match="inner optimizer 'sign-sgd' is already registered"):
        register_inner_optimizer("sign-sgd", sign_sgd)
