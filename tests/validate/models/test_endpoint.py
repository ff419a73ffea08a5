"""An endpoint answers, or what is wrong is told in time; the key stays where it belongs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ingot.errors import UsageError
from ingot.validate.model import Unsupported
from ingot.validate.models import transport as transport_module
from ingot.validate.models.endpoint import AT_ONCE, Endpoint
from ingot.validate.models.transport import Transport, checked_url, key_from_environment

KEY = "sk-a-secret-of-the-tests"


class Server:
    """Answers by `rule(path, body, number of the request)` -> (status, body, headers), and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any] | None, dict[str, str]]] = []
        self.under_way = self.most_under_way = 0
        self.rule: Callable[[str, Any, int], tuple[int, bytes, dict[str, str]]] = chat_echo
        self._mutex = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _reply(self, body: Any) -> None:
                with server._mutex:
                    server.asked.append((self.path, body, {key.lower(): value for key, value in self.headers.items()}))
                    number = len(server.asked)
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                try:
                    status, data, headers = server.rule(self.path, body, number)
                    if status == 0:  # a reset, not an end
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.connection.close()
                        return
                    self.send_response(status)
                    for key, value in {"Content-Length": str(len(data)), **headers}.items():
                        self.send_header(key, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass
                finally:
                    with server._mutex:
                        server.under_way -= 1

            def log_message(self, *args: object) -> None:
                pass

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def ok(value: object) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(value).encode(), {}


def chat_echo(path: str, body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
    if path == "/v1/models":
        return ok({"data": [{"id": "first"}, {"id": "second"}]})
    if path == "/v1/chat/completions":
        return ok(
            {"choices": [{"message": {"role": "assistant", "content": f"chat {body['messages'][0]['content']}"}}]}
        )
    return ok({"choices": [{"text": f" text {body['prompt']}", "index": 0}]})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def open_quick(server: Server, name: str = "#m", **more: Any) -> Endpoint:
    bounds = {"seconds": 5.0, "attempts": 3, "first_wait": 0.01, **more}
    return Endpoint.open(server.url + name, transport=Transport(server.url, **bounds))


def ask(endpoint: Endpoint, *, chat: bool = True) -> list[str]:
    return endpoint.answers(["a"], chat=chat, new_tokens=7)


def test_answers_with_and_without_chat_come_in_order(server: Server) -> None:
    endpoint = open_quick(server)
    prompts = [f"p{n}" for n in range(20)]
    assert endpoint.answers(prompts, chat=True, new_tokens=7) == [f"chat {prompt}" for prompt in prompts]
    assert endpoint.answers(prompts, chat=False, new_tokens=7) == [f" text {prompt}" for prompt in prompts]
    for path, body, _ in server.asked:
        assert body is not None
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 7)
        assert path in ("/v1/chat/completions", "/v1/completions")
    assert endpoint.answers([], chat=True, new_tokens=7) == []


def test_few_requests_are_under_way_at_once(server: Server) -> None:
    def slow(path: str, body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        time.sleep(0.05)
        return chat_echo(path, body, number)

    server.rule = slow
    open_quick(server).answers(["p"] * 16, chat=True, new_tokens=7)
    assert server.most_under_way == AT_ONCE


def test_the_first_listed_model_is_asked_unless_one_is_named(server: Server) -> None:
    first = open_quick(server, "")
    assert first.subject.name == f"first at {server.url[7:-3]}"
    assert (first.subject.kind, first.subject.digest) == ("endpoint", None)
    assert open_quick(server, "#org/my model").subject.name.startswith("org/my model at ")
    assert [path for path, _, _ in server.asked] == ["/v1/models"]
    ask(first)
    assert server.asked[-1][1] is not None
    assert server.asked[-1][1]["model"] == "first"
    server.rule = lambda path, body, number: ok({"data": []})
    with pytest.raises(UsageError, match="lists no model"):
        open_quick(server, "")


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_what_passes_is_tried_again(server: Server, status: int) -> None:
    server.rule = lambda path, body, number: (status, b"", {}) if number < 3 else chat_echo(path, body, number)
    assert ask(open_quick(server)) == ["chat a"]
    assert len(server.asked) == 3


def test_the_server_says_how_long_to_wait(server: Server) -> None:
    def busy(path: str, body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        return (429, b"", {"Retry-After": "1"}) if number == 1 else chat_echo(path, body, number)

    server.rule = busy
    began = time.monotonic()
    assert ask(open_quick(server)) == ["chat a"]
    assert 1 <= time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("status", "data", "attempts", "words"),
    [
        (500, b'{"error": {"message": "GPU fell off\\u001b[31m"}}', 3, "answers 500: found GPU fell off\\x1b[31m"),
        (429, b'{"error": "slow down"}', 3, "slow down"),
        (400, b'{"message": "max_tokens is too large"}', 1, "max_tokens is too large"),
        (500, b"x" * 290 + KEY.encode(), 3, "(the key"),
        (401, f"Incorrect API key provided: {KEY}".encode(), 1, "provided: (the key)"),
        (404, b"<html>no such page</html>", 1, "no such page"),
        (204, b"", 1, "answers 204"),
        (0, b"", 3, "the connection broke"),
        (200, b"<html>hello</html>", 1, "no JSON"),
        (200, b"[" * 100_000, 1, "nested too deeply"),
        (200, b"\xff\xfe", 1, "no JSON"),
        (200, b"null", 1, "another shape"),
        (200, b'{"choices": []}', 1, "another shape"),
        (200, b'{"choices": [{"message": {"content": 5}}]}', 1, "another shape"),
        (200, b'{"choices": [{"text": "of the other kind"}]}', 1, "choices[0].message.content"),
    ],
)
def test_what_stays_wrong_is_told_after_few_attempts(
    server: Server, status: int, data: bytes, attempts: int, words: str
) -> None:
    server.rule = lambda path, body, number: (status, data, {})
    with pytest.raises(UsageError) as caught:
        ask(open_quick(server, key=KEY))
    assert words in caught.value.message
    assert server.url in caught.value.message
    assert caught.value.hint
    assert KEY not in f"{caught.value.message}{caught.value.hint}{caught.value.as_json()}"
    assert len(server.asked) == attempts


def test_an_answer_that_is_null_is_empty(server: Server) -> None:
    server.rule = lambda path, body, number: ok({"choices": [{"message": {"content": None}}]})
    assert ask(open_quick(server)) == [""]


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    release = threading.Event()

    def hang(path: str, body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        release.wait(10)
        return 0, b"", {}

    server.rule = hang
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"within 0\.2 seconds"):
        ask(open_quick(server, seconds=0.2, attempts=2))
    assert time.monotonic() - began < 3
    release.set()


def test_a_signal_ends_the_waiting_at_once(server: Server) -> None:
    class StoppedError(KeyboardInterrupt):
        pass

    def stop(number: int, frame: object) -> None:
        raise StoppedError

    release = threading.Event()

    def hang(path: str, body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        release.wait(10)
        return 0, b"", {}

    server.rule = hang
    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(StoppedError):
            open_quick(server).answers(["a"] * 9, chat=True, new_tokens=7)
    finally:
        signal.signal(signal.SIGUSR1, before)
        release.set()
    assert time.monotonic() - began < 3


def test_a_server_that_drips_is_given_up_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                    for _ in range(100):
                        connection.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"within 0\.5 seconds"):
            ask(Endpoint.open(f"{url}#m", transport=Transport(url, seconds=0.5, attempts=1)))
        thread.join()


def test_a_huge_answer_is_not_read_to_its_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "_MOST_NBYTES", 100_000)
    server.rule = lambda path, body, number: (200, b" " * 50_000_000, {})
    with pytest.raises(UsageError, match="too long"):
        ask(open_quick(server))
    assert len(server.asked) == 1


def test_where_nobody_answers_it_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    began = time.monotonic()
    with pytest.raises(UsageError, match="nothing answers there") as caught:
        Endpoint.open(url)
    assert caught.value.exit_code == 2
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_the_key_stays(server: Server, status: int) -> None:
    other = Server()
    server.rule = lambda path, body, number: (status, b"", {"Location": f"{other.url}/chat/completions"})
    with pytest.raises(UsageError, match="redirects") as caught:
        ask(open_quick(server, key=KEY))
    assert other.url in caught.value.message
    assert server.asked[0][2]["authorization"] == f"Bearer {KEY}"
    assert other.asked == []
    other.close()


def test_the_key_is_the_environments_and_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    endpoint = Endpoint.open(server.url)
    ask(endpoint)
    assert {asked[2]["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in repr(vars(endpoint)) + repr(endpoint.subject)
    monkeypatch.delenv("OPENAI_API_KEY")
    ask(Endpoint.open(server.url))
    assert "authorization" not in server.asked[-1][2]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e9")
    with pytest.raises(UsageError, match="cannot be sent") as caught:
        key_from_environment()
    assert "sk-" not in caught.value.message


def test_urls() -> None:
    assert checked_url("http://127.0.0.1:8000/v1/#a/b:c") == ("http://127.0.0.1:8000/v1", "a/b:c")
    assert checked_url("https://[::1]/v1") == ("https://[::1]/v1", None)
    for text in ("ftp://host/v1", "http://", "http://host/v1?key=1", "http://host:port/v1", "http://ho st\x00/"):
        with pytest.raises(UsageError):
            checked_url(text)
    with pytest.raises(UsageError, match="password") as caught:
        checked_url("http://me:secret@host/v1")
    assert "secret" not in caught.value.message


def test_what_a_server_does_not_give_is_said(server: Server) -> None:
    endpoint = open_quick(server)
    for call in (
        lambda: endpoint.logits([[1]], lambda number: None),
        lambda: endpoint.encode("a", special=True),
        lambda: endpoint.decode(1),
        lambda: endpoint.render("a", chat=True),
        lambda: endpoint.prefix,
    ):
        with pytest.raises(Unsupported, match="OpenAI-compatible server does not"):
            call()
    assert endpoint.context is None
    endpoint.close()
