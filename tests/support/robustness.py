"""Helpers of test_robust_*.py: commands must succeed or give a clear one-line error.

``pytest tests/*/test_robust_*.py`` tests a fixed sample of cases. ``--hypothesis-profile thorough``
tests 60 times as many, more than 10,000 in total; see docs/robustness.md.
"""

import contextlib
import io
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, currently_in_test_context, event, settings
from hypothesis import strategies as st

from metarl.commands import cli


SECONDS = 300  # maximum duration of a case; longer is a hang, even on a busy machine
LONGEST = 2000  # maximum characters of a message
VAGUE = {"", "None", "KeyError", "IndexError", "AssertionError"}


class Hang(BaseException):
    """Error if a case does not end; no handler of the package catches it."""


class Outcome(NamedTuple):
    """The outcome of a command.

    Attributes:
        code: Exit code.
        message: Error without ``metarl: error: ``; ``""`` if there was none.
        out: Standard output.
        warned: Warnings.
    """

    code: int
    message: str
    out: str
    warned: list[str]


def cases(share: float) -> Callable[[Any], Any]:
    """Use a fraction of the profile's examples; the fractions of all properties sum to about 4."""
    return settings(
        max_examples=max(1, round(settings.default.max_examples * share)),
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Context that fails if its block does not end in time.

    Raises:
        AssertionError: If the block does not end in time.
    """

    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Hang:
        raise AssertionError(f"it did not end within {seconds} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clear(error: BaseException | str) -> str:
    """Return the message of an error and check that it is clear and actionable."""
    text = str(error)
    assert text not in VAGUE, f"{error!r} says nothing"
    assert len(text.strip().splitlines()) == 1, text
    assert len(text) <= LONGEST, text
    return text


def end_of(*words: Any) -> Outcome:
    """Run a command line; it must succeed, or exit with 1 or 2 and a clear one-line error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        in_time(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # warnings of other packages about unusual numbers
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code
    lines = err.getvalue().strip().splitlines()
    warned = [line for line in lines if line.startswith("metarl: warning: ")]
    (*_, error) = ["", *(line for line in lines if line not in warned)]
    assert code in (0, 1, 2), words
    assert len(lines) - len(warned) == (code != 0), f"{words}: {lines}"
    if code:
        assert error.startswith("metarl: error: "), error
        clear(error.removeprefix("metarl: error: "))
    if currently_in_test_context():
        event(f"{words[0]} exits with {code}")
    return Outcome(code, error.removeprefix("metarl: error: "), out.getvalue(), warned)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder except for the lock and evaluations."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    files = (path for path in files if path.parent.name != "evaluations")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def copied(run: Path, *parts: str) -> Path:
    """Copy a run into a sibling folder, replace an earlier copy, and return a path in the copy."""
    copy = run.with_name(f"{run.name} copied")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    return copy.joinpath(*parts)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=4)
    | st.sampled_from([2**70, -(2**70), "auto", "nan", "../..", "\N{SNOWMAN}", "\0"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
"""Values that JSON can hold, and Python's JSON can: NaN too."""


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Truncate bytes, flip bits or insert other bytes."""
    start = draw(st.integers(0, len(whole) - 1))
    match draw(st.sampled_from(["truncate", "flip", "insert", "cut"])):
        case "truncate":
            return whole[:start]
        case "flip":
            bit = draw(st.integers(0, 7))
            return whole[:start] + bytes([whole[start] ^ 1 << bit]) + whole[start + 1 :]
        case "insert":
            return whole[:start] + draw(st.binary(max_size=6)) + whole[start:]
        case _:
            return whole[:start] + whole[draw(st.integers(start, len(whole))) :]
