"""The program that draws figures and renders videos during training with ``--media-every``.

``python -m metarl.commands.media runs/quick 30 png`` evaluates the last
checkpoint of runs/quick, and saves learning curves and rendered episodes as
runs/quick/media/00000030-*. Training runs this program in a subprocess.
"""

import sys
from pathlib import Path
from typing import Any

from metarl.commands import cli
from metarl.commands.opened import Opened, opened


def commands(found: Opened, iteration: int, kind: str) -> list[list[str]]:
    """Return the arguments after ``metarl`` of the commands that evaluate, plot and render a run.

    Args:
        found: The run and its experiment.
        iteration: Iteration in the names of the saved files.
        kind: Format of rendered episodes, ``png`` or ``gif``.
    """
    run, experiment = found
    folder, media = str(run.folder), run.folder / "media"
    device = ("--device", experiment.config.device)
    wanted = [
        ["evaluate", folder, *experiment.quick, *device],
        ["plot", folder, "--out", str(media / f"{iteration:08d}-curves.png")],
    ]
    if (shows := experiment.describe().shows) != "plot":
        out = media / f"{iteration:08d}-adaptation.{kind}"
        wanted.append([shows, folder, "--out", str(out), *device])
    return wanted


def main(argv: list[Any]) -> int:
    """Evaluate and draw a run, and return the number of failed commands.

    A failed command does not stop the remaining commands.

    Args:
        argv: Run folder, iteration and format of rendered episodes.
    """
    folder, iteration, kind = argv
    failed = 0
    for words in commands(opened(Path(folder)), int(iteration), kind):
        try:
            cli.main(words)
        except SystemExit as stopped:  # the command has printed the error
            failed += bool(stopped.code)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
