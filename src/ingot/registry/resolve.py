"""From what a person types to an artifact: a name, a tag, the beginning of an identity or of a digest, or a path."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CheckFailed, UsageError
from ingot.record.artifact import record_in
from ingot.registry.entry import Entry, State, facts_of
from ingot.registry.store import Registry
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.inputs import InputFile
from ingot.storage.staging import RECORD_NAME

#: Fewer digits are rather a word than a digest.
_LEAST_DIGITS = 6
_DIGITS = re.compile(rf"(?:sha256:)?([0-9a-f]{{{_LEAST_DIGITS},64}})")


@dataclass(frozen=True)
class Match:
    """An artifact, and which of its files was meant; `role` and `name` are empty where it was the whole."""

    entry: Entry
    role: str = ""
    name: str = ""


def find(registry: Registry, ref: str) -> Entry:
    """The one artifact that `ref` means: a name, a tag, an identity, the digest of a file in it, or a path.

    Raises UsageError: none, with the names that look like it; or several.
    """
    matches = [match for match in find_all(registry, ref) if match.role in ("", "output")]
    entries = {match.entry.identity: match.entry for match in matches}
    if len(entries) > 1:
        names = ", ".join(f"{entry.name} ({entry.identity[:12]})" for entry in entries.values())
        raise UsageError("this means several artifacts", where=ref, found=names, hint="Name one by its identity.")
    if not entries:
        raise _unknown(registry, ref)
    return next(iter(entries.values()))


def find_all(registry: Registry, ref: str) -> list[Match]:
    """Everything that `ref` may mean: also artifacts that were made of the file with that digest, or at that path.

    Raises UsageError: the path cannot be read.
    """
    entries = registry.entries()
    by_identity = {entry.identity: entry for entry in entries}
    tagged = [Match(entry) for entry in entries if ref in entry.tags]
    named = [Match(entry) for entry in entries if entry.name == ref]
    here = [match for match in named if match.entry.state is not State.FREED]
    if tagged or named:
        return tagged or here or named
    path = Path(os.path.expanduser(ref))
    if os.path.exists(path):  # False for what can be no path, too
        return _at(by_identity, path)
    digits = _DIGITS.fullmatch(ref.lower())
    if digits is None:
        return []
    same = [Match(entry) for entry in entries if entry.identity.startswith(digits[1])]
    return same or _with_digest(by_identity, digits[1])


def entry_at(path: Path) -> Entry:
    """The artifact in a directory that no registry needs to know. Raises CheckFailed, UnsafeInputError."""
    return Entry(facts_of(record_in(path)), path.resolve().name, State.ELSEWHERE, str(path.absolute()))


def _at(entries: dict[str, Entry], path: Path) -> list[Match]:
    """What the registry knows of a path: an artifact, one of its files, or what artifacts were made of."""
    folder = path if path.is_dir() else path.parent
    if (folder / RECORD_NAME).is_file():
        own = _own(entries, folder, path)
        if own is not None:
            return [own]
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if _is_weights(file))
    if not files:
        raise UsageError("there is nothing here that has a digest in the registry", where=path,
                         expected="an artifact, an adapter, or a file of one")  # fmt: skip
    found = []
    for file in files:
        with InputFile.open(file.parent, file.name, error=UsageError) as opened:
            found += _with_digest(entries, DigestMemory().sha256(opened))
    return found


def _own(entries: dict[str, Entry], folder: Path, path: Path) -> Match | None:
    """By the record that lies beside a file; None where the record does not know the file."""
    try:
        record = record_in(folder)
    except CheckFailed:
        return None  # an extracted adapter has a record of another kind
    entry = entries.get(record.identity) or entry_at(folder)
    if path == folder:
        return Match(entry)
    subject = record.subjects.get(path.name)
    if subject is None or subject.nbytes != path.stat().st_size:
        return None
    return Match(entry, "output", path.name)


def _is_weights(path: Path) -> bool:
    return path.is_file() and path.suffix in (".safetensors", ".gguf", ".bin")


def _with_digest(entries: dict[str, Entry], prefix: str) -> list[Match]:
    return [
        Match(entry, file.role, file.name)
        for entry in entries.values() for file in entry.facts.files if file.sha256.startswith(prefix)
    ]  # fmt: skip


def _unknown(registry: Registry, ref: str) -> UsageError:
    entries = registry.entries()
    known = list(dict.fromkeys([entry.name for entry in entries] + [tag for entry in entries for tag in entry.tags]))
    near = difflib.get_close_matches(ref, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`ingot registry list` shows what there is."
    return UsageError("the registry has no such artifact", where=ref, hint=hint)
