"""Errors of invalid command lines, in one line each, and the completion of command lines."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from metarl.commands import VERBS
from metarl.util import closest, say


KINDS = {
    "INT": "an integer",
    "FLOAT": "a number",
    "[INT [INT ...]]": "integers",
    "[FLOAT [FLOAT ...]]": "numbers",
    "{FLOAT FLOAT}": "two numbers",
}
"""Values in words, by the placeholder in the help of tyro."""


class UsageError(Exception):
    """Exception for an invalid command line."""


def flag(name: str) -> str:
    """Return the flag for the Python argument `name`: ``--num-tasks`` for ``num_tasks``."""
    return "--" + name.replace("_", "-")


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return an error for an unknown name, with the closest known name or all known names.

    Example::

        unknown("command", "rendr", ["render", "plot"])
        # "unknown command 'rendr': did you mean 'render'?"
    """
    close = closest(name, known)
    hint = f"did you mean {close!r}?" if close else f"expected one of {', '.join(known)}"
    return f"unknown {kind} {name!r}: {hint}"


def flags_of(options: Any) -> list[str]:
    """Return the flags of an options dataclass, and their aliases such as ``--ways``."""
    hints = get_type_hints(options, include_extras=True)
    found = [flag(entry.name) for entry in fields(options)]
    for entry in fields(options):
        for about in getattr(hints[entry.name], "__metadata__", ()):
            found += getattr(about, "aliases", None) or ()
    return found


def require_known_flags(options: Any, words: Sequence[str], prog: str) -> None:
    """Raise a UsageError if a command line contains a flag that the command does not have.

    Args:
        options: Dataclass with one field per flag.
        words: Command-line arguments after the name of the command.
        prog: Name of the command, such as ``metarl plot``.
    """
    known = flags_of(options)
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        positive = name.replace("--no-", "--", 1)
        if re.fullmatch(r"--[a-z][\w-]*", name) and not {name, positive} & {*known}:
            close = closest(name, known)
            hint = f": did you mean {close}?" if close else "."
            raise UsageError(f"unknown flag {name}{hint} `{prog} --help` lists all flags")


def one_line(box: str, options: Any, words: Sequence[str], prog: str) -> str:
    """Return an error of tyro as one line.

    Args:
        box: The error in a frame, as printed by tyro.
        options: Dataclass with one field per flag.
        words: Command-line arguments after the name of the command.
        prog: Name of the command, such as ``metarl plot``.
    """
    # The frame consists of | and - if the output is not UTF-8.
    lines = [re.sub(r"[^\x20-\x7e]+", "", line).strip(" |") for line in box.splitlines()[1:]]
    lines = [line for line in lines if re.search(r"\w", line)]
    text = " ".join(lines)
    more = f"`{prog} --help` lists all flags"
    if text.startswith("Missing from"):
        return f"{prog} requires {_missing(options, words)}, got none. {more}"
    if found := re.search(r"Unrecognized options: (.+?) For full", text):
        return f"unexpected argument {found[1]!r}: expected a flag. {more}"
    if found := re.search(r"Missing value for argument '(.+?)'", text):
        return f"{found[1]} requires a value, got none. {more}"
    if found := re.search(
        r"invalid choice (.+?) for argument '(.+?)'\. Expected .*?\((.*?)\)", text
    ):
        choices = re.findall(r"'(.*?)'", found[3])
        return f"{found[2]} must be one of {', '.join(choices)}, got {found[1]}"
    if found := re.search(r"^Error parsing (--[\w-]+)", text):
        return f"{found[1]} must be {_expected(lines)}, got {_given(found[1], words)}. {more}"
    return re.sub(r" For full helptext, (see|run:?) .*$", "", text) + f". {more}"


def _missing(options: Any, words: Sequence[str]) -> str:
    """Return the required arguments that a command line does not contain."""
    required = [f.name for f in fields(options) if f.default is f.default_factory is MISSING]
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    if words and not words[0].startswith("-"):  # a positional argument comes first
        given |= {flag(name) for name in required[:1] if _positional(options, name)}
    names = [name for name in required if flag(name) not in given]
    shown = (name.upper() if _positional(options, name) else flag(name) for name in names)
    return " and ".join(shown) or "an argument"


def _positional(options: Any, name: str) -> bool:
    """Return whether a field of a dataclass is a positional argument."""
    (kind,) = (entry.type for entry in fields(options) if entry.name == name)
    return "Positional" in str(getattr(kind, "__metadata__", ""))


def _expected(lines: Sequence[str]) -> str:
    """Return the kind of value that the help in an error names, in words."""
    shown = [after for line, after in pairwise(lines) if "helptext" in line]
    placeholder = shown[0].partition(" ")[2] if shown else "a valid value"
    return KINDS.get(placeholder, f"of the form {placeholder}")


def _given(name: str, words: Sequence[str]) -> str:
    """Return the values of a flag on a command line."""
    text = re.sub(r"(?<!\S)(--[\w-]+)=", r"\1 ", " ".join(words))
    found = re.search(rf"(?<!\S){name.replace('-', '[-_]')} (.*?)(?= --[a-z]|$)", text)
    return found[1] if found else "none"


@dataclass(frozen=True)
class Completion:
    """Print the completion script of a shell.

    For bash, add this line to ~/.bashrc: `source <(metarl completion bash)`.
    For zsh, add `source <(metarl completion zsh)` to ~/.zshrc. To start shells
    faster, write the output to a file and source the file.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell that runs the script."""


SCRIPT = """\
_metarl() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local first=${{COMP_WORDS[1]}} second=${{COMP_WORDS[2]}} words=
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"
  elif [ "$before" = --preset ]; then words="{presets}"
  elif [ "$before" = --env ]; then words="{environments}"
  elif [ "$before" = --method ]; then words="{methods}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case $first in
      train) words="{experiments}" ;;
      methods) words="{methods}" ;;
      envs) words="{environments}" ;;
      completion) words="bash zsh" ;;
    esac
  elif [ "$first" = train ]; then
    case $second in
{train}
    esac
  fi
  case $first,$current in
{verbs}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _metarl metarl
"""


def completion(words: Sequence[str]) -> tuple[type[Completion], Callable[[Completion], None]]:
    """Return the options of ``metarl completion``, and the function that prints the script."""
    del words
    return Completion, print_completion


def print_completion(args: Completion) -> None:
    """Print the script; zsh runs the script of bash with its own emulation of bash."""
    if args.shell == "zsh":
        say("autoload -U +X compinit bashcompinit && compinit && bashcompinit")
    say(*script().splitlines())


def script() -> str:
    """Return the script of bash, with the flags of all commands and experiments."""
    from metarl.envs import ENVIRONMENTS
    from metarl.experiments import experiments
    from metarl.experiments.presets import PRESETS
    from metarl.rl.methods import METHODS as POLICY_METHODS
    from metarl.supervised.methods import METHODS

    train = {n: [*_flags(row.load()[1]), "--out", "--preset"] for n, row in experiments().items()}
    verbs = {f"{name},-*": _flags(verb.load(())[0]) for name, verb in VERBS.items()}
    return SCRIPT.format(
        commands=" ".join(["train", *VERBS]),
        presets=" ".join(name for presets in PRESETS.values() for name in presets),
        environments=" ".join(row.id for row in ENVIRONMENTS),
        methods=" ".join(dict.fromkeys([*POLICY_METHODS, *METHODS])),
        experiments=" ".join(train),
        train=_cases(train),
        verbs=_cases(verbs),
    )


def _flags(options: type) -> list[str]:
    """Return the flags of a command, without positional arguments."""
    named = [f for f in fields(options) if "Positional" not in str(f.type)]
    return [*(flag(f.name) for f in named), "--help"]


def _cases(words: Mapping[str, Sequence[str]]) -> str:
    """Return the branches of a ``case`` statement that set the variable words."""
    return "\n".join(f'      {name}) words="{" ".join(each)}" ;;' for name, each in words.items())
