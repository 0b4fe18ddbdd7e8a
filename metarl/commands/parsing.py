"""Command-line parsing, and replacement of argument names with flags in error messages."""

import ast
import contextlib
import inspect
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

from metarl.commands.usage import UsageError, flag, one_line, require_known_flags


HELP = ("-h", "--help")
CLOSE = "close other programs or use a machine with more memory"
SIZES = (
    "chunk_size", "num_tasks", "episodes_per_task", "episodes", "num_envs", "num_queries",
    "image_size", "hidden", "filters", "jobs",
)  # fmt: skip
"""Settings that determine how much memory a command requires."""
EXHAUSTED = re.compile("(?i)(out of|not enough|cannot allocate|can't allocate) memory")
"""Part of the messages of RuntimeErrors of PyTorch and of OSErrors, which are not MemoryErrors."""


@contextlib.contextmanager
def flags_named(options: Any) -> Iterator[None]:
    """Replace argument names in errors with flags, such as ``num_tasks`` with ``--num-tasks``.

    Only the messages of ValueErrors, OSErrors and ArithmeticErrors that are
    raised inside the ``with`` block are changed.

    Args:
        options: Dataclass with the arguments as fields.

    Raises:
        MemoryError: If memory is exhausted. The message names the flags that reduce the memory.
    """
    names = [field.name for field in fields(options)]
    try:
        yield
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or EXHAUSTED.search(str(error)):
            reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
            reducing = " or ".join(flag(name) for name in SIZES if name in names)
            advice = f"reduce {reducing}" if reducing else CLOSE
            raise MemoryError(f"{advice}{reason and f' ({reason})'}") from error
        if error.args and isinstance(text := error.args[-1], str):
            error.args = (*error.args[:-1], flags_of(text, names))
        raise


def flags_of(text: str, names: Sequence[str]) -> str:
    """Return a message with Python argument names replaced with command-line flags.

    A name with an underscore is replaced everywhere. A name without an
    underscore is replaced in backticks and before an equals sign: ``task=1``
    becomes ``--task 1``.

    Args:
        text: Message that contains argument names.
        names: Argument names to replace.
    """
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    long = "|".join(name for name in names if "_" in name) or "(?!)"

    def replaced(match: re.Match[str]) -> str:
        return flag(match[1]) + (" " if match[0].endswith("=") else "")

    for pattern in (
        rf"(?<![\w./-])({known})=",
        rf"`({known})`",
        rf"(?<![\w./(-])({long})(?![\w.=-])",
    ):
        text = re.sub(pattern, replaced, text)
    return text


def parse(options: Any, argv: list[str], prog: str, *, default: Any = None) -> Any:
    """Parse the flags of a command into a dataclass.

    Args:
        options: Dataclass with one field per flag.
        argv: Command-line arguments after the name of the command.
        prog: Command that the help shows, such as ``metarl plot``.
        default: Instance of `options` with the default values, in which case
            ``--help`` shows the flags in groups. If None, the defaults of the
            dataclass are used and the flags are not grouped.

    Returns:
        An instance of `options`.

    Raises:
        UsageError: If the arguments are invalid; the message is one line.
        SystemExit: If the arguments contain ``--help``, after the help is printed.
    """
    import tyro

    words = [word for word in argv if word not in ("--debug", *HELP)]
    asks = bool({*HELP} & {*argv})
    if asks and default is not None:
        with contextlib.suppress(UsageError):  # the help is shown for invalid words too
            default = parse(options, words, prog, default=default).filled()
    plain = described(options) if asks else options
    kind = plain if default is None else grouped(default)
    style: Any = tyro.conf.DisallowNone if default is None else tyro.conf.OmitArgPrefixes
    if not asks:
        require_known_flags(options, words, prog)
    args, text = ["--help"] if asks else words, inspect.cleandoc(options.__doc__ or "")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(kind, args=args, prog=prog, description=text, config=(style,))
        if default is None:
            return parsed
        return options(**{n: v for group in vars(parsed).values() for n, v in vars(group).items()})
    except ValueError as error:
        message = str(error)
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        message = one_line(errors.getvalue(), options, words, prog)
    raise UsageError(flags_of(message, [field.name for field in fields(options)]))


def grouped(config: Any) -> type[Any]:
    """Return a dataclass with one nested dataclass per group of settings.

    A field belongs to the group that is named by the attribute ``group`` of
    the class that defines the field, or to the group "run" if the class has
    no such attribute.

    Args:
        config: Configuration that contains the default values.
    """
    import tyro

    kind: Any = type(config)
    hints, groups = hints_with_help(kind), dict[str, list[Any]](run=[])
    for entry in fields(kind):
        name, hint = entry.name, hints[entry.name]
        if entry.default is None:  # None means "not set" and is not a valid value of the flag
            hint = Annotated[hint, tyro.conf.DisallowNone]
        bases = reversed(kind.__mro__)
        base = next(base for base in bases if name in vars(base).get("__annotations__", {}))
        default = field(default=getattr(config, name))
        title = vars(base).get("group", "run")
        groups.setdefault(title, []).append((name, hint, default))
    parts = {title: make_dataclass("Group", group, frozen=True) for title, group in groups.items()}
    nested = [
        (title.replace(" ", "_"), Annotated[part, tyro.conf.arg(name=title, help="")], part())
        for title, part in parts.items()
    ]
    return make_dataclass("Groups", nested)


def described(kind: type[Any]) -> type[Any]:
    """Return a subclass of the dataclass `kind` whose help texts are single paragraphs."""
    hints = hints_with_help(kind)
    own = [(entry.name, hints[entry.name], copy(entry)) for entry in fields(kind)]
    return make_dataclass(kind.__name__, own, bases=(kind,), frozen=True)


def hints_with_help(kind: type[Any]) -> dict[str, Any]:
    """Return the types of the fields of the dataclass `kind`, with their help texts."""
    import tyro

    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    for name, text in help_texts(kind).items():
        hints[name] = Annotated[hints[name], tyro.conf.arg(help=text)]
    return hints


def help_texts(kind: type[Any]) -> dict[str, str]:
    """Return the help texts of the dataclass `kind`, the literals below the fields, by name."""
    found = {}
    for base in reversed(kind.__mro__):
        with contextlib.suppress(OSError, TypeError):  # classes without source code
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for entry, text in pairwise(body.body if isinstance(body, ast.ClassDef) else ()):
                if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr):
                    words = ast.literal_eval(text.value).split()
                    found[ast.unparse(entry.target)] = " ".join(words)
    return found


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Remove a flag and its value from a command line.

    Args:
        argv: The command-line arguments.
        name: The flag, such as ``--out``.

    Returns:
        The value from ``--out VALUE`` or ``--out=VALUE``, and the remaining
        arguments. The value is None if the arguments do not contain the flag.

    Raises:
        UsageError: If the flag is the last argument and has no value.
    """
    for index, argument in enumerate(argv):
        if argument.startswith(name + "="):
            return argument.partition("=")[2], argv[:index] + argv[index + 1 :]
        if argument == name:
            if index + 1 == len(argv):
                where = "metarl methods" if name == "--method" else "metarl train --help"
                raise UsageError(f"{name} requires a value, got none. Run `{where}` for help")
            return argv[index + 1], argv[:index] + argv[index + 2 :]
    return None, argv
