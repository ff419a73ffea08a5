"""A stand-in for the Hugging Face Hub on the loopback: enough of its HTTP interface for `snapshot_download`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


def _handler(repositories: dict[str, Path], asked: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            asked.append(self.path)
            path = self.path.split("?")[0].strip("/")
            for name, directory in repositories.items():
                if path.startswith(f"api/models/{name}"):
                    self._json(self._info(name, directory, path), body)
                    return
                if path.startswith(f"{name}/resolve/"):
                    file = directory / path.removeprefix(f"{name}/resolve/").split("/", 1)[1]
                    if file.is_file():
                        self._file(file, body)
                        return
            self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"}, body)

        def _info(self, name: str, directory: Path, path: str) -> object:
            files = sorted(file for file in directory.iterdir() if file.is_file())
            if "/tree/" in path:
                return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _sha1(f)} for f in files]
            siblings = [{"rfilename": file.name} for file in files]
            return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}

        def _json(self, value: object, body: bool) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

        def _file(self, file: Path, body: bool) -> None:
            data = file.read_bytes()
            self._send(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


def _sha1(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve directories as repositories; gives the endpoint, and the list of paths asked for so far."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories, asked))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
