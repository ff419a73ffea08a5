"""Tags: names that people give to artifacts, such as `champion`. Every tag that was ever set stands in one file.

Lines check themselves. The file only grows, by being replaced: a crash leaves the old one or the new one. A last line
without its end, as another tool may leave it, is cut off by the next change; any other line that is not whole was
damaged, and is told of. Nothing is ever taken out of the file: what a tag meant in March can be told in November.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ingot.errors import UsageError
from ingot.storage import lines
from ingot.storage.amend import replace_file
from ingot.storage.disk import Disk

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


@dataclass(frozen=True)
class Tagging:
    """`identity` None: the tag was taken away. `time` is RFC 3339 in UTC."""

    tag: str
    identity: str | None
    time: str


@dataclass(frozen=True)
class Tags:
    """`damaged` are the numbers, from 1, of lines that cannot be believed."""

    history: tuple[Tagging, ...]
    damaged: tuple[int, ...]

    @property
    def current(self) -> dict[str, str]:
        """Identity by tag."""
        latest = {one.tag: one.identity for one in self.history}
        return {tag: identity for tag, identity in latest.items() if identity is not None}


def check_tag(name: str) -> None:
    """Raises UsageError for what is no name of a tag."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "this is no name for a tag", found=repr(name), expected="letters, digits and . _ / -, at most 64 of them"
        )


def read_tags(path: Path) -> Tags:
    """The tags in the file at `path`; none where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Tags((), ())
    found = [_tagging(lines.decode(line)) for line in data[: _end(data)].splitlines(keepends=True)]
    damaged = tuple(number for number, one in enumerate(found, start=1) if one is None)
    return Tags(tuple(one for one in found if one is not None), damaged)


def append_tags(disk: Disk, path: Path, taggings: Iterable[tuple[str, str | None]]) -> None:
    """Add (tag, identity) lines, durably. The caller has the registry's lock. Raises OutputError, ResourceError."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    data = b"".join(lines.encode({"tag": tag, "identity": identity, "time": now}) for tag, identity in taggings)
    before = path.read_bytes() if path.exists() else b""
    replace_file(disk, path, before[: _end(before)] + data)


def _end(data: bytes) -> int:
    """Where the last whole line ends."""
    return data.rfind(b"\n") + 1


def _tagging(entry: lines.Entry | None) -> Tagging | None:
    if entry is None or entry.keys() != {"tag", "identity", "time"}:
        return None
    tag, identity, time = entry["tag"], entry["identity"], entry["time"]
    if not isinstance(tag, str) or not isinstance(time, str) or not (identity is None or isinstance(identity, str)):
        return None
    return Tagging(tag, identity, time)
