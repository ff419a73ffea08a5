"""A stand-in for the Hub over real HTTP, for one user: repositories with git-like commits, and a store for large files.

It speaks what huggingface_hub's client speaks when it creates, looks, uploads (LFS: basic and in parts), commits and
downloads. `Faults` tells it what to do wrong. What it keeps is plain data, so a test can look at it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_ThisIsTheSecretOfTheTests"
READ_ONLY = "hf_ThisOneMayOnlyRead"
USER = "acme"
#: What the store's URLs are signed with; must never be shown.
SIGNATURE = "X-Amz-Signature=0123456789abcdef"
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    """A file of a commit: its bytes, or the digest and size under which the store has them."""

    data: bytes = b""
    sha256: str | None = None
    size: int = 0

    @property
    def oid(self) -> str:
        return git_blob(self.pointer if self.sha256 else self.data)

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


@dataclass
class Commit:
    oid: str
    parent: str | None
    message: str
    files: dict[str, Blob]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def head(self, branch: str = "main") -> Commit:
        return self.commits[self.branches[branch]]

    def add(self, branch: str, files: dict[str, Blob], message: str) -> Commit:
        parent = self.branches.get(branch)
        text = json.dumps([parent, message, sorted((name, blob.oid) for name, blob in files.items())])
        oid = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        commit = self.commits[oid] = Commit(oid, parent, message, files)
        self.branches[branch] = oid
        return commit


@dataclass
class Faults:
    """What goes wrong. Counts go down as they are used.

    Attributes:
        drop_after: transfers into the store are cut after so many bytes, `drops` times; of `drop_of` alone, if given.
        answers: [method, part of the path, status, body] each, given once, in the place of the right answer.
        lose: [part of the path]: done, but the connection is closed without an answer.
        before: called before a request is served, with method and path.
        store_wrong: a commit keeps other digests than it was told.
        damage: the store gives back other bytes than it got.
        no_lfs_room: the store refuses everything that is new.
    """

    drop_after: int = 0
    drops: int = 0
    drop_of: str = ""
    answers: list[tuple[str, str, int, str]] = field(default_factory=list)
    lose: list[str] = field(default_factory=list)
    before: Callable[[str, str], None] = lambda _method, _path: None
    store_wrong: bool = False
    damage: bool = False
    no_lfs_room: bool = False


@dataclass
class Hub:
    """Everything the server knows. `received`: bytes of bodies that came into the store, by sha256."""

    part_nbytes: int = 0
    large_nbytes: int = 4000
    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def create(self, name: str, *, private: bool = True) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.add("main", {".gitattributes": Blob(GITATTRIBUTES)}, "initial commit")
        return repository

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path in self.requests)


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


@contextmanager
def serving(**settings: Any) -> Iterator[Hub]:
    """A hub on a port of the loopback, until the end of the block."""
    hub = Hub(**settings)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other
    disable_nagle_algorithm = True
    hub: Hub

    _ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", "info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/auth-check/write", "may_write"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify", "verify"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/complete/(?P<oid>[0-9a-f]+)", "complete"),
        ("PUT", r"/store/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?", "put"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/(resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - names of http.server

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        hub, faults = self.hub, self.hub.faults
        hub.requests.append((self.command, path))
        faults.before(self.command, path)
        try:
            body = self._body(path)
            with hub.lock:
                planned = next((a for a in faults.answers if a[0] == self.command and a[1] in path), None)
                if planned is not None:
                    faults.answers.remove(planned)
                    raise _Refusal(planned[2], planned[3])
                for method, pattern, name in self._ROUTES:
                    match = re.fullmatch(pattern, path)
                    if method == self.command and match:
                        found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                        answer = getattr(self, f"_on_{name}")(body, **found)
                        break
                else:
                    raise _Refusal(404, "Not Found")
                lost = next((part for part in faults.lose if part in path), None)
                if lost is not None:
                    faults.lose.remove(lost)
                    raise ConnectionAbortedError
            self._answer(200, *answer)
        except _Refusal as refusal:
            extra = {"X-Error-Code": refusal.code} if refusal.code else {}
            error = json.dumps({"error": refusal.message}).encode()
            self._answer(refusal.status, error, {"X-Error-Message": refusal.message, **extra})
        except (ConnectionError, BrokenPipeError):
            self._hang_up()

    def _body(self, path: str) -> bytes:
        """The request's body. A transfer into the store may be cut here."""
        nbytes, faults = int(self.headers.get("Content-Length") or 0), self.hub.faults
        match = re.match(r"/store/([0-9a-f]{64})", path)
        if match and faults.drops > 0 and nbytes > faults.drop_after and faults.drop_of in ("", match[1]):
            faults.drops -= 1
            self.hub.received[match[1]] += len(self.rfile.read(faults.drop_after))
            raise ConnectionAbortedError
        body = self.rfile.read(nbytes)
        if len(body) != nbytes:
            raise ConnectionAbortedError
        if match:
            self.hub.received[match[1]] += nbytes
        return body

    def _answer(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    # -- who asks, and for what

    def _token(self) -> str | None:
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if kind and token not in (TOKEN, READ_ONLY):
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return token or None

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        token = self._token()
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and token is None):
            raise _Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        if write and token != TOKEN:
            raise _Refusal(403, "You need to provide a token with write access")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> Commit:
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository.commits[oid]

    # -- the answers

    def _on_whoami(self, _: bytes) -> tuple[bytes]:
        if self._token() is None:
            raise _Refusal(401, "Invalid username or password.")
        return (json.dumps({"type": "user", "name": USER, "orgs": []}).encode(),)

    def _on_create(self, body: bytes) -> tuple[bytes]:
        asked = json.loads(body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if self._token() != TOKEN or asked["organization"] not in (None, USER):
            raise _Refusal(403, f"You don't have the rights to create a model under {asked['organization']}")
        if name in self.hub.repositories:
            raise _Refusal(409, "You already created this model repo")
        self.hub.create(name, private=asked.get("visibility") == "private" or asked.get("private") is True)
        return (json.dumps({"url": f"{self.hub.endpoint}/{name}", "name": name}).encode(),)

    def _on_validate(self, body: bytes) -> tuple[bytes]:
        content = json.loads(body)["content"]
        named = re.search(r'^base_model: "?(.*?)"?$', content, re.MULTILINE)
        if named and not re.fullmatch(r"([\w.-]+/)?[\w.-]+", named[1]):
            raise _Refusal(400, f'"base_model" with value "{named[1]}" is not valid')
        return (b'{"errors": [], "warnings": []}',)

    def _on_info(self, _: bytes, repo: str, revision: str = "main") -> tuple[bytes]:
        repository = self._repository(repo)
        commit = self._commit_of(repository, revision)
        siblings = [{"rfilename": name} for name in sorted(commit.files)]
        info = {"id": repo, "sha": commit.oid, "private": repository.private, "siblings": siblings, "tags": []}
        return (json.dumps(info).encode(),)

    def _on_may_write(self, _: bytes, repo: str) -> tuple[bytes]:
        self._repository(repo, write=True)
        return (b"{}",)

    def _on_tree(self, _: bytes, repo: str, revision: str) -> tuple[bytes]:
        files = self._commit_of(self._repository(repo), revision).files
        return (json.dumps([self._entry(name, blob) for name, blob in sorted(files.items())]).encode(),)

    def _on_paths(self, body: bytes, repo: str, revision: str) -> tuple[bytes]:
        files, paths = self._commit_of(self._repository(repo), revision).files, json.loads(body)["paths"]
        return (json.dumps([self._entry(name, files[name]) for name in paths if name in files]).encode(),)

    def _entry(self, name: str, blob: Blob) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "oid": blob.oid, "size": blob.size or len(blob.data)}
        if blob.sha256:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        return entry

    def _on_branch(self, body: bytes, repo: str, revision: str) -> tuple[bytes]:
        repository = self._repository(repo, write=True)
        if revision in repository.branches:
            raise _Refusal(409, "Reference already exists")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[revision] = self._commit_of(repository, start).oid
        return (b"{}",)

    def _on_preupload(self, body: bytes, repo: str, revision: str) -> tuple[bytes]:
        asked = json.loads(body)
        commit = self._commit_of(self._repository(repo, write=True), revision)
        own = commit.files.get(".gitignore", Blob()).data.decode()
        ignored = [line.lstrip("*") for line in asked.get("gitIgnore", own).splitlines() if line.startswith("*")]
        files = []
        for file in asked["files"]:
            path, there = file["path"], commit.files.get(file["path"])
            large = path.endswith(".safetensors") or file["size"] >= self.hub.large_nbytes
            oid = (there.sha256 or there.oid) if there else None
            files.append({
                "path": path, "uploadMode": "lfs" if large else "regular", "oid": oid,
                "shouldIgnore": any(path.endswith(end) for end in ignored),
            })  # fmt: skip
        return (json.dumps({"files": files}).encode(),)

    def _on_batch(self, body: bytes, repo: str) -> tuple[bytes]:
        self._repository(repo, write=True)
        return (json.dumps({"objects": [self._action(repo, one) for one in json.loads(body)["objects"]]}).encode(),)

    def _action(self, repo: str, asked: dict[str, Any]) -> dict[str, Any]:
        oid, size, part = asked["oid"], asked["size"], self.hub.part_nbytes
        if oid in self.hub.store:
            return asked
        if self.hub.faults.no_lfs_room:
            return {**asked, "error": {"code": 403, "message": "Private repository storage limit reached"}}
        at = self.hub.endpoint
        verify = {"href": f"{at}/{repo}.git/info/lfs/verify"}
        upload: dict[str, Any] = {"href": f"{at}/store/{oid}?{SIGNATURE}"}
        if part and size > part:
            count = math.ceil(size / part)
            urls = {str(number): f"{at}/store/{oid}/{number}?{SIGNATURE}" for number in range(1, count + 1)}
            upload = {
                "href": f"{at}/{repo}.git/info/lfs/complete/{oid}?{SIGNATURE}",
                "header": {"chunk_size": str(part), **urls},
            }
        return {**asked, "actions": {"upload": upload, "verify": verify}}

    def _on_put(self, body: bytes, oid: str, part: str | None = None) -> tuple[bytes, dict[str, str]]:
        if part is None:
            self._keep(oid, body)
        else:
            self.hub.parts[oid, int(part)] = body
        return b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def _on_complete(self, body: bytes, repo: str, oid: str) -> tuple[bytes]:
        """The client sends no token here: the URL is signed, as those of the parts."""
        parts = [self.hub.parts.pop((oid, part["partNumber"])) for part in json.loads(body)["parts"]]
        self._keep(oid, b"".join(parts))
        return (b"{}",)

    def _keep(self, oid: str, data: bytes) -> None:
        """The real store does not say whether it hashes what it gets; this one does."""
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refusal(400, "the content is not that of the digest")
        self.hub.store[oid] = bytes([data[0] ^ 1]) + data[1:] if self.hub.faults.damage else data

    def _on_verify(self, body: bytes, repo: str) -> tuple[bytes]:
        asked = json.loads(body)
        if len(self.hub.store.get(asked["oid"], b"")) != asked["size"]:
            raise _Refusal(404, "no such object")
        return (b"{}",)

    def _on_commit(self, body: bytes, repo: str, revision: str) -> tuple[bytes]:
        repository = self._repository(repo, write=True)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if revision not in repository.branches:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if header.get("parentCommit") not in (None, repository.branches[revision]):
            raise _Refusal(412, "The branch was updated since the parent commit")
        files = dict(repository.head(revision).files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise _Refusal(400, f"the store has no {value['oid']}")
                oid = "f" * 64 if self.hub.faults.store_wrong else value["oid"]
                files[value["path"]] = Blob(b"", oid, value["size"])
            elif files.pop(value["path"], None) is None:
                raise _Refusal(400, "A file with this name doesn't exist")
        commit = repository.add(revision, files, header["summary"])
        url = f"{self.hub.endpoint}/{repo}/commit/{commit.oid}"
        return (json.dumps({"commitUrl": url, "commitOid": commit.oid}).encode(),)

    def _on_resolve(self, _: bytes, repo: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        commit = self._commit_of(self._repository(repo), revision)
        blob = commit.files.get(path)
        if blob is None:
            raise _Refusal(404, "Entry not found", "EntryNotFound")
        data = self.hub.store[blob.sha256] if blob.sha256 else blob.data
        headers = {
            "X-Repo-Commit": commit.oid, "ETag": f'"{blob.sha256 or blob.oid}"', "X-Linked-Size": str(len(data)),
            "Content-Type": "application/octet-stream",
        }  # fmt: skip
        return data, headers
