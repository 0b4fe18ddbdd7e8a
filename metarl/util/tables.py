"""Tables in a terminal."""

from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from metarl.util.console import printable


LONGEST = 100  # characters per table cell
NARROWEST = 20  # characters of a column of text in tables that do not fit into the terminal
BORDER = 3  # characters between two columns


class Table(NamedTuple):
    """A table for :func:`print_table`.

    Attributes:
        title: Title above the table.
        columns: Names of the columns.
        rows: Rows of the table, each with one cell per column.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]


def print_table(title: str, columns: list[str], rows: list[list[Any]], *, left: int = 1) -> None:
    """Print a table to stdout, without markup: square brackets are printed as they are.

    Text is wrapped, but numbers are not: if the columns do not fit into the terminal, the table is
    printed in parts that repeat the left-aligned columns. Cells with more than 100 characters are
    shortened, and control characters are replaced.

    Args:
        title: Title above the table.
        columns: Names of the columns.
        rows: Rows of the table, each with one cell per column.
        left: Number of leading columns that are left-aligned; the others are right-aligned.

    Example::

        print_table("test tasks", ["steps", "return"], [[0, "-40.1"], [1, "-18.2"]])
    """
    console = _Console()
    console.print(Text(printable(title), style="italic"))
    lines = [[_shortened(printable(str(cell))) for cell in line] for line in (columns, *rows)]
    for widths in _parts(lines, left, console.width):
        table = RichTable()
        for index, width in widths.items():
            justify: Any = "left" if index < left else "right"
            table.add_column(Text(lines[0][index]), justify=justify, width=width, overflow="fold")
        for line in lines[1:]:
            table.add_row(*(Text(line[index]) for index in widths))
        console.print(table)


def _parts(lines: list[list[str]], left: int, width: int) -> list[dict[int, int | None]]:
    """Divide the columns of a table into parts that fit into a terminal.

    Args:
        lines: Cells of the header and of the rows.
        left: Number of leading columns of text, which every part contains.
        width: Characters in a line of the terminal.

    Returns:
        For each part, the width of each column by index; None if the text can be wrapped.
    """
    columns = list(zip(*lines, strict=True))
    texts = (max(map(cell_len, column)) for column in columns[:left])
    room = width - 1 - sum(min(size, NARROWEST) + BORDER for size in texts)
    text: dict[int, int | None] = dict.fromkeys(range(left))
    parts, free = [dict(text)], room
    for index, size in enumerate(_widths(columns[left:], room), start=left):
        if size + BORDER > free < room:
            parts.append(dict(text))
            free = room
        parts[-1][index] = max(1, min(size, room - BORDER))
        free -= size + BORDER
    return parts


def _widths(columns: list[tuple[str, ...]], room: int) -> list[int]:
    """Return the widths of columns of numbers.

    The headers are wrapped between words if the columns need more than `room` characters.
    """
    sizes = [max(map(cell_len, column)) for column in columns]
    if sum(sizes) + BORDER * len(sizes) <= room:
        return sizes
    cells = [[*head.split(), *numbers] for head, *numbers in columns]
    return [max([1, *map(cell_len, words)]) for words in cells]


class _Console(Console):
    """A console that raises a BrokenPipeError as ``print`` does, instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise  # called while the error is handled


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
