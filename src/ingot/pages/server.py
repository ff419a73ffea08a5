"""The HTTP server: on this machine only, for whoever calls it by this machine's name, to look and not to change.

Any page on the web may make a browser ask 127.0.0.1, and a name of its own may lead there. So a request must name
this very host and port (else it is refused before anything is looked at), and nothing that it can ask for changes
anything.
"""

from __future__ import annotations

import socketserver
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ingot.errors import UsageError
from ingot.pages.routes import Answer, answer, refused
from ingot.registry.layout import Layout

ADDRESS, PORT = "127.0.0.1", 8765
_HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip
_WAIT_SECONDS = 30


class Server(ThreadingHTTPServer):
    """A server of the registry at `layout`; it listens once it is made, and `serve_forever` answers."""

    daemon_threads = True  # a page that takes long does not hold up the end

    def __init__(self, layout: Layout, port: int, on_fault: Callable[[str], None] = lambda _: None) -> None:
        """`port` 0 is any free one; `on_fault` is told of our own bugs. Raises OSError."""
        self.layout = layout
        self.on_fault = on_fault
        super().__init__((ADDRESS, port), _Handler)
        number = self.server_address[1]
        self.url = f"http://{ADDRESS}:{number}/"
        self.hosts = {f"{name}:{number}" for name in (ADDRESS, "localhost")}

    def server_bind(self) -> None:
        """As it is, without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that left is no error; what else comes here was told of."""


def open_server(layout: Layout, port: int | None, on_fault: Callable[[str], None] = lambda _: None) -> Server:
    """At `port`; without one at the usual port, or at a free one where that is taken. Raises UsageError."""
    try:
        return Server(layout, PORT if port is None else port, on_fault)
    except OSError as error:
        if port is None:
            return Server(layout, 0, on_fault)
        raise UsageError(f"port {port} cannot be had ({(error.strerror or str(error)).lower()})",
                         hint="Leave --port away: then a free one is taken.") from error  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _WAIT_SECONDS

    def do_GET(self) -> None:
        self._send(self._refusal() or self._answer())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refusal(self) -> Answer | None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].strip().lower() not in self.server.hosts:
            return refused(HTTPStatus.FORBIDDEN, f"This server answers at {self.server.url} alone.")
        if not self.path.startswith("/"):
            return refused(HTTPStatus.BAD_REQUEST, "The address cannot be read.")
        return None

    def _answer(self) -> Answer:
        try:
            return answer(self.server.layout, self.path)
        except Exception as error:  # the page says that it is our fault, and the terminal which
            self.server.on_fault(f"{self.path[:200]}: unexpected {type(error).__name__}: {error}")
            return refused(HTTPStatus.INTERNAL_SERVER_ERROR, "This is a bug in ingot. The terminal says more.")

    def _send(self, given: Answer) -> None:
        self.send_response(given.status)
        self.send_header("Content-Type", given.type)
        self.send_header("Content-Length", str(len(given.body)))
        self.send_header("Content-Security-Policy", given.policy)
        for name, value in {**_HEADERS, **given.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(given.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What http.server finds wrong by itself, on a page like the others: 501 is a method without a `do_`."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            allowed = {"Allow": "GET, HEAD"}
            said = "This registry is here to be looked at."
            self._send(refused(HTTPStatus.METHOD_NOT_ALLOWED, said, headers=allowed))
        else:
            self._send(refused(HTTPStatus(code), "The request cannot be understood."))

    def version_string(self) -> str:
        return "ingot"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal belongs to who started this."""
