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
from metarl.util import warn


DRAWING = "metarl.commands.media"  # a program, and nothing to import here
LIMIT = 900.0  # seconds, after which it is stuck


class Media:
    """Has a run drawn every ``media_every`` iterations, and shows it to the tracker."""

    def __init__(self, run: Run, config: RunConfig, tracker: CarefulTracker) -> None:
        """Begin; if ``media_every`` is None, nothing is ever due."""
        self._run, self._config, self._tracker = run, config, tracker
        self._warned = self._disabled = False

    def is_due(self, iteration: int) -> bool:
        """Return whether a multiple of ``media_every`` follows the checkpoint before this one."""
        every, step = self._config.media_every, self._config.checkpoint_every
        if every is None or (iteration % step and iteration != self._config.iterations):
            return False
        return iteration // every > (iteration - 1) // step * step // every

    def update(self, iteration: int) -> None:
        """Draw the checkpoint that was written after this iteration, if that is due."""
        if self._disabled or not self.is_due(iteration) or not processes.writes():
            return
        problem = _draw(self._run.folder, iteration, self._config.media_format)
        made = sorted((self._run.folder / "media").glob(f"{iteration:08d}-*"))
        for path in made:
            self._tracker.show(iteration, f"media/{path.stem.partition('-')[2]}", path)
        self._disabled = not made
        if problem and not self._warned:
            self._warned = True
            lost = "not every picture" if made else "no picture, and is disabled"
            warn(f"media_every made {lost} ({problem}); the run continues")


def _draw(folder: Path, iteration: int, kind: str) -> str:
    """Draw a run in another process; return the last line of its error, if it failed."""
    words = [sys.executable, "-P", "-m", DRAWING, str(folder), str(iteration), kind]
    # It finds every module that this process finds, such as that of a custom environment.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:  # in a session of its own: Ctrl-C is for the training
        subprocess.run(
            words, env=env, check=True, capture_output=True, text=True, errors="replace",
            timeout=LIMIT, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return lines[-1].removeprefix("metarl: error: ")
    return ""
