"""Our models behind the interface of lm-evaluation-harness, so that its tasks, filters and metrics run on them as is.

What is given to the model is what lm-eval's own `hf` class gives it (0.4.13, lm_eval/models/huggingface.py): the same
tokens, the same left truncation of likelihoods, the same windows of rolling ones, the same stop texts. lm-eval is
imported with this module; `harness` imports it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from ingot.validate.answers.asking import greedy
from ingot.validate.answers.likelihood import Pair, likelihoods, pair
from ingot.validate.model import Model, Progress, Unsupported

#: As lm-eval's where a model says nothing.
_USUAL_CONTEXT = 2048
_USUAL_NEW_TOKENS = 256


class Adapted(LM):  # type: ignore[misc]  # lm-eval has no types that mypy is shown
    """A `Model` as lm-eval's LM. `progress` is told of requests. Any call may raise Unsupported."""

    def __init__(self, model: Model, progress: Progress, *, chat: bool) -> None:
        super().__init__()
        self._model = model
        self._progress = progress
        self._chat = chat
        self._said: dict[str, str] = {}  # what the user says, by the text that the chat template makes of it

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each request's args (context, continuation)."""
        return likelihoods(self._model, [self._pair(*request.args) for request in requests], self._progress)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of each request's args (text,): log P of all of it, in windows of the model's context."""
        longest = self._model.context or _USUAL_CONTEXT
        pairs: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self._encode(request.args[0]),
                prefix_token=self._model.prefix,
                max_seq_len=longest,
                context_len=1,
            )
            disjoint = [utils.make_disjoint_window(window) for window in windows]
            pairs += disjoint
            owners += [number] * len(disjoint)
        sums = [0.0] * len(requests)
        for number, (value, _) in zip(owners, likelihoods(self._model, pairs, lambda _: None), strict=True):
            sums[number] += value
        self._progress(len(requests))
        return sums

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Of each request's args (context, settings): the greedy answer, cut at the first of the stop texts."""
        settings = [_settings(request.args[1]) for request in requests]
        found: dict[int, str] = {}
        for new_tokens in sorted({tokens for tokens, _ in settings}):
            numbers = [number for number, (tokens, _) in enumerate(settings) if tokens == new_tokens]
            prompts = [self._prompt(requests[number].args[0], new_tokens) for number in numbers]
            asked = iter(numbers)
            for answers in greedy(self._model, prompts, chat=self._chat, new_tokens=new_tokens):
                for text in answers:
                    number = next(asked)
                    found[number] = _cut(text, settings[number][1])
                self._progress(len(answers))
        return [found[number] for number in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of one message from the user; more than that a `Model` does not render."""
        if [message["role"] for message in chat_history] != ["user"] or not add_generation_prompt:
            roles = ", ".join(message["role"] for message in chat_history)
            begun = "" if add_generation_prompt else ", with the answer begun"
            raise Unsupported(f"the task's prompt is messages of {roles}{begun}; one message of the user is rendered")
        content = chat_history[0]["content"]
        try:
            text = self._model.render(content, chat=True)
        except Unsupported:
            text = content  # a server that renders by itself; where a text is needed, `_encode` says what is missing
        self._said[text] = content
        return text

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of lm-eval's cache of requests, which is not used."""
        return self._model.subject.name

    def _prompt(self, context: str, new_tokens: int) -> str:
        """What `Model.answers` is given: it renders chats by itself."""
        if self._model.context is not None:
            length, room = len(self._encode(context)), self._model.context - new_tokens
            if length > room:
                raise Unsupported(
                    f"a prompt of {length} tokens and {new_tokens} new ones exceed the model's {self._model.context}"
                )
        return self._said[context] if self._chat else context

    def _pair(self, context: str, continuation: str) -> Pair:
        if context:
            return pair(self._encode, context, continuation)
        tokens, prefix = self._model.encode(continuation, special=False), self._model.prefix
        return (tokens[:1], tokens[1:]) if tokens[:1] == [prefix] else ([prefix], tokens)

    def _encode(self, text: str) -> list[int]:
        """With the tokenizer's special tokens, unless the text begins with one, as that of a chat template may."""
        return self._model.encode(text, special=not text.startswith(self._model.decode(self._model.prefix)))


def _settings(given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """New tokens and stop texts."""
    settings = normalize_gen_kwargs(given, _USUAL_NEW_TOKENS)
    if settings.get("do_sample") or settings.get("num_beams", 1) != 1:
        raise Unsupported("the task samples its answers or searches with beams; only greedy answers are compared")
    until = settings["until"]
    return int(settings["max_gen_toks"]), tuple([until] if isinstance(until, str) else until)


def _cut(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text
