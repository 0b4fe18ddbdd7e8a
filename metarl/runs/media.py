"""Pictures and videos of a run while it trains, for ``--media-every``.

Another process makes them, from the checkpoint: whatever drawing needs or does, the numbers of the
training stay the same, and what breaks there does not break here.
"""

import os
import subprocess
import sys
from pathlib import Path

from metarl.core.speed import processes
from metarl.runs.config import RunConfig
from metarl.runs.folder import Run
from metarl.runs.trackers import CarefulTracker
from metarl.util.console import warn


DRAWING = "metarl.commands.media"  # a program, and nothing to import here
LIMIT = 900.0  # seconds, after which it is stuck


class Media:
    """Has a run drawn every ``media_every`` iterations, and shows it to the tracker."""

    def __init__(self, run: Run, config: RunConfig, tracker: CarefulTracker) -> None:
        """Begin; if ``media_every`` is None, nothing is ever due."""
        self._run, self._config, self._tracker = run, config, tracker
        self._warned = self._given_up = False

    def is_due(self, iteration: int) -> bool:
        """Say whether a multiple of ``media_every`` lies between the last checkpoint and this."""
        config = self._config
        at_checkpoint = iteration % config.checkpoint_every == 0 or iteration == config.iterations
        if config.media_every is None or not at_checkpoint:
            return False
        before = (iteration - 1) // config.checkpoint_every * config.checkpoint_every
        return iteration // config.media_every > before // config.media_every

    def update(self, iteration: int) -> None:
        """Draw the checkpoint that was written after this iteration, if that is due."""
        if not self.is_due(iteration) or self._given_up or not processes.writes():
            return
        reason = _draw(self._run.folder, iteration, self._config.media_format)
        made = sorted((self._run.folder / "media").glob(f"{iteration:08d}-*"))
        for path in made:
            name = path.stem.partition("-")[2]
            self._tracker.show(iteration, f"media/{name}", path)
        self._given_up = not made
        if reason and not self._warned:
            self._warned = True
            lost = "not every picture" if made else "no picture, and will not try again"
            warn(f"--media-every made {lost} ({reason}); the run goes on")


def _draw(folder: Path, iteration: int, kind: str) -> str:
    """Draw a run in another process; return what went wrong, or nothing."""
    words = [sys.executable, "-P", "-m", DRAWING, str(folder), str(iteration), kind]
    # It finds every module that is found here, such as that of one's own environment.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        done = subprocess.run(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            start_new_session=True,  # Ctrl-C is for the training
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    return lines[-1].removeprefix("metarl: error: ") if done.returncode else ""
