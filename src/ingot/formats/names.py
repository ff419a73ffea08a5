"""Which strings may name a tensor: printable, bounded, and still distinct after Unicode normalization."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from ingot.errors import UnsafeInputError

#: Longest tensor name in UTF-8 bytes. The longest of a real checkpoint are below 200.
MAX_NAME_NBYTES = 4096


def has_control(text: str) -> bool:
    """Whether `text` holds a control character (Unicode category Cc) or a lone surrogate (Cs)."""
    return not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def check_tensor_name(name: str, *, file: str) -> None:
    """Refuse a name that is empty, too long, or holds a control character.

    Raises:
        UnsafeInputError: it is one of those.
    """
    if not name:
        raise UnsafeInputError("a tensor has an empty name", where=file)
    if len(name) > MAX_NAME_NBYTES:
        raise UnsafeInputError(
            "tensor name is too long", where=file, expected=f"at most {MAX_NAME_NBYTES}", found=len(name)
        )
    if has_control(name):
        raise UnsafeInputError("tensor name holds a control character", where=file, found=repr(name))


def check_distinct(names: Collection[str], *, file: str) -> None:
    """Refuse two distinct names of one NFC form: they look alike, and some file systems and tools take them for one.

    Raises:
        UnsafeInputError: two names share a form; `found` spells both.
    """
    # subtle: an ASCII name is its own form, yet it may be the form of another (U+212A KELVIN SIGN becomes "K").
    for name in _not_ascii(names):
        form = unicodedata.normalize("NFC", name)
        if form != name and form in names:
            _refuse_twins(name, form, file)
    forms: dict[str, str] = {}
    for name in _not_ascii(names):
        twin = forms.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            _refuse_twins(name, twin, file)


def _not_ascii(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if not name.isascii())


def _refuse_twins(name: str, twin: str, file: str) -> None:
    raise UnsafeInputError(
        "two tensor names are the same text in Unicode NFC", where=file, found=f"{name!a} and {twin!a}"
    )
