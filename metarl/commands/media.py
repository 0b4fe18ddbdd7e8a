"""Draw the last checkpoint of a run into its folder: what ``--media-every`` asks for.

``python -m metarl.commands.media runs/quick 30 png``
"""

import sys
from pathlib import Path
from typing import Any

from metarl.commands import cli
from metarl.runs.folder import Run


# Few enough not to hold up the training, and the same ones every time.
POLICIES = ("--num-tasks", "20")
SUPERVISED = {
    "regression": ("--num-tasks", "100"),
    "fewshot": ("--num-tasks", "100"),
    "text": ("--samples", "1", "--shots", "4", "--queries", "100"),
}


def commands(run: Run, iteration: int, kind: str) -> list[list[str]]:
    """Return the command lines that draw a run: what ``evaluate``, ``plot`` and ``render`` do."""
    about, folder = run.read_config(), str(run.folder)
    name, device = about["experiment"], ("--device", about["config"]["device"])
    media = run.folder / "media"
    wanted = [
        ["evaluate", folder, *SUPERVISED.get(name, POLICIES), *device],
        ["plot", folder, "--out", str(media / f"{iteration:08d}-curves.png")],
    ]
    if name not in SUPERVISED:
        out = media / f"{iteration:08d}-adaptation.{kind}"
        wanted.append(["render", folder, "--out", str(out), *device])
    return wanted


def main(argv: list[Any]) -> int:
    """Do each of the commands, whatever becomes of the others; return how many failed."""
    folder, iteration, kind = argv
    failed = 0
    for words in commands(Run.open(Path(folder)), int(iteration), kind):
        try:
            cli.main(words)
        except SystemExit as stopped:  # it has said why
            failed += bool(stopped.code)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
