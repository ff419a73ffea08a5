"""Errors of rooms that know options, in a recipe's words: `--llama-cpp` is the key `formats[].llama_cpp`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ingot.errors import IngotError, UsageError
from ingot.release.form import FormatForm, GatesForm, MergeForm, ValidateForm

_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?: [A-Z]+(?:\.[a-z]+)?)?")
#: What stands in backquotes is a command, which stays as it is, or an option by itself.
_PARTS = re.compile(rf"`[^`]*`|{_OPTION.pattern}")
#: Options that are called otherwise than their keys.
_OTHERS = {"weight": "adapters[].weight", "base-as": "merge.base_as", "component": "merge.component"}

#: What no key stands for, in a release's words.
_SAID = {
    "place with -o": "place with --registry",
    "Pass --tracking-uri URI, or set": "Set",
    "Check --tracking-uri": "Check MLFLOW_TRACKING_URI",
    "; --delete-others deletes": "; `ingot registry push NAME TARGET --delete-others` deletes",
}


def _keys() -> dict[str, str]:
    """Every key by the option that is called as it is; the first form that has it."""
    keys: dict[str, str] = {}
    for place, form in (("formats[]", FormatForm), ("merge", MergeForm), ("validate", ValidateForm),
                        ("validate.gates", GatesForm)):  # fmt: skip
        for field in msgspec.structs.fields(form):
            keys.setdefault(field.encode_name.replace("_", "-"), f"{place}.{field.encode_name}")
    return {**_OTHERS, **keys}


_KEYS = _keys()
_HINT = "docs/release.md lists the keys; `ingot init --schema` prints them for editors."


def as_key(text: str) -> str:
    """`text` with every option that has a key replaced by it; the value that is shown with an option goes.

    Example: as_key("Give a checkout with --llama-cpp DIR.") -> "Give a checkout with `formats[].llama_cpp`."
    """
    for said, here in _SAID.items():
        text = text.replace(said, here)
    return _PARTS.sub(lambda part: _key_of(part[0].strip("`")) or part[0], text)


def _key_of(text: str) -> str | None:
    found = _OPTION.fullmatch(text)
    return f"`{_KEYS[found[1]]}`" if found and found[1] in _KEYS else None


@contextmanager
def recipe_words() -> Iterator[None]:
    """An error that leaves the block speaks of keys."""
    try:
        yield
    except IngotError as error:
        error.what = as_key(error.what)
        if error.hint is not None:
            error.hint = _HINT if error.hint == UsageError.default_hint else as_key(error.hint)
        error.args = (error.message,)
        raise
