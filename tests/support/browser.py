"""A headless Chromium, driven over its debugging pipe (the Chrome DevTools Protocol)."""

import base64
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Browser:
    """One tab without access to the network.

    Args:
        program: Path of Chromium.
        profile: Empty folder for the browser's own files.
    """

    def __init__(self, program: str, profile: Path) -> None:
        theirs, commands = os.pipe()
        replies, answers = os.pipe()
        arguments = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ]  # fmt: skip
        redirected = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", *arguments]
        self._process = subprocess.Popen(
            redirected, pass_fds=(theirs, answers), stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(answers)
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._replies = os.fdopen(replies, "rb")
        self._number = 0
        self._session: dict[str, str] = {}
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self._send("Page.enable")

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._send("Page.navigate", url=url)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def resize(self, width: int, height: int = 900) -> None:
        """Change the size of the window, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._send("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, which may use the clipboard."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        done = self._send("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows to a PNG file."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot")["data"]))

    def _send(self, method: str, **options: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": options, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while (reply := self._receive()).get("id") != self._number:
            pass
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            assert byte, f"Chromium has exited with status {self._process.wait()}"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._commands.close()
        self._replies.close()
