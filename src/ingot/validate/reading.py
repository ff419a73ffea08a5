"""Whether a model can be asked at all: it has a tokenizer, and with `chat` a template. Looked at before long work."""

from __future__ import annotations

from contextlib import closing

from ingot.errors import BaseError, UsageError
from ingot.validate.model import Unsupported
from ingot.validate.spec import locate_spec, parse_spec

#: What helps where a model has no tokenizer.
WITHOUT = "Put the tokenizer's files beside the model, or compare weights alone, without samples and tasks."
_PLAIN = "Leave --chat out, or put a chat_template.jinja beside the model."


def check_reading(reference: str, *, chat: bool) -> None:
    """Load the tokenizer of this spec, and send one prompt through its template. Takes transformers' import.

    Raises:
        BaseError: there is no tokenizer that transformers loads.
        UsageError: `chat`, and there is no chat template, or it fails.
        AdapterError, MismatchError, UnsafeInputError, MissingComponent.
    """
    from ingot.validate.models.sources import Sources
    from ingot.validate.models.tokenizer import Tokenizer

    with closing(Sources.open(locate_spec(parse_spec(reference)))) as sources:
        try:
            tokenizer = Tokenizer.open(sources)
        except Unsupported as why:
            raise BaseError(f"the model cannot be asked anything: {why}", hint=WITHOUT) from why
        try:
            tokenizer.render("?", chat=chat)
        except Unsupported as why:
            raise UsageError(f"prompts cannot go through a chat template: {why}", hint=_PLAIN) from why
