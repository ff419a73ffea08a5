"""A GGUF file as llama.cpp runs it: answers as its server gives them, and the probabilities of every next token.

The server gives log-probabilities of the token that comes next, and of no token of the prompt. So the logits of a row
are asked for one position at a time, each time with a prompt longer by a token, of which the server computes that token
alone. Source: llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from ingot.errors import BaseError
from ingot.quantize.gguf.types import INSTALL
from ingot.validate.gguf_files import GgufFiles, GgufModel, gguf_subject
from ingot.validate.model import Progress, Unsupported
from ingot.validate.models.endpoint import Endpoint
from ingot.validate.models.llama_process import LlamaProcess, runtime
from ingot.validate.models.transport import Transport
from ingot.validate.result import Subject

if TYPE_CHECKING:
    import httpx
    import torch

Answer = TypeVar("Answer")
_SMALL_NBYTES = 256 << 20
#: For one request. A server that has died is known at once.
_SECONDS = 600.0
#: The server's word for a probability that is zero in float32 is the least float32; this is the log of the least
#: probability that float32 has.
_LEAST = math.log(2.0**-149)


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Text(msgspec.Struct):
    content: str


class _Prompt(msgspec.Struct):
    prompt: str


class _Likely(msgspec.Struct):
    id: int
    logprob: float | None  # JSON has no NaN


class _Position(msgspec.Struct):
    top_logprobs: list[_Likely]


class _Next(msgspec.Struct):
    completion_probabilities: list[_Position]


class LlamaCpp:
    """A `Model`. One request at a time, so that answers depend on the file and the library alone."""

    def __init__(self, files: GgufFiles, process: LlamaProcess, context: int) -> None:
        """Use `open`."""
        import httpx

        self._files = files
        self._process = process
        self._context = context
        self._client = httpx.Client(
            base_url=process.url, headers={"Authorization": f"Bearer {process.key}"}, timeout=_SECONDS, trust_env=False
        )
        transport = Transport(f"{process.url}/v1", process.key, seconds=_SECONDS, attempts=1)
        self._endpoint = Endpoint(transport, files.model.name)

    @classmethod
    def open(cls, model: GgufModel, *, context: int, threads: int, device: str = "cpu") -> Self:
        """Load the files.

        Args:
            context: tokens that prompt and answer may have together; no more than the model was made for are used.
            threads: that compute; one where the model is so small that several mostly wait for each other.
            device: "cpu", or anything else to let llama.cpp use the accelerator that its build has.

        Raises:
            BaseError, UnsafeInputError: the files are not what they should be, or llama.cpp does not load them.
            MissingComponent: llama.cpp is not installed.
            InputChangedError: a file changed meanwhile.
        """
        with ExitStack() as stack:
            files = GgufFiles.open(model)
            stack.callback(files.close)
            trained = files.header.keys.get(f"{files.header.keys.get('general.architecture')}.context_length")
            context = min(context, trained) if isinstance(trained, int) and trained > 0 else context
            small = sum(file.nbytes for file in files.inputs) < _SMALL_NBYTES
            process = LlamaProcess.start(
                model.files[0], context=context, threads=1 if small else threads, gpu=not device.startswith("cpu")
            )
            stack.callback(process.close)
            files.check_unchanged()
            opened = cls(files, process, context)
            stack.pop_all()
        return opened

    @cached_property
    def subject(self) -> Subject:
        """The files' digest is taken when it is first asked for."""
        return gguf_subject(self._files)

    @property
    def template(self) -> str | None:
        """The chat template that the file holds."""
        found = self._files.header.keys.get("tokenizer.chat_template")
        return found if isinstance(found, str) and found else None

    def render(self, prompt: str, *, chat: bool) -> str:
        """See `Model.render`. Raises Unsupported: there is no chat template, or it refuses the prompt."""
        if not chat:
            return prompt
        text, first = self._templated(prompt), "".join(map(self.decode, self.encode("", special=True)))
        return text if text.startswith(first) else first + text

    def _templated(self, prompt: str) -> str:
        """What the server makes of one message, without the BOS that it puts before every text."""
        if self.template is None:  # the server would take one of its own
            raise Unsupported(f"{self._files.model.name} has no chat template")
        return self._ask("/apply-template", {"messages": [{"role": "user", "content": prompt}]}, _Prompt).prompt

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Model.encode`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return self._ask("/tokenize", body, _Tokens).tokens

    def ids(self, prompt: str, *, chat: bool) -> list[int]:
        """The tokens that the server reads of a prompt."""
        return self.encode(self._templated(prompt) if chat else prompt, special=True)

    def decode(self, token: int) -> str:
        return self._ask("/detokenize", {"tokens": [token]}, _Text).content

    @property
    def prefix(self) -> int:
        """See `Model.prefix`. Raises Unsupported: the file names neither token."""
        for name in ("bos", "eos"):
            token = self._files.header.keys.get(f"tokenizer.ggml.{name}_token_id")
            if isinstance(token, int):
                return token
        raise Unsupported(f"{self._files.model.name} names no token for the beginning or the end of a text")

    @property
    def context(self) -> int | None:
        return self._context

    @property
    def columns(self) -> int:
        """Rows of the embedding, which are the tokens of the file."""
        tokens = self._files.header.keys.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, list):
            raise Unsupported(f"{self._files.model.name} holds no vocabulary")
        return len(tokens)

    @property
    def vocabulary(self) -> int:
        """As `columns`: a file has a token for every row, those of no use too."""
        return self.columns

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """See `Model.logits`; here they are log-probabilities, none below that of the least float32."""
        import torch

        for row in rows:
            if len(row) > self._context:
                raise Unsupported(f"a row has {len(row)} tokens, and the model reads {self._context}")
            found = torch.empty(len(row), self.columns)
            for end in range(len(row)):
                found[end] = torch.tensor(self._next(row[: end + 1]))
                progress(0)  # a stop is not kept waiting for a long row
            yield found
            progress(1)

    def _next(self, ids: Sequence[int]) -> list[float]:
        """The log-probability of each token after these."""
        body = {
            "prompt": list(ids), "n_predict": 1, "temperature": 0, "n_probs": self.columns,
            "response_fields": ["completion_probabilities"],
            # subtle: of a token that ends the text, or is half of a character, the server gives no probabilities. They
            # are taken before this bias, so what it chooses is of no matter.
            "logit_bias": [[self._harmless, 1e9]],
        }  # fmt: skip
        found = self._ask("/completion", body, _Next).completion_probabilities
        likely = found[0].top_logprobs if found else []
        if {token.id for token in likely} != set(range(self.columns)):
            raise Unsupported(f"llama.cpp gave {len(likely)} probabilities for {self.columns} tokens")
        likely.sort(key=lambda token: token.id)
        return [math.nan if token.logprob is None else max(token.logprob, _LEAST) for token in likely]

    @cached_property
    def _harmless(self) -> int:
        return self.encode("a", special=False)[-1]

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        """See `Model.answers`: what the server's users get. With `chat` it applies the file's template.

        Raises Unsupported: there is no template; a prompt is longer than the context.
        """
        for prompt in prompts:
            length = len(self.ids(prompt, chat=chat))
            if length >= self._context:
                raise Unsupported(f"a prompt has {length} tokens, and the model reads {self._context}")
        try:
            return self._endpoint.answers(prompts, chat=chat, new_tokens=new_tokens)
        except Exception:
            self._check_alive()
            raise

    def close(self) -> None:
        self._client.close()
        self._process.close()
        self._files.close()

    def _ask(self, path: str, body: Mapping[str, Any], of: type[Answer]) -> Answer:
        import httpx

        try:
            response = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            self._check_alive()
            raise BaseError("llama.cpp does not answer", where=self._files.model.name, found=str(error)) from error
        if response.status_code != 200:
            raise Unsupported(f"llama.cpp refuses it: {_message(response)}")
        try:
            return msgspec.json.decode(response.content, type=of)
        except msgspec.MsgspecError as error:
            raise BaseError("llama.cpp answers in a shape that is not known here", where=f"{path} of {runtime()}",
                            found=str(error), hint=INSTALL) from error  # fmt: skip

    def _check_alive(self) -> None:
        if self._process.ended():
            raise self._process.fault("llama.cpp stopped while it ran the file")


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
