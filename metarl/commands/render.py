"""``metarl render RUN... --out FILE``: render policies before and after adaptation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from metarl.commands.opened import Opened, first_run, opened, require_trusted
from metarl.drawing import SUFFIXES, require_video
from metarl.experiment import Rendering
from metarl.runs import read_chosen
from metarl.util import pyplot, require_writable, say


PICTURES = (".png", ".pdf", ".svg")


def command(words: Sequence[str]) -> tuple[type[Rendering], Callable[[Any], None]]:
    """Return the options dataclass and the main function for the first run on a command line.

    If no run is named, the dataclass only contains the flags that all experiments share.

    Args:
        words: Command-line arguments after ``metarl render``.
    """
    found = first_run(words)
    kind = Rendering if found is None else found.experiment.rendering
    return kind, partial(main, found)


def main(first: Opened | None, options: Any) -> None:
    """Load the policies of all runs and render the policies to one image or video file.

    Args:
        first: The first run and its experiment; None if the command line names no run.
        options: The rendering flags, an instance of the experiment's ``rendering`` dataclass.
    """
    if first is None:
        raise ValueError(
            "render requires a run folder, got none. Example: metarl render RUN --out FILE.png"
        )
    if options.out.suffix not in (kinds := (*PICTURES, *SUFFIXES)):
        raise ValueError(f"`out` must end in one of {', '.join(kinds)}, got {options.out}")
    known = {first.run.folder: first}
    runs = [known.get(folder) or opened(folder) for folder in options.runs]
    for each in runs:
        require_trusted(each, trust_env=options.trust_env)
    shown = [experiment.changed(device=options.device) for _, experiment in runs]
    subjects = sorted({experiment.describe().what for experiment in shown})
    if len(subjects) > 1:
        raise ValueError(
            f"all runs must have the same environment, got {' and '.join(subjects)}. Render the "
            "runs to separate files"
        )
    if len({type(experiment) for experiment in shown}) > 1:
        raise ValueError(
            "all runs must be trained by Stable-Baselines3, or none, got both. Render the runs to "
            "separate files"
        )
    require_writable(options.out)
    (require_video if options.out.suffix in SUFFIXES else pyplot)()
    metas = [
        read_chosen(run, options.checkpoint, experiment.read)[1]
        for (run, _), experiment in zip(runs, shown, strict=True)
    ]
    shown[0].draw_adaptation(shown, metas, options)
    say(f"written to {options.out}")
