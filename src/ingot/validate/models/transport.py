"""Requests to an OpenAI-compatible server: bounded in time, size and attempts; the key goes to that server alone.

A redirect is refused, wherever it leads: the key, and what the prompts hold, are meant for the address that was named.
Proxies and .netrc of the environment are not used, for the same reason.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingot.errors import UsageError, printable
from ingot.formats import strict_json

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENAI_API_KEY"

_MOST_NBYTES = 16 << 20
_MOST_WAIT_SECONDS = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MOST_SAID = 300


@dataclass
class Transport:
    """One server.

    Attributes:
        base: its URL without a slash at the end, checked by `checked_url`.
        key: sent as a bearer token; never shown.
        seconds: for one attempt, all of it.
        attempts: of one request, when the server is busy, failed, or went away.
        first_wait: seconds before the second attempt; doubled each time, or what the server asks for up to a minute.
    """

    base: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 300.0
    attempts: int = 5
    first_wait: float = 1.0
    _met: bool = field(default=False, repr=False)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """The connections of some requests."""
        import httpx

        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "ingot"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        timeout = httpx.Timeout(self.seconds, connect=min(10.0, self.seconds))
        async with httpx.AsyncClient(
            headers=headers, timeout=timeout, follow_redirects=False, trust_env=False
        ) as client:
            yield client

    async def ask(self, client: httpx.AsyncClient, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON that the server answers to a POST of `body`, or to a GET.

        Raises:
            UsageError: nobody answers there, or not in time, or with an error, a redirect, too much, or no JSON.
        """
        for attempt in range(1, self.attempts + 1):
            fault, wait = await self._attempt(client, path, body)
            if not isinstance(fault, UsageError):
                self._met = True
                return fault
            if wait is None or attempt == self.attempts:
                raise fault
            await asyncio.sleep(min(wait or self.first_wait * 2 ** (attempt - 1), _MOST_WAIT_SECONDS))
        raise AssertionError("at least one attempt is made")

    async def _attempt(
        self, client: httpx.AsyncClient, path: str, body: Mapping[str, object] | None
    ) -> tuple[Any, float | None]:
        """The answer; or an error and how long to wait before another attempt: 0 for the usual, None for never."""
        import httpx

        url = self.base + path
        try:
            async with asyncio.timeout(self.seconds):
                method = "GET" if body is None else "POST"
                async with client.stream(method, url, json=body) as response:
                    data = await self._read(response, url)
        except (TimeoutError, httpx.TimeoutException):
            hint = "See whether the server works on something else, or ask for fewer new tokens."
            return self.fault(f"the server did not answer within {self.seconds:g} seconds", url, hint=hint), 0.0
        except httpx.ConnectError as error:
            hint = "Start the server, or correct the URL; it ends in /v1 with most servers."
            return self.fault("nothing answers there", url, found=str(error), hint=hint), 0.0 if self._met else None
        except httpx.TransportError as error:
            return self.fault("the connection broke", url, found=str(error) or type(error).__name__), 0.0
        except UsageError as error:
            return error, None
        if response.status_code != 200:
            return self._refusal(response, data, url), _wait(response)
        try:
            return strict_json.loads(data, where=url, error=UsageError), None
        except UsageError as error:
            return self.fault(f"the server's answer is no JSON: {error.what}", url, found=_begin(data)), None

    async def _read(self, response: httpx.Response, url: str) -> bytes:
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > _MOST_NBYTES:
                raise self.fault("the server's answer is too long", url, expected=f"at most {_MOST_NBYTES:,} bytes")
        return bytes(data)

    def _refusal(self, response: httpx.Response, data: bytes, url: str) -> UsageError:
        status = response.status_code
        if 300 <= status < 400:
            to = response.headers.get("location", "nowhere")
            return self.fault("the server redirects", url, found=to, hint="Name the address where it really is.")
        hints = {
            401: f"Set {KEY_VARIABLE} to a key of this server.",
            403: f"Set {KEY_VARIABLE} to a key of this server.",
            404: "Correct the URL, which ends in /v1 with most servers, or the model's name after `#`.",
        }
        return self.fault(f"the server answers {status}", url, found=_message(data), hint=hints.get(status))

    def fault(self, what: str, url: str, *, found: str | None = None, **more: str | None) -> UsageError:
        """An error about `url`; servers quote keys that they refuse, so `found` goes without it."""
        if found and self.key:
            found = found.replace(self.key, "(the key)")
        hint = more.pop("hint", None) or "Ask the server by hand: `curl URL/models`."
        shown = printable(found)[:_MOST_SAID] if found else None
        return UsageError(what, where=url, found=shown, hint=hint, expected=more.get("expected"))


def checked_url(text: str) -> tuple[str, str | None]:
    """Base URL and model of `http://host:8000/v1#model`.

    Raises:
        UsageError: it is no such URL, or it holds a password, which would be recorded.
    """
    import httpx

    address, _, model = text.partition("#")
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError("not a URL", where=text, found=error, hint=_URL_HINT) from error
    if url.userinfo:
        hint = f"Put the key into the environment variable {KEY_VARIABLE}."
        raise UsageError("a URL must not hold a password, which would be recorded", where=url.host, hint=hint)
    if url.scheme not in ("http", "https") or not url.host or url.query:
        raise UsageError("not the address of a server", where=text, hint=_URL_HINT)
    return str(url).rstrip("/"), model or None


def key_from_environment() -> str | None:
    """Raises UsageError: it cannot be sent. It is not shown."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError("a key cannot be sent", where=f"the environment variable {KEY_VARIABLE}",
                         expected="printable ASCII", hint=f"Set {KEY_VARIABLE} anew, or unset it.")  # fmt: skip
    return key or None


_URL_HINT = "Write http://HOST:PORT/v1, with #MODEL where the server has several."


def _wait(response: httpx.Response) -> float | None:
    if response.status_code not in _PASSING:
        return None
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isascii() and asked.isdecimal() else 0.0


def _message(data: bytes) -> str:
    """`{"error": {"message": ...}}` as OpenAI has it, `{"error": ...}`, `{"message": ...}`, or the text's beginning."""
    try:
        value: Any = strict_json.loads(data, where="", error=UsageError)
    except UsageError:
        return _begin(data)
    for _ in range(2):
        value = value.get("error", value.get("message", value)) if isinstance(value, dict) else value
    return value if isinstance(value, str) else _begin(data)


def _begin(data: bytes) -> str:
    return data[: 10 * _MOST_SAID].decode("utf-8", "replace") or "nothing"
