"""Errors for environments that cannot be created, with the next step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gymnasium.error import UnregisteredEnv

from metarl.envs import ENVIRONMENTS, META_WORLD
from metarl.util import closest


@contextmanager
def creation_errors(env: str) -> Iterator[None]:
    """Add advice to the errors of a block that creates an environment.

    Args:
        env: Gymnasium ID of the environment.

    Raises:
        ModuleNotFoundError: If the module of the environment is not installed.
        ValueError: If the environment does not exist.

    Example::

        with creation_errors("metarl/Navigation2D"):  # ValueError: did you mean ...-v0?
            gymnasium.make("metarl/Navigation2D")
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_missing_module(env, error)) from None
    except UnregisteredEnv as error:
        close = closest_environment(env)
        hint = f"did you mean {close}?" if close else error
        own = "" if close or ":" in env else "; an environment that FILE.py registers is FILE:ID"
        raise ValueError(
            f"unknown environment `env`={env}: {hint} (run `metarl envs` to list all "
            f"environments{own})"
        ) from None


def closest_environment(env: str) -> str | None:
    """Return the ID of an environment of metarl that is similar to `env`, or None."""
    ours = [row.id for row in ENVIRONMENTS] + [f"metarl/{name}" for name in META_WORLD]
    return closest(env if "/" in env else f"metarl/{env}", ours, cutoff=0.8)


def _missing_module(env: str, error: ModuleNotFoundError) -> str:
    """Return an error message with advice if the environment `env` requires a missing module.

    Args:
        env: Gymnasium ID of the environment, such as ``module:Name-v0``.
        error: The error that was raised when the environment was created.
    """
    cause = str(error).partition(". Environment registration")[0]  # by Gymnasium
    chained = error.__cause__ or error.__context__
    missing = error.name or getattr(chained, "name", None) or ""
    return f"{cause}. {_advice(env, env.rpartition(':')[0], missing)}"


def _advice(env: str, module: str, missing: str) -> str:
    """Return what to do if the module `missing` was not found on importing `module`."""
    if missing and missing != module and not module.startswith(f"{missing}."):
        return f"{module or env} imports {missing}: install it, or correct the import"
    first = Path(module.partition(".")[0])
    if first.with_suffix(".py").is_file() or first.is_dir():
        return f"{module} is in the current folder: use `python -m metarl` instead of `metarl`"
    return f"The simulator requires {module}: install it, or add its folder to PYTHONPATH"
