"""A local Hugging Face hub that answers the real client and records its requests."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


TOKEN = "hf_tested"


class Hub(ThreadingHTTPServer):
    """A hub server; a repository is a list of commits, each with its files by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, dict[str, str]] = {}
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.fails: int | None = None

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(name, {})[sha] = files
        self.heads.setdefault(name, {})[branch] = sha
        return sha

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        return self.commits[name][self.heads[name].get(revision, revision)]

    def share(self, name: str, folder: Path) -> str:
        """Upload a folder to a repository, as with other tools."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes()
                 for p in folder.rglob("*") if p.is_file()}  # fmt: skip
        return self.commit(name, files)


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Connect the client to a local hub, with a separate cache in `folder`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = Hub()
    Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    route = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # independent of other tests
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", route)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *words: Any) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.fails:
            return self._send(self.server.fails, {"error": "no"})
        for pattern, answer in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return answer(self, body, *match.groups())
        return self._send(404, {"error": f"no route {path}"})

    def _send(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        status = 409 if name in self.server.heads else 200
        self.server.created.append(asked)
        if status == 200:
            self.server.commit(name, {".gitattributes": b""})
        return self._send(status, {"url": f"{self.server.url}/{name}"})

    def _valid(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self._send(200, {"errors": [], "warnings": []})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        del body
        self.server.heads[name].setdefault(branch, self.server.heads[name]["main"])
        self._send(200, {})

    def _preupload(self, body: bytes, name: str, branch: str) -> None:
        del name, branch
        asked = json.loads(body)["files"]
        told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
        self._send(200, {"files": told})

    def _commit(self, body: bytes, name: str, branch: str) -> None:
        files = dict(self.server.files(name, branch))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.commit(name, files, branch)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._send(200, {"commitOid": sha, "commitUrl": url})

    def _info(self, body: bytes, name: str, revision: str | None = None) -> None:
        del body
        heads = self.server.heads.get(name)
        if heads is None:
            return self._send(404, {"error": "none"}, X_Error_Code="RepoNotFound")
        sha = heads.get(revision or "main", revision)
        if sha not in self.server.commits[name]:
            return self._send(404, {"error": "none"}, X_Error_Code="RevisionNotFound")
        return self._send(200, {"id": name, "sha": sha})

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        del body
        files = self.server.files(name, revision)
        about = [{"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                 for path, data in files.items()]  # fmt: skip
        self._send(200, about)

    def _resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        del body
        files = self.server.files(name, revision)
        data = files[path]
        self._send(200, data, ETag=f'"{_etag(data)}"', X_Repo_Commit=revision)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


REPOSITORY = r"([\w.-]+/[\w.-]+)"
ROUTES: dict[str, Any] = {
    "/api/repos/create": _Handler._create,
    "/api/validate-yaml": _Handler._valid,
    f"/api/models/{REPOSITORY}/branch/([^/]+)": _Handler._branch,
    f"/api/models/{REPOSITORY}/preupload/([^/]+)": _Handler._preupload,
    f"/api/models/{REPOSITORY}/commit/([^/]+)": _Handler._commit,
    f"/api/models/{REPOSITORY}": _Handler._info,
    f"/api/models/{REPOSITORY}/revision/([^/]+)": _Handler._info,
    f"/api/models/{REPOSITORY}/tree/([^/]+)": _Handler._tree,
    f"/{REPOSITORY}/resolve/([^/]+)/(.+)": _Handler._resolve,
}
