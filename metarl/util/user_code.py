"""Errors in code of the user, such as an environment."""

import sys
from pathlib import Path
from traceback import walk_tb


LIBRARIES = {*sys.stdlib_module_names, "metarl", "gymnasium", "numpy", "torch", "mujoco"}


class EnvironmentFailed(RuntimeError):
    """Error raised inside an environment; the message names the environment and the method."""

    in_user_code = True


def origin(error: BaseException) -> str:
    """Return the innermost line of the user's code that an error passed, as `` (FILE:LINE)``.

    The result is empty if the traceback contains no such line, for example for the errors of worker
    processes.

    Args:
        error: The error, after it was raised.

    Example::

        try:
            assert False
        except AssertionError as error:
            origin(error)  # such as " (own.py:2)"
    """
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in LIBRARIES
    ]
    if not places:
        return ""
    file, line = places[-1]
    return f" ({_shortest(file)}:{line})"


def _shortest(file: str) -> str:
    """Return the path of a file relative to the current folder if the file is in this folder."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
