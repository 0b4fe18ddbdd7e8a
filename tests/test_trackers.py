"""Trackers: whose run it is that a service is told of, and what happens without its package."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from commands import TRAIN, refusal

from metarl.trackers import tracker
from metarl.tracking import Run


def test_a_resumed_run_keeps_its_wandb_id_and_no_other_run_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    fake = types.ModuleType("wandb")
    monkeypatch.setattr(fake, "init", lambda **given: calls.append(given), raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for parent in ("a", "b"):
        with Run.create(tmp_path / parent / "same-name", "example", {}) as run:
            tracker("wandb", run, start=0)
            tracker("wandb", run, start=3)
    first, resumed, other, _ = (call["id"] for call in calls)
    assert first == resumed != other
    assert {call["name"] for call in calls} == {"same-name"}


def test_a_missing_tracker_is_one_line_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = refusal(capsys, *TRAIN, "--track", "wandb", "--out", tmp_path / "run")
    assert "pip install 'metarl-torch[wandb]'" in message
    assert not (tmp_path / "run").exists()
