"""How a checkpoint reads and writes text: its tokenizer and its chat template, without its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingot.validate.model import Unsupported
from ingot.validate.models.libraries import first_line, loading, need
from ingot.validate.models.sources import Sources


class Tokenizer:
    """A tokenizer with its chat template; an adapter's own wins over the base's, as in a merge."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """Use `open`."""
        self.inner = tokenizer
        self.name = name

    @classmethod
    def open(cls, sources: Sources) -> Tokenizer:
        """Load what `Sources.side_files` names, from those files and no others.

        Raises:
            Unsupported: there is none, or transformers cannot load it.
            MissingComponent: a library that it needs is not installed.
        """
        from transformers import AutoTokenizer

        name, files = sources.located.name, sources.side_files
        if not files:
            raise Unsupported(f"{name} has no tokenizer")
        with TemporaryDirectory() as folder, loading(f"the tokenizer of {name}"):
            for of, file in {"config.json": sources.base.inputs["config.json"], **files}.items():
                shutil.copyfile(file.real, Path(folder, of))
            inner = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return cls(inner, name)

    @property
    def count(self) -> int:
        """One more than the largest token id that it makes."""
        return 1 + max(int(number) for number in self.inner.get_vocab().values())

    @property
    def template(self) -> str | None:
        """The chat template's text; of several named ones all, in one text."""
        found = self.inner.chat_template
        return None if not found else str(found)

    def render(self, prompt: str, *, chat: bool) -> str:
        """See `Model.render`. Raises Unsupported: there is no chat template, or it refuses the prompt."""
        if not chat:
            return prompt
        if self.template is None:
            raise Unsupported(f"{self.name} has no chat template")
        need("jinja2")
        messages = [{"role": "user", "content": prompt}]
        try:
            text = self.inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program that came with the model; it may raise what it likes
            raise Unsupported(f"the chat template of {self.name} fails: {first_line(error)}") from error
        return str(text)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Model.encode`."""
        return [int(token) for token in self.inner(text, add_special_tokens=special, verbose=False)["input_ids"]]

    def ids(self, prompt: str, *, chat: bool) -> list[int]:
        """What the model reads of a prompt, through its chat template or as it is. Raises as `render`."""
        return self.encode(self.render(prompt, chat=chat), special=not chat)

    def decode(self, token: int) -> str:
        return str(self.inner.decode([token]))

    def plain(self, tokens: Any) -> str:
        """Token ids as text, without special tokens."""
        return str(self.inner.decode(tokens, skip_special_tokens=True))

    @property
    def prefix(self) -> int:
        """See `Model.prefix`. Raises Unsupported: the tokenizer has neither token."""
        for token in (self.inner.bos_token_id, self.inner.eos_token_id):
            if token is not None:
                return int(token)
        raise Unsupported(f"the tokenizer of {self.name} has no token for the beginning or the end of a text")
