"""``metarl plot RUN... --out FILE``: plot learning curves and adaptation curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.commands.opened import opened
from metarl.drawing import Style, figure
from metarl.drawing.series import group_by_setting
from metarl.runs import Run, unset
from metarl.runs.finding import runs_in
from metarl.util import require_writable, say


@dataclass(frozen=True)
class Plot:
    """Plot learning curves and adaptation curves of one or more runs.

    Runs that differ only in the seed are averaged. For a single regression
    run, the figure also shows the predictions for test sinusoids before and
    after adaptation.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs to plot, such as runs/quick, or the folder of a comparison."""
    out: Path
    """Output figure: .png, .pdf or .svg."""
    metric: Annotated[str | None, unset("return, accuracy or loss")] = None
    """Metric to plot: return or an entry of the infos (--info in training), such
    as success, for meta-RL; accuracy or loss for few-shot learning."""
    labels: tuple[str, ...] = ()
    """Names of the curves in the legend, one per curve in the order of the runs.
    If not set, the names of the run folders are used."""
    size: Annotated[tuple[float, float] | None, unset("depends on the style")] = None
    """Width and height of the figure in inches, such as 5.5 2.4 for the text width of a paper."""
    style: Style = "default"
    """Style of the figure; paper has small serif text, no grid and 300 dpi."""
    csv: Annotated[Path | None, unset("not written")] = None
    """CSV file to write with the points of the curves: means and 95 % intervals."""

    def __post_init__(self) -> None:
        """Validate the runs and the file name."""
        if not self.runs:
            raise ValueError(
                "plot requires a run folder, got none. Example: metarl plot RUN --out FILE.png"
            )
        if self.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"`out` must end in .png, .pdf or .svg, got {self.out}")
        if self.size is not None and not all(1 <= side <= 100 for side in self.size):
            raise ValueError(f"`size` must be between 1 and 100 inches, got {self.size}")


def main(args: Plot) -> None:
    """Draw the figure and write the image file."""
    files = [args.out, *([args.csv] if args.csv else [])]
    for file in files:
        require_writable(file)
    look: dict[str, Any] = {"labels": args.labels, "size": args.size, "style": args.style}
    look["table"] = args.csv
    runs = [Run.open(folder) for named in args.runs for folder in runs_in(named)]
    if len(runs) == 1:
        look["fits"] = opened(runs[0].folder).experiment.examples(runs[0])
    figure(runs, args.out, metric=args.metric, **look)
    for group, label in zip(group_by_setting(runs), args.labels, strict=False):
        say(f"{label}: {group}")
    say(f"written to {' and '.join(map(str, files))}")
