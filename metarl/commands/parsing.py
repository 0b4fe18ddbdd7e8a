"""Reading a command line: flags, and errors that name them."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any


class UsageError(Exception):
    """A command line that cannot be understood."""


@contextlib.contextmanager
def flags_named(options: Any) -> Iterator[None]:
    """Replace the names of arguments in errors by flags: ``num_tasks``, ```out```, ``task=1``."""
    try:
        yield
    except (ValueError, OSError, ArithmeticError) as error:
        if error.args and isinstance(text := error.args[-1], str):
            error.args = (*error.args[:-1], flags_of(text, [f.name for f in fields(options)]))
        raise


def flag(name: str) -> str:
    """Return the flag of an argument: ``--num-tasks``."""
    return "--" + name.replace("_", "-")


def flags_of(text: str, names: Sequence[str]) -> str:
    """Return an error text with arguments as flags.

    A name with an underscore is replaced wherever it stands, others as ```name``` or ``name=``.
    """
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    long = "|".join(name for name in names if "_" in name) or "(?!)"

    def replaced(match: re.Match[str]) -> str:
        return flag(match[1]) + (" " if match[0].endswith("=") else "")

    for pattern in (
        rf"(?<![\w./-])({known})=",
        rf"`({known})`",
        rf"(?<![\w./-])({long})(?![\w.=-])",
    ):
        text = re.sub(pattern, replaced, text)
    return text


def parse(options: Any, argv: list[str], prog: str, **kwargs: Any) -> Any:
    """Return the options that a command line sets.

    Args:
        options: Their dataclass.
        argv: The words.
        prog: The command, for its help.
        kwargs: Arguments of ``tyro.cli``.

    Raises:
        UsageError: If the words do not fit; the message is one line.
    """
    import tyro

    known = [argument for argument in argv if argument != "--debug"]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, args=known, prog=prog, **kwargs)
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        names = [field.name for field in fields(options)]
        raise UsageError(flags_of(_one_line(errors.getvalue()), names)) from None


def _one_line(box: str) -> str:
    """Turn tyro's boxed message into one line."""
    # Its frame is drawn with | and - where the output is not UTF-8.
    lines = [re.sub(r"[^\x20-\x7e]+", "", line).strip(" |") for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if re.search(r"\w", line))
    text = re.sub(r"^Error parsing \w+: ", "", text)
    return re.sub(r" For full helptext, (see|run:?) (metarl [^`]*)$", r"; see `\2`", text)


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Take ``--name VALUE`` or ``--name=VALUE`` out of a command line."""
    for index, argument in enumerate(argv):
        if argument.startswith(name + "="):
            return argument.partition("=")[2], argv[:index] + argv[index + 1 :]
        if argument == name:
            if index + 1 == len(argv):
                where = "metarl methods" if name == "--method" else "metarl train --help"
                raise UsageError(f"{name} needs a value; `{where}` lists them")
            return argv[index + 1], argv[:index] + argv[index + 2 :]
    return None, argv
