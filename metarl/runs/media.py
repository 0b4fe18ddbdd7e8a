"""Figures and videos that are drawn during training.

A subprocess draws the figures from a checkpoint, so that drawing can neither
change the training results nor stop the training with an error.
"""

import os
import subprocess
import sys
from pathlib import Path

from metarl.core.speed import processes
from metarl.runs.config import RunConfig
from metarl.runs.folder import Run
from metarl.runs.trackers import SafeTracker
from metarl.util import warn


DRAWING = "metarl.commands.media"  # run with python -m; runs must not import commands
LIMIT = 900.0  # timeout of the drawing process, in seconds


class Media:
    """A manager that draws figures every ``media_every`` iterations and sends them to a tracker.

    Args:
        run: The run folder.
        config: Configuration of the run; if ``media_every`` is None, nothing is drawn.
        tracker: Experiment tracker that receives the figures.
    """

    def __init__(self, run: Run, config: RunConfig, tracker: SafeTracker) -> None:
        """Create the manager; the class documentation describes the arguments."""
        self._run, self._config, self._tracker = run, config, tracker
        self._warned = self._disabled = False

    def is_due(self, iteration: int) -> bool:
        """Return whether figures must be drawn after this iteration.

        This is the case if the iteration has a checkpoint, and a multiple of
        ``media_every`` was reached since the previous checkpoint.
        """
        every, step = self._config.media_every, self._config.checkpoint_every
        if every is None or (iteration % step and iteration != self._config.iterations):
            return False
        return iteration // every > (iteration - 1) // step * step // every

    def update(self, iteration: int) -> None:
        """Draw figures of this iteration's checkpoint if :meth:`is_due` returns True."""
        if self._disabled or not self.is_due(iteration) or not processes.writes():
            return
        problem = _draw(self._run.folder, iteration, self._config.media_format)
        files = sorted((self._run.folder / "media").glob(f"{iteration:08d}-*"))
        for path in files:
            self._tracker.show(iteration, f"media/{path.stem.partition('-')[2]}", path)
        self._disabled = not files
        if problem and not self._warned:
            self._warned = True
            effect = "the run continues" if files else "it is disabled and the run continues"
            warn(f"media_every could not draw all figures ({problem}); {effect}")


def _draw(folder: Path, iteration: int, kind: str) -> str:
    """Draw figures of a run in a subprocess.

    Args:
        folder: The run folder.
        iteration: Iteration in the names of the image files.
        kind: Format of rendered episodes, ``png`` or ``gif``.

    Returns:
        The last line of the error, or ``""`` if there was no error.
    """
    words = [sys.executable, "-P", "-m", DRAWING, str(folder), str(iteration), kind]
    # The process must find the same modules, such as the module of a custom environment.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:  # in a new session, because Ctrl-C must not reach the drawing process
        subprocess.run(
            words, env=env, check=True, capture_output=True, text=True, errors="replace",
            timeout=LIMIT, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return lines[-1].removeprefix("metarl: error: ")
    return ""
