"""`trace`: from a served file, or its digest, back to what it was made of; and forward to all that was made of it.

An artifact knows its inputs by digest, and so does the registry know which of its artifacts an input came out of: a
base that is a merge of ours is followed to what that was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import UsageError
from ingot.registry.entry import Entry, Facts
from ingot.registry.resolve import Match, entry_at, find_all
from ingot.registry.store import Registry

#: Longer chains of merges upon merges are a mistake, or a circle.
_DEEPEST = 20


@dataclass(frozen=True)
class Ancestry:
    """An artifact and what its inputs came out of.

    Attributes:
        parents: by "base" or an adapter's number; inputs that are no artifacts of this registry have none.
    """

    entry: Entry
    parents: Mapping[str, Ancestry]


@dataclass(frozen=True)
class Lineage:
    """What there is to know of what the user named.

    Attributes:
        match: the artifact, and the file in it; None where it is only an input of others.
        back: where the artifact came from.
        made: what was made of it, directly or through others, the newest first.
        used_as: of an input that is no artifact: its role in each of `made`.
    """

    match: Match | None
    back: Ancestry | None
    made: tuple[Entry, ...]
    used_as: Mapping[str, str]


def trace(registry: Registry, ref: str) -> Lineage:
    """The lineage of a file, a digest, an adapter's directory, or an artifact by any of its names.

    Raises UsageError: the registry knows nothing of it.
    """
    matches = find_all(registry, ref)
    entries = registry.entries()
    own = [match for match in matches if match.role in ("", "output")]
    if own:
        if len({match.entry.identity for match in own}) > 1:
            names = ", ".join(dict.fromkeys(match.entry.name for match in own))
            raise UsageError("several artifacts have this file", where=ref, found=names, hint="Name one of them.")
        entry = own[0].entry
        return Lineage(own[0], _ancestry(entry, entries), tuple(_made_of([entry.facts], entries)), {})
    used = [match for match in matches if match.role not in ("", "output")]
    if used:
        direct = {match.entry.identity: match for match in used}
        later = _made_of([match.entry.facts for match in direct.values()], entries)
        made = {entry.identity: entry for entry in (*(match.entry for match in direct.values()), *later)}
        newest = sorted(made.values(), key=lambda entry: entry.facts.made_on, reverse=True)
        return Lineage(None, None, tuple(newest), {identity: match.role for identity, match in direct.items()})
    raise UsageError(
        "the registry knows nothing of this", where=ref,
        hint="`ingot registry list` shows what there is; `ingot registry add ARTIFACT` takes note of one.",
    )  # fmt: skip


def trace_at(path: Path) -> Lineage:
    """The lineage of an artifact, or of a file in one, that no registry knows: what its record says.

    Raises CheckFailed, UnsafeInputError.
    """
    entry = entry_at(path if path.is_dir() else path.parent)
    known = path.is_file() and any(file.name == path.name for file in entry.facts.outputs)
    match = Match(entry, "output", path.name) if known else Match(entry)
    return Lineage(match, Ancestry(entry, {}), (), {})


def _ancestry(entry: Entry, entries: Sequence[Entry], depth: int = 0) -> Ancestry:
    parents = {}
    for role in ("base", *(str(number) for number in range(len(entry.facts.adapters)))):
        parent = _source(entry, role, entries) if depth < _DEEPEST else None
        if parent is not None:
            parents[role] = _ancestry(parent, entries, depth + 1)
    return Ancestry(entry, parents)


def _source(entry: Entry, role: str, entries: Sequence[Entry]) -> Entry | None:
    """The artifact whose weights are an input's weights."""
    weights = {file.sha256 for file in entry.facts.inputs(role) if is_weights(file.name)}
    for other in entries if weights else ():
        theirs = {file.sha256 for file in other.facts.outputs if is_weights(file.name)}
        if weights == theirs and other.identity != entry.identity:
            return other
    return None


def _made_of(sources: Sequence[Facts], entries: Sequence[Entry]) -> Iterator[Entry]:
    """Artifacts that have a weights file of these among their inputs, and what was made of those in turn."""
    seen = {facts.identity for facts in sources}
    wanted = {sha256 for facts in sources for sha256 in made_weights(facts)}
    while True:
        fresh = [
            entry for entry in entries
            if entry.identity not in seen
            and any(file.role != "output" and file.sha256 in wanted for file in entry.facts.files)
        ]  # fmt: skip
        if not fresh:
            return
        yield from fresh
        seen |= {entry.identity for entry in fresh}
        wanted = {sha256 for entry in fresh for sha256 in made_weights(entry.facts)}


def made_weights(facts: Facts) -> set[str]:
    """Digests of the weights files that are this artifact's own: a shard that no adapter changes is its base's."""
    inputs = {file.sha256 for file in facts.files if file.role != "output"}
    return {file.sha256 for file in facts.outputs if is_weights(file.name)} - inputs


def is_weights(name: str) -> bool:
    """Whether a file of this name holds what an artifact is known by: its weights."""
    return name.endswith((".safetensors", ".gguf", ".bin"))
