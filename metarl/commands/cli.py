"""The ``metarl COMMAND ...`` command line, which imports only the module of the command."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import metarl
from metarl.commands import VERBS
from metarl.commands.ending import one_line_errors, quiet_closed_outputs
from metarl.commands.parsing import flags_named, parse, take_option
from metarl.commands.usage import UsageError, unknown
from metarl.drawing import explain_missing_opengl
from metarl.experiments import experiments, settings
from metarl.util import environment_integer, say


IMPORTS = "METARL_IMPORT"
"""Environment variable that passes the module names from ``--import`` to child processes."""
SIZES = {"iterations": "iterations", "num_ways": "ways", "num_shots": "shots"}
OVERVIEW = """\
usage: metarl COMMAND ...   (metarl COMMAND --help lists the flags of a command)

Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.

{}

--import MODULE registers your own methods; --debug shows tracebacks of errors
To start: metarl train maml-trpo --preset navigation-quick --out runs/quick"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    Args:
        argv: Command-line arguments after ``metarl``. If None, ``sys.argv`` is used.

    The exit status is 0 for success; :mod:`metarl.commands.ending` defines the others.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters without an encoding become ?
            stream.reconfigure(errors="replace")
    with quiet_closed_outputs(), one_line_errors(words), explain_missing_opengl():
        run(words)
    sys.exit(0)


def run(argv: list[str]) -> None:
    """Run the command in `argv`, without ``metarl``; errors propagate to the caller."""
    argv = import_modules(argv)
    if not argv or argv[0] in ("-h", "--help"):
        say(*overview().splitlines())
    elif argv[0] == "--version":
        say(f"metarl {metarl.__version__}")
    elif argv[0] == "train":
        train(argv[1:])
    elif argv[0] in VERBS:
        options, main = VERBS[argv[0]].load(argv[1:])
        with flags_named(options):
            parsed = parse(options, argv[1:], f"metarl {argv[0]}")
            with _world() if argv[0] == "resume" else contextlib.nullcontext():
                main(parsed)
    else:
        raise UsageError(unknown("command", argv[0], ["train", *VERBS]))


def import_modules(argv: list[str]) -> list[str]:
    """Import the modules named by ``--import MODULE`` flags, and return the remaining arguments.

    The modules can register methods, inner optimizers and environments. Child
    processes import the same modules.

    Args:
        argv: Command-line arguments after ``metarl``.

    Raises:
        ImportError: If a module does not exist.
    """
    named = [name for name in os.environ.get(IMPORTS, "").split(",") if name]
    name, argv = take_option(argv, "--import")
    while name is not None:
        named.append(name)
        name, argv = take_option(argv, "--import")
    if named and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    for module in named:
        importlib.import_module(module)
    if named:  # after all imports have succeeded
        os.environ[IMPORTS] = ",".join(dict.fromkeys(named))
    return argv


def _world() -> contextlib.AbstractContextManager[None]:
    """Return a context manager that joins the process group in distributed training."""
    if environment_integer("WORLD_SIZE", least=1, default=1) == 1:
        return contextlib.nullcontext()
    from metarl.core.speed import processes

    return processes.joined()


def train(argv: list[str]) -> None:
    """Run ``metarl train`` with the arguments ``EXPERIMENT [--preset NAME] [--FLAG VALUE ...]``."""
    if not argv or argv[0] in ("-h", "--help"):
        say(*train_overview().splitlines())
        return
    if argv[0] not in experiments():
        raise UsageError(unknown("experiment", argv[0], list(experiments())))
    _, options = experiments()[argv[0]].load()
    with _world(), flags_named(options):
        kind, config, out = parse_train(argv)
        importlib.import_module("metarl.training").start(kind(config), out)


class Parsed(NamedTuple):
    """A parsed training command: experiment class, configuration and run folder."""

    kind: Any
    config: Any
    out: Path


def parse_train(argv: list[str]) -> Parsed:
    """Parse the arguments after ``metarl train``; flags override the values of the preset.

    Raises:
        UsageError: If a flag is invalid, ``--method`` contradicts the preset,
            or ``--out`` is missing.
    """
    from metarl.experiments.presets import preset

    kind, options = experiments()[argv[0]].load()
    name, rest = take_option(argv[1:], "--preset")
    chosen = preset(name, argv[0]) if name else {}
    method, _ = take_option(rest, "--method")
    if method not in (None, chosen.get("method", method)):
        raise UsageError(
            f"--preset {name} requires --method {chosen['method']}, got --method {method}. Remove "
            "one of the two flags"
        )
    out, rest = take_option(rest, "--out")
    if out is None and not {"-h", "--help"} & set(rest):
        raise UsageError(
            "train requires --out DIR, got none. Set --out to the run folder to create"
        )
    prog = f"metarl train {argv[0]}"
    config = parse(options, rest, prog, default=settings(argv[0], preset=name))
    return Parsed(kind, config, Path(out or ""))


def overview() -> str:
    """Return the help text of ``metarl``, which lists all commands."""
    rows = [("train", "train a method and write a run folder"), *_rows(VERBS)]
    lines = [f"  {name:<11} {summary}" for name, summary in rows]
    return OVERVIEW.format("\n".join(lines))


def train_overview() -> str:
    """Return the help text of ``metarl train``, which lists all experiments and presets."""
    from metarl.experiments.presets import PRESETS

    return "\n".join(
        [
            "usage: metarl train EXPERIMENT [--preset NAME] [--FLAG VALUE ...] --out DIR",
            "",
            "experiments (metarl train EXPERIMENT --help lists the flags):",
            *(f"  {name:<11} {summary}" for name, summary in _rows(experiments())),
            "",
            "presets (flags override their values; policies stands for every meta-RL method):",
            *(
                f"  {family:<11} {name:<24} {_settings(values)}"
                for family, presets in PRESETS.items()
                for name, values in presets.items()
            ),
        ]
    )


def _rows(commands: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, command.summary) for name, command in commands.items()]


def _settings(values: dict[str, Any]) -> str:
    """Return the main settings of a preset; the words are short enough for 80 columns."""
    named = (str(values[key]) for key in ("env", "method") if key in values)
    kinds = [name.removeprefix("metarl/") for name in named]
    sizes = [f"{values[key]:,} {text}" for key, text in SIZES.items() if key in values]
    return ", ".join([*kinds, *sizes])


if __name__ == "__main__":
    main()
