"""Console output: lines without control characters, and warnings."""

import sys
import unicodedata
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Return one line of text; control characters and invalid characters of file names become �.

    Example::

        printable("\x1b[31mred")  # "\N{REPLACEMENT CHARACTER}[31mred"
    """
    return "".join(x if x.isprintable() else " " if x.isspace() else "\ufffd" for x in text)


def say(*lines: str, to_stderr: bool = False) -> None:
    """Print lines without control characters, which files of other people may contain.

    All output of the command line is printed with this function or as a table.

    Args:
        lines: The lines; a line feed within a line becomes a space.
        to_stderr: Print to stderr instead of stdout.

    Example::

        say("written to runs/quick")
    """
    for line in lines:
        print(printable(line), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def warn_of_similar(names: Iterable[str], source: object) -> None:
    """Warn if two class names look alike, such as "red" and "red ".

    Args:
        names: The class names.
        source: File, folder or task with the classes, for the message.
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(_simplified(name), name)
        if other != name:
            warn(
                f"the classes {other!a} and {name!a} of {source} differ only in white space, case "
                "or Unicode form. Rename one of them if they are the same class"
            )
            return


def _simplified(name: str) -> str:
    """Return a name without differences in white space, case, Unicode form and invisible marks."""
    visible = (x for x in unicodedata.normalize("NFKC", name) if unicodedata.category(x) != "Cf")
    return " ".join("".join(visible).split()).casefold()


def warn(message: str) -> None:
    """Print `message` as a one-line warning to stderr, with the prefix ``metarl: warning:``."""
    say(f"metarl: warning: {message}", to_stderr=True)
