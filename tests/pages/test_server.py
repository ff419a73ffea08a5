"""Who may ask, and how: the server over real sockets."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from ingot.errors import UsageError
from ingot.pages import routes
from ingot.pages.server import Server, open_server
from ingot.registry.store import Registry
from tests.pages.reading import read


@pytest.fixture(scope="module")
def faults() -> list[str]:
    return []


@pytest.fixture(scope="module")
def server(registry: Registry, faults: list[str]) -> Iterator[Server]:
    with Server(registry.layout, 0, faults.append) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, target: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, target, headers=headers)
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def raw(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return found


def test_it_listens_at_this_machine_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_it_answers_to_its_own_names(server: Server, name: str) -> None:
    status, _, body = ask(server, "/", Host=f"{name}:{server.server_port}")
    assert status == 200
    assert "Artifacts" in read(body).text


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "127.0.0.1",
        "localhost:1",
        "127.0.0.1:{port}.evil.example",
        "",
        "[::1]:{port}",
    ],
)
@pytest.mark.parametrize("target", ["/", "/style.css", "/nothing"])
def test_a_page_of_the_web_that_calls_it_by_another_name_gets_nothing(server: Server, host: str, target: str) -> None:
    """DNS rebinding: evil.example leads to 127.0.0.1, so a browser takes both for one site."""
    status, _, body = ask(server, target, Host=host.format(port=server.server_port))
    assert status == 403
    assert "tiny-8b" not in read(body).text


def test_a_request_without_a_host_or_with_two_is_refused(server: Server) -> None:
    own = f"Host: 127.0.0.1:{server.server_port}\r\n".encode()
    assert b" 403 " in raw(server, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n")[0]
    assert b" 403 " in raw(server, b"GET / HTTP/1.1\r\n" + own + own + b"\r\n").split(b"\r\n")[0]
    assert b" 200 " in raw(server, b"GET / HTTP/1.1\r\n" + own + b"\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_nothing_but_looking_is_allowed(server: Server, method: str) -> None:
    status, headers, body = ask(server, "/", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    read(body)


@pytest.mark.parametrize("target", ["/", "/nothing", "/style.css", "/artifact/champion"])
def test_head_tells_what_get_would_without_the_body(server: Server, target: str) -> None:
    status, headers, body = ask(server, target)
    status_of_head, headers_of_head, no_body = ask(server, target, "HEAD")
    assert status_of_head == status
    assert no_body == b""
    assert headers_of_head["Content-Length"] == headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("target", ["/", "/nothing", "/style.css", "/icon.svg"])
def test_every_answer_keeps_the_rest_of_the_web_out(server: Server, target: str) -> None:
    _, headers, _ = ask(server, target)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Server"] == "ingot"


@pytest.mark.parametrize(
    "line", [b"GET http://127.0.0.1/ HTTP/1.1", b"GET * HTTP/1.1", b"GET", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9",
             b"GET /" + b"x" * 70000 + b" HTTP/1.1"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_the_next_is_answered(server: Server, line: bytes) -> None:
    own = f"Host: 127.0.0.1:{server.server_port}".encode()
    answered = raw(server, line + b"\r\n" + own + b"\r\n\r\n")
    assert b" 200 " not in answered.split(b"\r\n")[0]
    assert b"Traceback" not in answered
    assert ask(server, "/")[0] == 200


def test_our_own_bug_is_a_page_without_a_traceback_and_a_line_in_the_terminal(
    server: Server, faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(routes.lineage, "render", broken)
    status, _, body = ask(server, "/lineage")
    assert status == 500
    assert "Traceback" not in read(body).text
    assert "inside" not in read(body).text
    assert faults == ["/lineage: unexpected RuntimeError: inside"]


def test_a_port_that_is_taken_is_told_of_or_another_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=str(server.server_port)):
        open_server(server.layout, server.server_port)
    monkeypatch.setattr("ingot.pages.server.PORT", server.server_port)
    with open_server(server.layout, None) as other:
        assert other.server_port not in (0, server.server_port)


def test_pages_that_are_asked_for_at_once_all_come(server: Server) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(server, "/lineage")[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 8
