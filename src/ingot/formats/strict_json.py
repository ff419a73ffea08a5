"""JSON as RFC 8259 means it, where the standard library is lenient, and JSON as ingot writes it.

`json.loads` keeps the last of two equal keys, takes NaN and Infinity, turns 1e400 into an infinity, lets half of a
surrogate pair pass, guesses UTF-16 and UTF-32, and answers deep nesting with a RecursionError. Here each is refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from ingot.errors import IngotError, UnsafeInputError

MAX_NBYTES = 16 * 2**20
MAX_DEPTH = 64
#: Most arrays and objects of one document: what bounds the memory that its bytes can grow into.
MAX_NCONTAINERS = 1_000_000

_BOM = b"\xef\xbb\xbf"
# A string closed or cut off by the end (so that no quote is ever visited twice), or one bracket.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[{]|[\]}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(
    data: bytes,
    *,
    where: str,
    max_nbytes: int = MAX_NBYTES,
    max_depth: int = MAX_DEPTH,
    error: type[IngotError] = UnsafeInputError,
) -> object:
    """The value of one UTF-8 JSON document; whitespace around it, CRLF too, is fine, a byte order mark is not.

    Args:
        where: the file, for messages.
        max_nbytes: longest document.
        max_depth: most arrays and objects inside one another.
        error: the class to raise.

    Raises:
        error: the document is too long or too deep, is no UTF-8 or no JSON, repeats a key within one object, or holds
            NaN, an infinity, or a number or string that has no faithful Python value.
    """
    if len(data) > max_nbytes:
        raise error("JSON document is too large", where=where, expected=f"at most {max_nbytes}", found=len(data))
    if data.startswith(_BOM):
        raise error("JSON begins with a byte order mark", where=where, hint="Save the file as UTF-8 without BOM.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error("JSON is not UTF-8", where=f"byte {cause.start} of {where}") from cause
    _check_nesting(text, max_depth, where, error)
    try:
        return _decode(text)
    except _RefusedError as cause:
        raise error(cause.what, where=where, found=cause.found) from cause
    except ValueError as cause:  # also: an integer of more digits than Python converts
        raise error("not valid JSON", where=where, found=cause) from cause


def dumps_canonical(value: object) -> bytes:
    """One spelling of `value`: keys sorted by code point, no spaces, UTF-8; what digests are computed over.

    Raises:
        TypeError: an object key is no string, or a value has no JSON form.
        ValueError: NaN, an infinity or a lone surrogate.
    """
    _check_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def dumps_pretty(value: object) -> bytes:
    """`value` for people: two spaces, keys in their own order, UTF-8, a final newline. Raises as `dumps_canonical`."""
    _check_keys(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


class _RefusedError(ValueError):
    """Valid JSON to the standard library, yet without one meaning."""

    def __init__(self, what: str, found: object = None) -> None:
        super().__init__(what)
        self.what = what
        self.found = found


def _decode(text: str) -> object:
    value: object = json.loads(
        text, object_pairs_hook=_object, parse_float=_finite_float, parse_constant=_refuse_constant
    )
    if _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as cause:
            raise _RefusedError("a JSON string holds half of a surrogate pair") from cause
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError("a key stands twice in one JSON object", found=key[:200])
            seen.add(key)
    return result


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _RefusedError("a JSON number is too large for a float", found=digits[:40])
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError("JSON has no such number", found=name)


def _check_nesting(text: str, max_depth: int, where: str, error: type[IngotError]) -> None:
    """Refuse deep or numerous containers before the recursive decoder meets them."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = deepest = containers = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        first = text[match.start()]
        if first in "[{":
            containers += 1
            depth += 1
            deepest = max(deepest, depth)
            if deepest > max_depth or containers > MAX_NCONTAINERS:
                break
        elif first in "]}":
            depth -= 1
    if deepest > max_depth:
        raise error("JSON is nested too deeply", where=where, expected=f"at most {max_depth} levels")
    if containers > MAX_NCONTAINERS:
        raise error("JSON holds too many arrays and objects", where=where, expected=f"at most {MAX_NCONTAINERS}")


def _check_keys(value: object) -> None:
    # The standard library would turn the key 1 into "1", and so let two keys become one.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"JSON keys are strings, found {key!r}")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
