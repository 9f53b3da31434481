"""A hub of models on loopback: it speaks the paths that huggingface_hub asks for, counts what it gave, and takes uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"^/api/(?:models|datasets)/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?$")
_TREE = re.compile(r"^/api/(?:models|datasets)/([\w.-]+/[\w.-]+)/tree/([^/]+)/?$")
_FILE = re.compile(r"^/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)$")
_UPLOAD = re.compile(r"^/api/models/([\w.-]+/[\w.-]+)/(preupload|commit|branch)/(.+)$")
_LFS = re.compile(r"^/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch$")
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


class Hub:
    """Repositories of folders, served until the block of ``with`` ends.

    Attributes:
        url: where.
        served: file of a repository -> bytes of it that were sent.
        asked: requests, of whatever.
        breaks: files that are cut off after so many bytes.
        token: that may write; others may not.
        forbidden: owners in whose name it may not.
        private: repository that an upload made -> whether it is private.
        stored: sha256 of a large file -> its bytes.
        sent: paths of what was asked to be written, in order.
    """

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.asked = 0
        self.breaks: dict[str, int] = {}
        self.token, self.forbidden = "hf_writes", {"others"}
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}
        self.sent: list[str] = []
        self._uploads = Path(tempfile.mkdtemp(prefix="evomerge-hub-"))
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
        shutil.rmtree(self._uploads, ignore_errors=True)

    def push(self, repository: str, folder: Path, *refs: str) -> str:
        """A commit with the files of ``folder``, to which ``refs``, by default ``main``, point from now on."""
        commits = self._commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = folder
        self._refs.setdefault(repository, {}).update(dict.fromkeys(refs or ("main",), commit))
        return commit

    def create(self, repository: str, private: bool) -> None:
        """A repository of no file."""
        self.private[repository] = private
        (empty := self._uploads / repository / "0").mkdir(parents=True)
        self.push(repository, empty)

    def branch(self, repository: str, name: str) -> None:
        """A branch that begins as ``main`` is; LookupError if it is there."""
        refs = self._refs[repository]
        if name in refs:
            raise LookupError(name)
        refs[name] = refs["main"]

    def take(self, repository: str, branch: str, files: dict[str, bytes]) -> str:
        """A commit that puts ``files`` beside those of a branch."""
        found = self.commit(repository, branch)
        assert found is not None
        folder = self._uploads / repository / str(len(self._commits[repository]))
        shutil.copytree(found[1], folder)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return self.push(repository, folder, branch)

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
        self._json(
            {
                "id": repository,
                "sha": commit,
                "private": self.hub.private.get(repository, False),
                "siblings": siblings,
            }
        )

    def do_PUT(self) -> None:
        content = self._sent()
        if hashlib.sha256(content).hexdigest() != self.path.rpartition("/")[2]:
            return self._refuse("BadContent", status=400)
        self.hub.stored[self.path.rpartition("/")[2]] = content
        self._json({})

    def _sent(self) -> bytes:
        """The body of a request, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.sent.append(path)
        said = self._sent()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse("Unauthorized", status=401)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(said)
            repository = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] in self.hub.forbidden:
                return self._refuse("Forbidden", status=403)
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.create(repository, private)
            return self._json({"url": f"{self.hub.url}/{repository}"})
        if match := _LFS.match(path):
            return self._json(
                {
                    "transfer": "basic",
                    "objects": [self._lfs(o) for o in json.loads(said)["objects"]],
                }
            )
        if (match := _UPLOAD.match(path)) and self.hub.knows(match[1]):
            repository, what, branch = match.groups()
            if what == "branch":
                try:
                    self.hub.branch(repository, branch)
                except LookupError:
                    return self._refuse("Conflict", status=409)
                return self._json({})
            if self.hub.commit(repository, branch) is None:
                return self._refuse("RevisionNotFound")
            if what == "preupload":
                return self._json({"files": [_mode(each) for each in json.loads(said)["files"]]})
            return self._commit(
                repository, branch, [json.loads(line) for line in said.splitlines()]
            )
        self._refuse("RepoNotFound")

    def _lfs(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where a large file goes; nowhere if it is there."""
        if wanted["oid"] in self.hub.stored:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, repository: str, branch: str, operations: list[dict[str, Any]]) -> None:
        files = {}
        for each in operations:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = self.hub.take(repository, branch, files)
        url = f"{self.hub.url}/{repository}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

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

    def _refuse(self, code: str, commit: str = "", status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} here")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(".safetensors")
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
