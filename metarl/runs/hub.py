"""Downloads from and uploads to the Hugging Face hub."""

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
"""Patterns for the files that :func:`download` reads and that :func:`upload` replaces."""
NEVER = ["*/*/*", "*..*"]  # in these patterns, * also matches /
LIBRARY = {"library_name": "metarl", "library_version": metarl.__version__}
LOGIN = "check the name and the revision, and log in with `hf auth login` or HF_TOKEN"
ADVICE = {None: "check the network connection", 401: LOGIN, 403: LOGIN, 404: LOGIN}
"""Next steps by HTTP status of the error; None means that there was no response."""


class Repository(NamedTuple):
    """A repository of the Hugging Face hub.

    Attributes:
        name: Name of the repository, ``USER/NAME``.
        revision: Branch, tag or commit; None selects the main branch.

    Example::

        str(Repository("ada/quick", "v1"))  # "hub:ada/quick@v1"
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the address ``hub:USER/NAME[@REVISION]``, which :func:`place` parses."""
        return f"hub:{self.name}" + (f"@{self.revision}" if self.revision else "")


def place(text: str) -> Path | Repository:
    """Parse the address of a run.

    Args:
        text: ``hub:USER/NAME``, ``hub:USER/NAME@REVISION``, or a folder.

    Returns:
        The path of the folder, or the repository.

    Raises:
        ValueError: If the text starts with ``hub:`` but is not the address of a repository.
    """
    if not text.startswith("hub:"):
        return Path(text).expanduser()
    name, _, revision = text.removeprefix("hub:").partition("@")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{text} is not the address of a repository: expected hub:USER/NAME or "
            "hub:USER/NAME@REVISION. Check the user and the name"
        )
    return Repository(name, revision or None)


def require_token() -> None:
    """Check that a Hugging Face access token is available, which uploads require.

    Raises:
        PermissionError: If there is no access token.
        ImportError: If ``huggingface_hub`` is not installed.
    """
    if _client().get_token() is None:
        raise PermissionError(
            "uploads require an access token: run `hf auth login` or set HF_TOKEN to a token from "
            "https://huggingface.co/settings/tokens"
        )


def download(repository: Repository) -> Path:
    """Download the files of a run to the cache of ``huggingface_hub``.

    Files in the cache are not downloaded again and are available without a network.

    Args:
        repository: The repository.

    Returns:
        The folder in the cache, which is shared with other programs and must not be modified.

    Raises:
        OSError: If the download fails; the message contains the next step.
    """
    hub = _client()
    with _as_os_error(repository, "read"):
        folder = hub.snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=FILES,
            ignore_patterns=NEVER,
            **LIBRARY,
        )
    return Path(folder)


def upload(folder: Path, repository: Repository, *, message: str, private: bool) -> str:
    """Upload a run folder to the hub and create the repository if it does not exist.

    Files of a previous run in the repository are deleted; other files are kept.

    Args:
        folder: The run folder.
        repository: The repository. The revision must be a branch, which is created if necessary.
        message: Commit message.
        private: Whether to create a new repository as private; an existing
            repository keeps its visibility.

    Returns:
        The URL of the repository.

    Raises:
        OSError: If the upload fails; the message contains the next step.
    """
    api = _client().HfApi(**LIBRARY)
    with _as_os_error(repository, "written"):
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
    """Import and return ``huggingface_hub``, or a submodule such as ``".utils"``.

    Progress bars are disabled if stderr is not a terminal.
    """
    found = optional.require(f"huggingface_hub{module}", extra="hub", purpose="shared runs")
    if not module and not sys.stderr.isatty():
        _client(".utils").disable_progress_bars()
    return found


@contextmanager
def _as_os_error(repository: Repository, action: str) -> Iterator[None]:
    """Convert errors from the hub and the network to an OSError with a one-line message.

    Args:
        repository: Repository named in the message.
        action: Past participle for the message: ``"read"`` or ``"written"``.
    """
    try:
        yield
    except (_client(".errors").HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = f"HTTP {status}" if status else " ".join(f"no response, {error}".split())
        advice = ADVICE.get(status, "try again later")
        raise OSError(f"{repository} cannot be {action} ({answer}): {advice}") from None
