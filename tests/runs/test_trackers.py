"""Trackers: run ids, offline use and missing packages."""

import os
import socketserver
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarl.runs.folder import Run
from metarl.runs.trackers import SafeTracker, tracker
from tests.support.commands import TRAIN, history, refusal


def test_a_resumed_run_keeps_its_unique_wandb_id(
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


def test_a_missing_tracker_gives_a_one_line_error_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = refusal(capsys, *TRAIN, "--track", "wandb", "--out", tmp_path / "run")
    assert "pip install 'metarl-torch[wandb]'" in message
    assert not (tmp_path / "run").exists()


class Server(socketserver.ThreadingTCPServer):
    """A server that counts requests."""

    asked = 0
    daemon_threads = True

    def process_request(self, request: Any, client: Any) -> None:
        self.asked += 1
        super().process_request(request, client)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.nightly
def test_wandb_works_offline_and_resumes_with_the_same_id(tmp_path: Path, server: Server) -> None:
    """In a separate process with two consecutive runs."""
    pytest.importorskip("wandb", reason="pip install 'metarl-torch[wandb]'")
    words = [*TRAIN, "--iterations", "2", "--track", "wandb", "--out", "run"]
    code = f"""
from metarl.commands import cli
cli.run({words})
cli.run(["resume", "run", "--iterations", "4"])
"""
    here = f"http://127.0.0.1:{server.server_address[1]}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), here)
    kept = {name: value for name, value in os.environ.items() if "no_proxy" not in name.lower()}
    env = kept | proxies | {"WANDB_MODE": "offline", "WANDB_BASE_URL": here}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "track=wandb failed" not in done.stderr
    assert server.asked == 0
    tracking = tmp_path / "run/tracking"
    name = (tracking / "wandb-id").read_text()
    written = sorted(tracking.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert len(written) == len(list(tracking.glob("wandb/offline-run-*"))) == 2
    assert all(b"return/step_1" in path.read_bytes() for path in written)
    assert [entry["iteration"] for entry in history(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_tracker_is_closed_with_the_outcome_of_the_run(tmp_path: Path) -> None:
    class Closing:
        def __init__(self) -> None:
            self.told: list[bool] = []

        def close(self, *, failed: bool) -> None:
            self.told.append(failed)

    closing: Any = Closing()
    with SafeTracker("closing", lambda: closing):
        assert closing.told == []
    with pytest.raises(FloatingPointError), SafeTracker("closing", lambda: closing):
        raise FloatingPointError
    assert closing.told == [False, True]
