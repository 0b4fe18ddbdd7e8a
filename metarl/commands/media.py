"""Pictures of the last checkpoint of a run, drawn in a separate process by ``--media-every``.

``python -m metarl.commands.media runs/quick 30 png``
"""

import sys
from pathlib import Path
from typing import Any

from metarl.commands import cli
from metarl.commands.opened import Opened, opened


def commands(found: Opened, iteration: int, kind: str) -> list[list[str]]:
    """Return the command lines of ``evaluate``, ``plot`` and ``render`` that draw a run."""
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
    """Run all commands, even if some fail; return the number of failures."""
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
