"""Repositories of the Hugging Face hub: ``hub:USER/NAME`` or ``hub:USER/NAME@REVISION``."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import metarl
from metarl.util import optional


SCHEME = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+")
CHECKPOINT = "checkpoints/" + "[0-9]" * 8
FILES = [
    "config.json", "metrics.jsonl", "README.md", f"{CHECKPOINT}.safetensors", f"{CHECKPOINT}.zip",
    "evaluations/*.json", "media/*.png", "media/*.gif", "media/*.mp4",
]  # fmt: skip
"""What is downloaded of a repository, and replaced when a run is pushed again."""
NEVER = ["*/*/*", "*..*"]  # in patterns, * stands for any letters, / among them


class Repository(NamedTuple):
    """A repository of the hub, at a branch, tag or commit; None is its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return what a user types for it."""
        return SCHEME + self.name + (f"@{self.revision}" if self.revision else "")


def place(text: str) -> Path | Repository:
    """Read where a run is: ``hub:USER/NAME[@REVISION]``, and everything else is a folder.

    Raises:
        ValueError: If a repository is named in another way.
    """
    if not text.startswith(SCHEME):
        return Path(text).expanduser()
    name, _, revision = text.removeprefix(SCHEME).partition("@")
    if not NAME.fullmatch(name):
        raise ValueError(f"a repository is hub:USER/NAME or hub:USER/NAME@REVISION, got {text}")
    return Repository(name, revision or None)


def require_token() -> None:
    """Make sure that there is a token to write with.

    Raises:
        OSError: If there is none.
    """
    if _client().get_token() is None:
        raise PermissionError(
            "the hub needs a token to write: type `hf auth login`, or set HF_TOKEN to one from "
            "https://huggingface.co/settings/tokens"
        )


def download(repository: Repository) -> Path:
    """Download the files of a run into the cache of the hub; return their folder there.

    Nothing in it may be changed. What the cache has is not downloaded again, and serves without a
    network.

    Raises:
        OSError: If it cannot be had; the message says what to do.
    """
    hub = _client()
    with _told(repository, "read"):
        return Path(
            hub.snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=FILES,
                ignore_patterns=NEVER,
                library_name="metarl",
                library_version=metarl.__version__,
            )
        )


def upload(folder: Path, repository: Repository, *, message: str, private: bool) -> str:
    """Make the repository unless it exists, and let it hold what is in a folder; return its page.

    Files of a run that was there before go, other files stay. The visibility of a repository that
    exists stays as it is.

    Raises:
        OSError: If the hub cannot be reached or refuses; the message says what to do.
    """
    hub = _client()
    api = hub.HfApi(library_name="metarl", library_version=metarl.__version__)
    with _told(repository, "written"):
        page = api.create_repo(repository.name, private=private or None, exist_ok=True)
        if repository.revision:
            api.create_branch(repository.name, branch=repository.revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository.name,
            revision=repository.revision,
            folder_path=folder,
            delete_patterns=FILES,
            commit_message=message,
        )
    return str(page)


def _client() -> Any:
    """Return ``huggingface_hub``, silent where nobody watches."""
    if not sys.stderr.isatty():
        _module("huggingface_hub.utils").disable_progress_bars()
    return _module("huggingface_hub")


def _module(name: str) -> Any:
    return optional.require(name, extra="hub", purpose="shared runs")


@contextlib.contextmanager
def _told(repository: Repository, done: str) -> Iterator[None]:
    """Turn what the hub and the network answer into one line."""
    errors = _module("huggingface_hub.errors")
    try:
        yield
    except (errors.HTTPError, OSError) as error:
        missing = isinstance(error, errors.RevisionNotFoundError)
        reason = "it has no such revision" if missing else _reason(error)
        raise OSError(f"{repository} cannot be {done}: {reason}") from None


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return (
            f"there is none of that name, or it is not yours to use (HTTP {status}); look at the "
            "name, and log in with `hf auth login` or HF_TOKEN"
        )
    if status is None:
        first = (str(error).splitlines() or [""])[0]
        return f"no answer from the hub ({first or type(error).__name__}); is there a network?"
    return f"the hub answered with HTTP {status}; try again later"
