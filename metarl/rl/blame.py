"""Environments that fail or break a promise: one line that names them, from whatever process."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium import logger, spaces


SHOWN = 300  # characters of what an environment said
STEP = "(observation, reward, terminated, truncated, info)"
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
PATIENCE = 10.0  # seconds until the system knows of a process that has just died


class EnvironmentFailed(RuntimeError):
    """An environment failed: the message names it, and the method."""


class _Broken(Exception):
    """A promise that was not kept."""


@contextmanager
def blame(name: str, method: str, *clear: type[Exception]) -> Iterator[None]:
    """Say which environment failed, and where: its own message may be as short as ``KeyError``.

    Args:
        name: Id of the environment.
        method: What was called.
        clear: Errors that are passed on, since their messages say it all; so is a ValueError that
            begins with the name.

    Raises:
        EnvironmentFailed: If it did.
    """
    passed: tuple[type[Exception], ...] = (EnvironmentFailed, *clear)
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{name} "):
            raise  # it says which environment itself
        kind = "" if isinstance(error, _Broken) else f"{type(error).__name__}: "
        said = f"{kind}{error}".strip(": ")
        # To contextlib a RuntimeError with this cause is the StopIteration itself (PEP 479).
        cause = None if isinstance(error, StopIteration) else error
        raise EnvironmentFailed(f"{name} failed in {method}: {brief(said)}") from cause


@contextmanager
def blame_rows(env: Any, name: str, method: str, *clear: type[Exception]) -> Iterator[None]:
    """Do as :func:`blame` for a vector environment, and end its processes if it has any.

    After a failure they cannot be used again, and whoever waits for a dead one waits forever.
    """
    processes = getattr(env, "processes", [])
    level = logger.min_level
    try:
        if processes:  # or Gymnasium would print the trace of the worker, and stumble over a %
            logger.min_level = logger.ERROR + 1
        with blame(name, method, *clear):
            yield
    except Exception as error:
        died = _deaths(processes) if isinstance(error.__cause__, EOFError | OSError) else ""
        for process in processes:
            process.kill()
            process.join()
        if processes:
            env.closed = True
        if not died:
            raise
        raise EnvironmentFailed(
            f"{name} failed in {method}: {died}; --vectorization sync runs it in this process"
        ) from error
    finally:
        logger.min_level = level


def _deaths(processes: list[Any]) -> str:
    """Say which processes have died, and how."""
    ended = wait([process.sentinel for process in processes], timeout=PATIENCE)
    for process in processes:
        if process.sentinel in ended:  # files are closed a moment before there is an exit code
            process.join(PATIENCE)
    codes = {index: process.exitcode for index, process in enumerate(processes)}
    died = {index: code for index, code in codes.items() if code is not None}
    if not died:
        return ""
    index, code = next(iter(died.items()))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return f"process {index} of {len(processes)} {how}"


def brief(value: Any) -> str:
    """Write a value in one line that is not too long."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes sure, where an environment runs, that it keeps what Gymnasium promises of it.

    What is not looked at here surfaces where it is hard to understand: in a buffer that is shared
    with another process, or as a loss that is not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap `env`; the observation space that it has now is the one that counts."""
        super().__init__(env)
        self._space = env.observation_space
        self._name = getattr(env.spec, "id", type(env.unwrapped).__name__)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        with blame(self._name, "reset"):
            returned: Any = self.env.reset(**kwargs)
            _require(_is_tuple(returned, 2), "it must return (observation, info)", returned)
            seen, info = returned
            _require(isinstance(info, dict), "the info must be a dictionary", info)
            self._look(seen, 0.0)
        return seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance the episode."""
        with blame(self._name, "step"):
            returned: Any = self.env.step(action)
            _require(_is_tuple(returned, 5), f"it must return {STEP}", returned)
            seen, reward, terminated, truncated, info = returned
            _require(_is_number(reward), "the reward must be a number", reward)
            finite = math.isfinite(reward) or _wild(action)
            _require(finite, "the reward must be finite", reward)
            for flag in (terminated, truncated):
                _require(_is_number(flag), "terminated and truncated must be booleans", flag)
            _require(isinstance(info, dict), "the info must be a dictionary", info)
            self._look(seen, action)
        return seen, float(reward), bool(terminated), bool(truncated), info

    def _look(self, seen: Any, action: Any) -> None:
        space = self._space
        if not isinstance(space, spaces.Box):
            return
        values = np.asarray(seen)
        kind = values.dtype
        fits = values.shape == space.shape and (
            kind == space.dtype or np.can_cast(kind, space.dtype, "same_kind")
        )
        if not fits:
            got = seen if kind.kind == "O" else f"{kind} of shape {values.shape}"
            _require(fits, f"observations must be {space.dtype} of shape {space.shape}", got)
        finite = np.isfinite(values).all() or _wild(action)
        _require(finite, "observations must be finite", values)


def _wild(action: Any) -> bool:
    """Say whether an action is not finite: then nothing is the environment's fault."""
    return not np.isfinite(action).all()


def _is_tuple(returned: Any, length: int) -> bool:
    return isinstance(returned, tuple) and len(returned) == length


def _is_number(value: Any) -> bool:
    if isinstance(value, NUMBERS):
        return True
    array = np.asarray(value)  # of no dimensions, or a tensor
    return array.ndim == 0 and array.dtype.kind in "biuf"


def _require(kept: Any, promise: str, got: Any) -> None:
    if not kept:
        raise _Broken(f"{promise}, got {brief(got)}")
