"""Self-checking JSON lines: what a crash tears or a disk corrupts is seen, not believed.

    {"check":"<64 hex>","entry":{...}}\n        check = sha256(check of the line before + canonical JSON of entry)

The chain makes a line valid only in its place: a lost, repeated, moved or altered line ends the trusted part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ingot.errors import IngotError
from ingot.formats import strict_json

Entry = dict[str, object]

#: The check before the first line of a chain.
START = ""


def encode(entry: Entry, previous: str = START) -> bytes:
    """The line, with its newline, for `entry` after a line whose check is `previous`."""
    return strict_json.dumps_canonical({"check": _check(entry, previous), "entry": entry}) + b"\n"


def check_of(entry: Entry, previous: str = START) -> str:
    """The check of `entry`'s line, to be the next line's `previous`."""
    return _check(entry, previous)


def decode(line: bytes, previous: str = START) -> Entry | None:
    """The entry of a line with its newline, or None unless it is, byte for byte, what `encode` would have written."""
    try:
        value = strict_json.loads(line, where="a journal line")
        entry = value.get("entry") if isinstance(value, dict) else None
        return entry if isinstance(entry, dict) and encode(entry, previous) == line else None
    except (IngotError, ValueError, RecursionError):
        return None


def decode_chain(data: bytes) -> Iterator[tuple[Entry, int]]:
    """Entries of the longest trusted beginning of `data`, each with the offset at which its line ends."""
    previous, begin = START, 0
    for line in data.splitlines(keepends=True):
        entry = decode(line, previous)
        if entry is None:
            return
        previous, begin = _check(entry, previous), begin + len(line)
        yield entry, begin


def _check(entry: Entry, previous: str) -> str:
    return hashlib.sha256(previous.encode("ascii") + strict_json.dumps_canonical(entry)).hexdigest()
