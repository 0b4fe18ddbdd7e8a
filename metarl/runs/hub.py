"""Repositories of the Hugging Face hub: ``hub:USER/NAME`` or ``hub:USER/NAME@REVISION``."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import metarl
from metarl.util import optional


NAME = re.compile(r"[\w.-]+/[\w.-]+")
CHECKPOINT = "checkpoints/" + "[0-9]" * 8
FILES = [
    "config.json", "metrics.jsonl", "README.md", f"{CHECKPOINT}.safetensors", f"{CHECKPOINT}.zip",
    "evaluations/*.json", "media/*.png", "media/*.gif", "media/*.mp4",
]  # fmt: skip
"""Files that are downloaded from a repository, and replaced when a run is pushed again."""
NEVER = ["*/*/*", "*..*"]  # in these patterns, * also matches /
LIBRARY = {"library_name": "metarl", "library_version": metarl.__version__}
LOGIN = "look at its name and revision, and log in with `hf auth login` or HF_TOKEN"
ADVICE = {None: "is there a network?", 401: LOGIN, 403: LOGIN, 404: LOGIN}
"""What to do by the HTTP status of an error; None is no answer."""


class Repository(NamedTuple):
    """A repository of the hub, at a branch, tag or commit; None is its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the text that :func:`place` reads."""
        return f"hub:{self.name}" + (f"@{self.revision}" if self.revision else "")


def place(text: str) -> Path | Repository:
    """Read where a run is.

    Args:
        text: ``hub:USER/NAME``, ``hub:USER/NAME@REVISION``, or a folder.

    Raises:
        ValueError: If it names a repository in a different way.
    """
    if not text.startswith("hub:"):
        return Path(text).expanduser()
    name, _, revision = text.removeprefix("hub:").partition("@")
    if not NAME.fullmatch(name):
        raise ValueError(f"a repository is hub:USER/NAME or hub:USER/NAME@REVISION, got {text}")
    return Repository(name, revision or None)


def require_token() -> None:
    """Require a token to write with.

    Raises:
        PermissionError: If there is none.
        ImportError: If ``huggingface_hub`` is not installed.
    """
    if _client().get_token() is None:
        raise PermissionError(
            "the hub needs a token to write: run `hf auth login`, or set HF_TOKEN to one from "
            "https://huggingface.co/settings/tokens"
        )


def download(repository: Repository) -> Path:
    """Download the files of a run into the cache of the hub.

    Files that are in the cache are not downloaded again, and need no network.

    Returns:
        Their folder in the cache, in which nothing may be changed.

    Raises:
        OSError: If it cannot be downloaded; the message says what to do.
    """
    hub = _client()
    with _explained(repository, "read"):
        folder = hub.snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=FILES,
            ignore_patterns=NEVER,
            **LIBRARY,
        )
    return Path(folder)


def upload(folder: Path, repository: Repository, *, message: str, private: bool) -> str:
    """Make the repository unless it exists, and upload a folder; return its page.

    Files of a run that was there before are deleted, other files stay.

    Args:
        folder: The files.
        repository: Where to; its revision is a branch, which is made unless it exists.
        message: Message of the commit.
        private: Visibility of a repository that is made; that of an existing one stays.

    Raises:
        OSError: If the hub cannot be reached or refuses; the message says what to do.
    """
    api = _client().HfApi(**LIBRARY)
    with _explained(repository, "written"):
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


def _client(module: str = "") -> Any:
    """Return ``huggingface_hub`` or a module of it; a stderr that is no terminal gets no bars."""
    found = optional.require(f"huggingface_hub{module}", extra="hub", purpose="shared runs")
    if not module and not sys.stderr.isatty():
        _client(".utils").disable_progress_bars()
    return found


@contextmanager
def _explained(repository: Repository, action: str) -> Iterator[None]:
    """Turn errors of the hub and the network into one line."""
    try:
        yield
    except (_client(".errors").HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = f"HTTP {status}" if status else " ".join(f"no answer, {error}".split())
        advice = ADVICE.get(status, "try again later")
        raise OSError(f"{repository} cannot be {action} ({answer}): {advice}") from None
