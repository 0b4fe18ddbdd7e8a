"""The look of figures: styles, tick labels, the legend and writing of the file."""

import math
import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from metarl.util import optional, replacing


Style: TypeAlias = Literal["default", "paper"]
RULES: dict[str, dict[str, Any]] = {
    "default": {"axes.grid": True, "grid.alpha": 0.25, "legend.fontsize": 8, "savefig.dpi": 150},
    "paper": {
        **{"font.family": "serif", "mathtext.fontset": "stix", "font.size": 8},
        **{"axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7},
        **{"xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6},
        **{
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.0,
            "lines.markersize": 3,
        },
        **{"pdf.fonttype": 42, "savefig.dpi": 300},  # 42: TrueType, which publishers require
    },
}
PANEL = {"default": (5.5, 4.2), "paper": (2.75, 2.1)}  # width and height of a panel in inches
CHARACTER = 0.55  # mean width of a character, as a fraction of the font size
HANDLE = 0.6  # inches of a legend entry next to its text
SIZES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def styled(style: Style) -> AbstractContextManager[Any]:
    """Return a context manager in which matplotlib draws in a style.

    Args:
        style: ``"default"``, or ``"paper"`` for figures that a paper includes without scaling:
            serif text of 7 and 8 points, thin axes, 300 dpi, and TrueType fonts in PDF files.

    Raises:
        ValueError: If the style does not exist.
        ImportError: If matplotlib is not installed; the message contains the install command.
    """
    if style not in RULES:
        raise ValueError(f"`style` must be one of {', '.join(get_args(Style))}, got {style!r}")
    rules: AbstractContextManager[Any] = optional.pyplot().rc_context(RULES[style])
    return rules


def short(value: float, position: object = None) -> str:
    """Return a number as a short tick label.

    Args:
        value: The number.
        position: Position of the tick, which matplotlib passes; not used.

    Example::

        short(25_000), short(1e6), short(-0.5)  # ("25k", "1M", "−0.5")
    """
    size, letter = next(((s, text) for s, text in SIZES if abs(value) >= s), (1, ""))
    return f"{value / size:.6g}{letter}".replace("-", "−")


def with_minus(text: str) -> str:
    """Return a text in which negative numbers have a minus sign, as on the axes.

    Example::

        with_minus("maml-trpo, goal (0.3, -0.4)")  # "maml-trpo, goal (0.3, −0.4)"
    """
    return re.sub(r"(?<!\w)-(?=\.?\d)", "−", text)


def label_ticks(axis: Any, *, percent: bool = False, log: bool = False) -> None:
    """Set the ticks of an axis and short labels, such as 25k, 1M or 40%.

    Args:
        axis: Axis of matplotlib, such as ``axes.xaxis``. All curves must have been drawn.
        percent: Whether values are fractions that are shown in percent.
        log: Whether the axis is logarithmic.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    if log:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(PercentFormatter(1.0) if percent else FuncFormatter(short))


def shared_legend(figure: Any) -> None:
    """Draw one legend below all panels, with one entry per label of the curves.

    Long labels are wrapped, and the number of columns is chosen such that the legend is not wider
    than the figure.

    Args:
        figure: Figure of matplotlib with ``layout="constrained"``.
    """
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True)) | entries
    if not entries:
        return
    from matplotlib import rcParams

    character = CHARACTER * rcParams["legend.fontsize"] / 72  # inches
    width = figure.get_size_inches()[0] - 0.3
    texts = [textwrap.fill(text, max(8, int((width - HANDLE) / character))) for text in entries]
    longest = max(len(line) for text in texts for line in text.splitlines())
    columns = max(1, min(len(texts), int(width / (longest * character + HANDLE))))
    columns = math.ceil(len(texts) / math.ceil(len(texts) / columns))  # rows of similar length
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(list(entries.values()), texts, **place)


def legend_height(labels: Sequence[str], width: float) -> float:
    """Return the approximate height in inches of a legend in a figure of a `width` in inches."""
    return 0.2 * sum(1 + int(len(text) / (width / 0.07)) for text in labels) / 2


def save_figure(figure: Any, out: Path) -> None:
    """Write a figure to a file in the format of its suffix, and close the figure."""
    with replacing(out) as temporary:
        figure.savefig(temporary)
    optional.pyplot().close(figure)
