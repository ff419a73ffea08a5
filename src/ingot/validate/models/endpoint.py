"""A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or OpenAI's own. It only answers.

Sources: OpenAI's API reference, `POST /chat/completions`, `POST /completions`, `GET /models`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from ingot.validate.model import Progress, Unsupported
from ingot.validate.models.transport import Transport, checked_url, key_from_environment
from ingot.validate.result import Subject

if TYPE_CHECKING:
    import httpx
    import torch

#: Requests under way at once.
AT_ONCE = 4


class Endpoint:
    """A `Model` that has no digest: whatever answers at an address today may be replaced tomorrow."""

    def __init__(self, transport: Transport, model: str) -> None:
        """Use `open`."""
        self._transport = transport
        self._name = model
        host = transport.base.partition("://")[2].partition("/")[0]
        self.subject = Subject(f"{model} at {host}", "endpoint", None)

    @classmethod
    def open(cls, url: str, *, transport: Transport | None = None) -> Endpoint:
        """The model of `http://host:8000/v1#model`, or the first that the server lists.

        The key is the environment's OPENAI_API_KEY; it goes to that host alone. `transport`: other bounds.

        Raises:
            UsageError: no such URL; nobody answers; the server lists no model.
        """
        base, model = checked_url(url)
        transport = transport or Transport(base, key_from_environment())
        return cls(transport, model or asyncio.run(_first_model(transport)))

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        """See `Model.answers`: temperature 0; `chat` has the server apply its template.

        Raises UsageError: a request fails for good, or its answer has another shape.
        """
        return asyncio.run(self._all(prompts, chat, new_tokens))

    async def _all(self, prompts: Sequence[str], chat: bool, new_tokens: int) -> list[str]:
        free = asyncio.Semaphore(AT_ONCE)
        async with self._transport.client() as client:

            async def one(prompt: str) -> str:
                async with free:
                    return await self._answer(client, prompt, chat, new_tokens)

            tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, client: httpx.AsyncClient, prompt: str, chat: bool, new_tokens: int) -> str:
        body: dict[str, object] = {"model": self._name, "temperature": 0, "max_tokens": new_tokens, "stream": False}
        if chat:
            path = "/chat/completions"
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            path = "/completions"
            body["prompt"] = prompt
        found = await self._transport.ask(client, path, body)
        match found:
            case {"choices": [{"message": {"content": str() | None as text}}, *_]} if chat:
                return text or ""  # null: all tokens went into reasoning or a tool call
            case {"choices": [{"text": str(text)}, *_]} if not chat:
                return text
        expected = "choices[0].message.content" if chat else "choices[0].text"
        url, hint = self._transport.base + path, "Give the URL of an OpenAI-compatible server."
        raise self._transport.fault(
            "the server's answer has another shape", url, expected=expected, found=str(found), hint=hint
        )

    def render(self, prompt: str, *, chat: bool) -> str:  # noqa: ARG002
        _not_given("does not show the text that its chat template makes")

    def encode(self, text: str, *, special: bool) -> list[int]:  # noqa: ARG002
        _not_given("does not give token ids")

    def decode(self, token: int) -> str:  # noqa: ARG002
        _not_given("does not give token ids")

    @property
    def prefix(self) -> int:
        _not_given("does not give token ids")

    @property
    def columns(self) -> int:
        _not_given("does not give logits of the whole vocabulary")

    @property
    def vocabulary(self) -> int:
        _not_given("does not give token ids")

    @property
    def context(self) -> int | None:
        return None

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:  # noqa: ARG002
        _not_given("does not give logits of the whole vocabulary")

    def close(self) -> None:
        """Connections end with each batch."""


def _not_given(what: str) -> NoReturn:
    raise Unsupported(f"an OpenAI-compatible server {what}")


async def _first_model(transport: Transport) -> str:
    async with transport.client() as client:
        found = await transport.ask(client, "/models")
    match found:
        case {"data": [{"id": str(name)}, *_]} if name:
            return name
    hint = "Name it: http://HOST:PORT/v1#MODEL."
    raise transport.fault("the server lists no model", f"{transport.base}/models", found=str(found), hint=hint)
