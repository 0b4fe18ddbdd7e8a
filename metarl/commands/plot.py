"""``metarl plot RUN... --out FILE``: plot learning curves and adaptation curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands.opened import opened
from metarl.drawing import figure
from metarl.runs import Run, unset
from metarl.util import require_writable, say


@dataclass(frozen=True)
class Plot:
    """Plot learning curves and adaptation curves of one or more runs.

    Runs that differ only in the seed are averaged. For a single regression
    run, the figure also shows the predictions for test sinusoids before and
    after adaptation.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs to plot, such as runs/quick."""
    out: Path
    """Output figure: .png, .pdf or .svg."""
    metric: Annotated[str | None, unset("return, accuracy or loss")] = None
    """Metric to plot: return or an entry of the infos (--info in training), such
    as success, for meta-RL; accuracy or loss for few-shot learning."""

    def __post_init__(self) -> None:
        """Validate the runs and the file name."""
        if not self.runs:
            raise ValueError(
                "plot requires a run folder, got none. Example: metarl plot RUN --out FILE.png"
            )
        if self.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"`out` must end in .png, .pdf or .svg, got {self.out}")


def main(args: Plot) -> None:
    """Draw the figure and write the image file."""
    require_writable(args.out)
    if len(args.runs) == 1:
        run, experiment = opened(args.runs[0])
        figure([run], args.out, metric=args.metric, fits=experiment.examples(run))
    else:
        figure([Run.open(folder) for folder in args.runs], args.out, metric=args.metric)
    say(f"written to {args.out}")
