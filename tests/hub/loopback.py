"""A hub of models on loopback: it speaks the paths that huggingface_hub asks for, and counts what it gave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"^/api/models/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?$")
_TREE = re.compile(r"^/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)$")
_FILE = re.compile(r"^/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)$")
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


class Hub:
    """Repositories of folders, served until the block of ``with`` ends.

    Attributes:
        url: where.
        served: file of a repository -> bytes of it that were sent.
        asked: requests, of whatever.
        breaks: files that are cut off after so many bytes.
    """

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.asked = 0
        self.breaks: dict[str, int] = {}
        self._commits: dict[str, dict[str, Path]] = {}  # repository -> commit -> folder
        self._refs: dict[str, dict[str, str]] = {}  # repository -> branch or tag -> commit
        handler = type("Bound", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def push(self, repository: str, folder: Path, *refs: str) -> str:
        """A commit with the files of ``folder``, to which ``refs``, by default ``main``, point from now on."""
        commits = self._commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = folder
        self._refs.setdefault(repository, {}).update(dict.fromkeys(refs or ("main",), commit))
        return commit

    def bytes_of(self, repository: str, ending: str = ".safetensors") -> int:
        """Bytes that were sent of a repository's files of that ending."""
        return sum(
            size
            for file, size in self.served.items()
            if file.startswith(f"{repository}/") and file.endswith(ending)
        )

    def commit(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """The commit that a revision is, and its folder."""
        commit = self._refs.get(repository, {}).get(revision, revision)
        folder = self._commits.get(repository, {}).get(commit)
        return (commit, folder) if folder else None

    def knows(self, repository: str) -> bool:
        return repository in self._commits


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        self.hub.asked += 1
        path = unquote(urlsplit(self.path).path)
        if match := _FILE.match(path):
            repository, revision, name = match.groups()
        elif match := _INFO.match(path) or _TREE.match(path):
            repository, revision, name = match[1], match[2] or "main", ""
        else:
            return self._refuse("EntryNotFound")
        if not self.hub.knows(repository):
            return self._refuse("RepoNotFound")
        found = self.hub.commit(repository, revision)
        if found is None:
            return self._refuse("RevisionNotFound")
        commit, folder = found
        if name:
            return self._file(f"{repository}/{name}", folder / name, commit, send)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if _TREE.match(path):
            sizes = [file.stat().st_size for file in files]
            return self._json(
                [
                    {"type": "file", "path": each, "size": size, "oid": _etag(folder / each)}
                    for each, size in zip(names, sizes, strict=True)
                ]
            )
        siblings = [{"rfilename": each} for each in names]
        self._json({"id": repository, "sha": commit, "private": False, "siblings": siblings})

    def _file(self, known: str, file: Path, commit: str, send: bool) -> None:
        if not file.is_file():
            return self._refuse("EntryNotFound", commit)
        content = file.read_bytes()
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, size, asked = 200, len(content), _RANGE.match(self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
            content = content[start : end + 1]
            status, headers["Content-Range"] = 206, f"bytes {start}-{end}/{size}"
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if send:
            if len(content) > self.hub.breaks.get(known, size):
                content = content[: self.hub.breaks[known]]
                self.close_connection = True
            self.hub.served[known] += len(content)
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, code: str, commit: str = "") -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} here")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
