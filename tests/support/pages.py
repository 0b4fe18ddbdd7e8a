"""Code blocks of the documentation, and functions that run them with small sizes."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from metarl.commands import cli
from tests.support import ROOT
from tests.support.commands import metarl


TINY = "--num-tasks 2 --episodes-per-task 2"
META = "--num-tasks 2 --iterations 1 --log-every 1 --validation-tasks 2 --mode eager"
# Flags that reduce the size of a command: by experiment, by module of the command, or by command.
SMALL = {
    "train": f"{TINY} --iterations 1",
    "sb3": "--total-steps 200 --eval-every 200 --num-envs 2 --episodes 2",
    "regression": META,
    "fewshot": f"{META} --filters 4",
    "text": f"{META} --encoder encoder --top-layers 1 --max-length 12",
    "evaluate": TINY,
    "SupervisedEvaluation": "--num-tasks 2",
    "TextEvaluation": "--samples 1",
    "render": "--episodes-per-task 3 --inner-steps 1",
    "compare": f"--seeds 0 --iterations 1 --evaluate='{TINY} --inner-steps 1'",
    "headstart": "--episodes 2 --inner-steps 2 --repeats 3",
}
COMMAND = re.compile(r"!?(torchrun .*-m |python -m )?metarl ")
INSTALL = re.compile(r"pip install torch==[\d.]+ -e \.\[([\w,]+)\]")
FENCE = re.compile(r"(?:^<!-- ([\w.-]+) -->\n)?^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

OF_METHODS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/methods").glob("*.md")
)

RUN: dict[str, set[str]] = defaultdict(set)
"""The blocks that tests say they run, by page; filled while their files are imported."""
_read: list[tuple[str, str]] = []


class Fence(NamedTuple):
    """A code block, named by the marker ``<!-- NAME -->`` before it."""

    name: str | None
    language: str
    text: str


def fences(page: str) -> list[Fence]:
    """Return all blocks of a page such as ``docs/quickstart.md``."""
    return [Fence(*found.groups()) for found in FENCE.finditer((ROOT / page).read_text())]


def is_code(fence: Fence) -> bool:
    """Return whether a block must be run; Sphinx directives and command output are not.

    The directive ``{code-block}`` lists commands that take hours. They are only parsed.
    """
    is_output = fence.language == "text" and not COMMAND.search(fence.text)
    return not is_output and not re.fullmatch(r"\{[\w-]+\}( \w+)?", fence.language)


def block(page: str, name: str) -> str:
    """Return the code of one block."""
    _read.append((page, name))
    (text,) = (fence.text for fence in fences(page) if fence.name == name)
    return text


def spans(page: str) -> list[str]:
    """Return the inline code of a page, with line breaks replaced by spaces."""
    text = FENCE.sub("", (ROOT / page).read_text())
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands_of(page: str) -> list[str]:
    """Return the metarl commands in the blocks of a page, followed by those in its text."""
    blocks = [re.split(r"&&|\n", fence.text) for fence in fences(page)]
    lines = [line.strip() for lines in blocks for line in lines] + spans(page)
    return [line for line in lines if COMMAND.match(line)]


def runs(page: str, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the blocks that a test runs; the test fails unless it runs them in this order."""

    def declared(test: Callable[..., None]) -> Callable[..., None]:
        RUN[page] |= {*names}

        @wraps(test)
        def checked(*args: Any, **kwargs: Any) -> None:
            before = len(_read)
            test(*args, **kwargs)
            assert [name for read, name in _read[before:] if read == page] == [*names]

        return checked

    return declared


def run_in_small(commands: str, small: dict[str, str] | None = None) -> None:
    """Run the commands of a block with additional flags that reduce their size.

    Args:
        commands: Commands, one per line or joined by ``&&``.
        small: Flags to use instead of `SMALL`, with the same keys.
    """
    for command in re.split(r"&&|\n", commands):
        if words := shlex.split(command, comments=True):
            words = words[2:] if words[:2] == ["python", "-m"] else words
            PROGRAMS[words[0]](words, small or {})


def in_small(words: list[str], small: dict[str, str]) -> list[str]:
    """Return the words of a metarl command with the flags that reduce its size."""
    verb, *rest = words
    if verb not in ("train", *cli.VERBS):  # --help
        return words
    kind = rest[0] if verb == "train" else cli.VERBS[verb].load(rest)[0].__name__
    keys = (kind, verb)
    sizes = (size[key] for size in (small, SMALL) for key in keys if key in size)
    return [*words, *shlex.split(next(sizes, ""))]


def _metarl(words: list[str], small: dict[str, str]) -> None:
    metarl(*in_small(words[1:], small))


def _torchrun(words: list[str], small: dict[str, str]) -> None:
    """Start two processes instead of the number on the page."""
    at = words.index("-m")
    launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:at], "--nproc-per-node=2"]
    inside = in_small(words[at + 2 :], small)
    subprocess.run([*launcher, "-m", words[at + 1], *inside], check=True)


def _pip(words: list[str], small: dict[str, str]) -> None:
    """Check that the extras exist instead of installing them."""
    command = shlex.join(words).replace("'", "")
    if found := INSTALL.fullmatch(command):
        assert command.partition(" -e ")[0] in (ROOT / "README.md").read_text()
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert {*found[1].split(",")} <= {*extras["optional-dependencies"]}
    else:
        assert command.replace("install", "install -q") in (ROOT / ".ci/common.sh").read_text()


def _uv(words: list[str], small: dict[str, str]) -> None:
    _pip(words[1:], small)


def _tensorboard(words: list[str], small: dict[str, str]) -> None:
    """Check that the data exist instead of serving them."""
    assert words[1] == "--logdir"
    assert list(Path(words[2]).glob("events.*"))


def _pytest(words: list[str], small: dict[str, str]) -> None:
    """Collect the tests instead of running them."""
    files = [str(path) for word in words[1:] if "*" in word for path in sorted(ROOT.glob(word))]
    others = [word for word in words[1:] if "*" not in word]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files, *others]
    subprocess.run(command, check=True, cwd=ROOT)


PROGRAMS: dict[str, Callable[[list[str], dict[str, str]], None]] = {
    "metarl": _metarl,
    "torchrun": _torchrun,
    "pip": _pip,
    "uv": _uv,
    "tensorboard": _tensorboard,
    "pytest": _pytest,
}
