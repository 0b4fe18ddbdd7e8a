"""The command line: ``metarl VERB ...``. Verbs are loaded only when they are used."""

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import metarl
from metarl.drawing.opengl import explained
from metarl.experiment import SUPERVISED, Entry
from metarl.experiments import experiments
from metarl.runs.config import flag
from metarl.runs.stopping import Stopped
from metarl.util.parsing import parse_json


VERBS = {
    "evaluate": Entry(
        "commands.evaluate", "Evaluate", "result after 0, 1, ... steps on test tasks"
    ),
    "render": Entry("commands.render", "Render", "picture or video of the policy adapting"),
    "plot": Entry("commands.plot", "Plot", "learning and adaptation curves of runs"),
    "resume": Entry("commands.resume", "Resume", "continue a run where it stopped"),
    "compare": Entry(
        "commands.compare", "Compare", "methods over seeds, in one table and one figure"
    ),
    "headstart": Entry(
        "commands.headstart", "Headstart", "adaptation against training from scratch"
    ),
    "push": Entry("commands.push", "Push", "share a run, in a folder or on the Hugging Face hub"),
    "pull": Entry("commands.pull", "Pull", "make a run folder of what somebody shared"),
    "methods": Entry(
        "commands.methods", "Methods", "methods, their papers and the flags they stand for"
    ),
    "envs": Entry("commands.envs", "Envs", "environments with tasks, and what varies in them"),
    "benchmark": Entry(
        "commands.benchmark", "Benchmark", "speed of sampling and of the meta-update"
    ),
}
OF_SUPERVISED = {
    "evaluate": Entry(
        "commands.evaluate_supervised", "EvaluateSupervised", VERBS["evaluate"].summary
    ),
}
OF_SB3 = {
    "evaluate": Entry("commands.evaluate_sb3", "EvaluateSB3", VERBS["evaluate"].summary),
    "resume": Entry("commands.resume_sb3", "ResumeSB3", VERBS["resume"].summary),
    "render": Entry("commands.render_sb3", "RenderSB3", VERBS["render"].summary),
}
OF_TEXT = {
    "evaluate": Entry(
        "commands.evaluate_text", "EvaluateText", "accuracy on few-shot tasks of text"
    ),
}
OWN_VERBS = {**dict.fromkeys(SUPERVISED, OF_SUPERVISED), "text": OF_TEXT, "sb3": OF_SB3}
LONGEST = 1500  # characters of an error: an environment of somebody else may say anything


class UsageError(Exception):
    """A command line that cannot be understood."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 misunderstood, 128 + n by signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that cannot show an arrow shows a ?
            stream.reconfigure(errors="replace")
    try:
        with explained():
            run(words)
    except KeyboardInterrupt:
        trains = words[:1] in (["train"], ["resume"])
        hint = "; `metarl resume RUN` continues from the last checkpoint" if trains else ""
        _fail(f"interrupted{hint}", 130)
    except Stopped as stopped:
        _fail(str(stopped), 128 + stopped.number, once=True)
    except UsageError as error:
        _fail(str(error), 2, once=True)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
        if "--debug" in words:
            raise
        if getattr(error, "told_elsewhere", False):  # by the process that failed, if one did
            print(f"metarl: {error}", file=sys.stderr)
            sys.exit(1)
        once = isinstance(error, FloatingPointError) or getattr(error, "same_everywhere", False)
        _fail(" ".join(str(error).split()) or type(error).__name__, 1, once=once)
    except Exception as error:  # gymnasium's errors share no base class
        if not type(error).__module__.startswith("gymnasium"):
            raise
        _fail(" ".join(str(error).split()), 1)
    sys.exit(0)


def run(argv: list[str]) -> None:
    """Run one command line; raise what goes wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
    elif argv[0] == "--version":
        print(f"metarl {metarl.__version__}")
    elif argv[0] == "train":
        train(argv[1:])
    elif argv[0] in VERBS:
        module, options = _verb(argv).load()
        parsed = _parse(options, argv[1:], f"metarl {argv[0]}")
        with _world() if argv[0] == "resume" else contextlib.nullcontext():
            module.main(parsed)
    else:
        raise UsageError(_unknown("command", argv[0], ["train", *VERBS]))


def _world() -> contextlib.AbstractContextManager[None]:
    """Meet the other processes of ``torchrun``, if that is what started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return contextlib.nullcontext()
    from metarl.core.speed import processes

    return processes.joined()


def train(argv: list[str]) -> None:
    """Run ``metarl train EXPERIMENT [--preset NAME] ...``."""
    if not argv or argv[0] in ("-h", "--help"):
        print(train_overview())
        return
    if argv[0] not in experiments():
        raise UsageError(_unknown("experiment", argv[0], list(experiments())))
    module, config = parse_train(argv)
    with _world(), _flags_named(type(config)):
        module.main(config)


@contextlib.contextmanager
def _flags_named(options: Any) -> Iterator[None]:
    """Name the flags of arguments in an error: the library knows them as ``inner_steps`` only."""
    try:
        yield
    except ValueError as error:
        names = "|".join(field.name for field in fields(options) if "_" in field.name)
        text = re.sub(rf"(?<![\w.-])({names})(?![\w.=-])", lambda m: flag(m[1]), str(error))
        error.args = (text, *error.args[1:])
        raise


def parse_train(argv: list[str]) -> tuple[Any, Any]:
    """Return the module of an experiment and its settings: flags override the preset."""
    from metarl.experiments.presets import preset

    module, options = experiments()[argv[0]].load()
    name, rest = _take_option(argv[1:], "--preset")
    known = {field.name for field in fields(options)}
    chosen = {n: v for n, v in (preset(name, argv[0]) if name else {}).items() if n in known}
    method, _ = _take_option(rest, "--method")
    if method not in (None, chosen.get("method", method)):
        raise UsageError(
            f"--preset {name} is of --method {chosen['method']}, got --method {method}; leave out "
            "one of the two"
        )
    defaults = options(out=Path("DIR"), **chosen)
    out, _ = _take_option(rest, "--out")
    if out is None and not {"-h", "--help"} & set(rest):
        raise UsageError("train needs --out DIR, the run folder to make")
    return module, _parse(options, rest, f"metarl train {argv[0]}", default=defaults)


def overview() -> str:
    """Return the help of the bare command."""
    rows = [("train", "train an experiment into a run folder"), *_rows(VERBS)]
    lines = [f"  {name:<11} {summary}" for name, summary in rows]
    return "\n".join(
        [
            "usage: metarl COMMAND ...   (metarl COMMAND --help explains each)",
            "",
            "Gradient-based meta-learning on PyTorch, Gymnasium and MuJoCo.",
            "",
            *lines,
            "",
            "add --debug to see where an error comes from",
            "start with: metarl train maml-trpo --preset navigation-quick --out runs/quick",
        ]
    )


def train_overview() -> str:
    """Return the help of ``metarl train``."""
    from metarl.experiments.presets import PRESETS

    return "\n".join(
        [
            "usage: metarl train EXPERIMENT [--preset NAME] [--FLAG VALUE ...] --out DIR",
            "",
            "experiments (metarl train EXPERIMENT --help lists the flags):",
            *(f"  {name:<11} {summary}" for name, summary in _rows(experiments())),
            "",
            "presets (flags override them; those of policies are for every meta-RL method):",
            *(
                f"  {family:<11} {name:<24} {_settings(values)}"
                for family, presets in PRESETS.items()
                for name, values in presets.items()
            ),
        ]
    )


def _rows(commands: dict[str, Entry]) -> list[tuple[str, str]]:
    return [(name, command.summary) for name, command in commands.items()]


def _settings(values: dict[str, Any]) -> str:
    shown = ("env", "data", "method", "iterations", "num_ways", "num_shots", "inner_lr")
    return ", ".join(f"{key.replace('_', '-')} {values[key]}" for key in shown if key in values)


def _verb(argv: list[str]) -> Entry:
    """Return the command of a verb: runs of some experiments have their own flags for it."""
    for word in argv[1:]:
        config = Path(word) / "config.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if own := OWN_VERBS.get(parse_json(config.read_bytes())["experiment"]):
                return own.get(argv[0], VERBS[argv[0]])
    if argv[0] == "evaluate" and len(argv) > 1 and not argv[1].startswith("-"):
        importlib.import_module("metarl.runs.folder").Run.open(Path(argv[1]))  # is there any?
    return VERBS[argv[0]]


def _parse(options: Any, argv: list[str], prog: str, **kwargs: Any) -> Any:
    import tyro

    known = [argument for argument in argv if argument != "--debug"]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, args=known, prog=prog, **kwargs)
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            raise
        raise UsageError(_one_line(errors.getvalue())) from None


def _one_line(box: str) -> str:
    """Turn tyro's boxed message into one line."""
    # Its frame is drawn with | and - where the output is not UTF-8.
    lines = [re.sub(r"[^\x20-\x7e]+", "", line).strip(" |") for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if re.search(r"\w", line))
    text = re.sub(r"^Error parsing \w+: ", "", text)
    return re.sub(r" For full helptext, (see|run:?) (metarl [^`]*)$", r"; see `\2`", text)


def _take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
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


def _unknown(kind: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
    return f"there is no {kind} {name!r}; {hint}"


def _fail(message: str, code: int, *, once: bool = False) -> NoReturn:
    """Tell an error and exit; one that all processes of ``torchrun`` share is told by the first.

    What is not finite is so in sums over all of them.
    """
    if once and int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0":
        time.sleep(1)  # when one has failed, torchrun ends the others: the first tells it before
    else:
        cut = f"{message[:LONGEST]}... (--debug shows all)" if len(message) > LONGEST else message
        print(f"metarl: error: {cut}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
