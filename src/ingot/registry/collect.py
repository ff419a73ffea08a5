"""Garbage collection: what a policy lets go, and what could be made again at this moment, is freed; nothing else.

    policy -> may go  -  tagged, newest, young, what others were made of  -  what could not be rebuilt now  =  freed

Laws. A tagged artifact, an adapter, and what lies outside artifacts/ are never touched. Where the truth cannot be read
(a damaged record or tags file), nothing is freed. The decision is made again for each artifact under the registry's
lock: a tag that was set meanwhile counts. The record of what was freed stays; so it is listed, traced and rebuilt.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from ingot.errors import CheckFailed, IngotError, Interrupted, UsageError
from ingot.plan.model import PLAN_VERSION
from ingot.quantize.gguf.choose import quantizer_for
from ingot.record.record import versions
from ingot.record.statement import Record
from ingot.registry.entry import Entry, State
from ingot.registry.finding import can_rebuild
from ingot.registry.lineage import made_weights
from ingot.registry.store import Registry
from ingot.storage.digest_memory import DigestMemory

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True)
class Policy:
    """What is kept, beside all that is tagged. At least one of the first two says something.

    Attributes:
        newest: as many of each series: artifacts of one title and format.
        younger: what was made since then ago.
        pattern: only artifacts of this name or title are looked at.
    """

    newest: int | None = None
    younger: timedelta | None = None
    pattern: str | None = None

    def check(self) -> None:
        """Raises UsageError where nothing would be kept for a reason."""
        if self.newest is None and self.younger is None:
            raise UsageError("nothing says what is to be kept",
                             hint="Say --keep-newest N, --keep-younger-than 30d, or both.")  # fmt: skip

    def covers(self, entry: Entry) -> bool:
        names = (entry.name.casefold(), entry.facts.title.casefold())
        return self.pattern is None or any(fnmatch.fnmatchcase(name, self.pattern.casefold()) for name in names)


@dataclass(frozen=True)
class Looking:
    """Where inputs are looked for; see `finding.find_inputs`. `hub`: what the Hub has counts as there."""

    search: Sequence[Path] = ()
    hub: bool = False
    memory: DigestMemory = field(default_factory=DigestMemory)
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[int], None] = lambda _: None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


class Fate(StrEnum):
    FREE = "free"
    KEEP = "keep"
    REFUSE = "refuse"  # the policy lets it go, and it could not be made again


@dataclass(frozen=True)
class Verdict:
    entry: Entry
    fate: Fate
    why: str


def decide(registry: Registry, policy: Policy, looking: Looking) -> list[Verdict]:
    """What would become of each artifact in artifacts/ that the policy covers, the newest first.

    Raises:
        UsageError: the policy keeps nothing.
        CheckFailed: a record or the tags cannot be read.
        Interrupted: `looking.stop` was set.
    """
    policy.check()
    verdicts, excluded = _by_policy(registry, policy, looking)
    return [_checked(registry, verdict, looking, excluded) for verdict in verdicts]


def collect(
    registry: Registry, policy: Policy, looking: Looking, wanted: Sequence[Entry],
    freed: Callable[[Entry], None] = lambda _: None,
) -> list[Verdict]:  # fmt: skip
    """Free those of `wanted` that may still go; returns what was decided of each. `freed` is told of each at once.

    Raises what `decide` and `Registry.free` raise; what was freed before that stays freed.
    """
    policy.check()
    with registry.changing():
        _check_truth(registry)
        registry.sweep()
    final = []
    for entry in wanted:
        if looking.stop.is_set():
            raise Interrupted("the collection was interrupted", hint="What was freed is listed as freed.")
        with registry.changing():
            verdict = _decided_again(registry, policy, looking, entry)
            if verdict.fate is Fate.FREE:
                registry.free(verdict.entry)
        final.append(verdict)
        if verdict.fate is Fate.FREE:
            freed(verdict.entry)
    return final


def duration(text: str) -> timedelta:
    """Of "12h", "30d" or "8w". Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip().lower())
    if match is None:
        raise UsageError("this is no length of time", found=repr(text), expected="such as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _decided_again(registry: Registry, policy: Policy, looking: Looking, entry: Entry) -> Verdict:
    verdicts, excluded = _by_policy(registry, policy, looking)
    for verdict in verdicts:
        if verdict.entry.identity == entry.identity:
            return _checked(registry, verdict, looking, excluded)
    return Verdict(entry, Fate.KEEP, "it is not there any more")


def _by_policy(registry: Registry, policy: Policy, looking: Looking) -> tuple[list[Verdict], list[Path]]:
    """Verdicts without a look at inputs, and the folders in which an input does not count: they go, or may change."""
    entries = registry.entries()
    _check_truth(registry)
    here = [entry for entry in entries if entry.state is State.HERE]
    newest, users = _newest(here, policy.newest or 0), _users(entries)
    verdicts = []
    for entry in here:
        if policy.covers(entry):
            why = _why_kept(entry, policy, looking.now, newest, users)
            verdicts.append(Verdict(entry, Fate.KEEP if why else Fate.FREE, why or ""))
    going = [Path(verdict.entry.place or "") for verdict in verdicts if verdict.fate is Fate.FREE]
    return verdicts, [registry.layout.work, *going]


def _check_truth(registry: Registry) -> None:
    """Raises CheckFailed where it cannot be read in full who is tagged, and what was made of what."""
    hint = "Nothing is freed until this is whole: "
    for path, why in sorted(registry.faults.items()):
        raise CheckFailed(
            "a record cannot be read, so nothing is freed", where=path, found=why,
            hint=hint + "put the record back from a copy, or move that folder out of the registry.",
        )  # fmt: skip
    damaged = registry.tags().damaged
    if damaged:
        raise CheckFailed(
            "the tags are damaged, so nothing is freed", where=f"{registry.layout.tags}, line {damaged[0]}",
            hint=hint + "look with `ingot registry tag --list`, set the tag that is missing, remove that line.",
        )  # fmt: skip


def _newest(here: Sequence[Entry], number: int) -> dict[str, int]:
    """By identity, the place of an artifact in its series, from 1; those within `number`."""
    places: dict[str, int] = {}
    seen: dict[tuple[str, str], int] = {}
    for entry in here:  # the newest first
        series = (entry.facts.title, entry.facts.format)
        seen[series] = seen.get(series, 0) + 1
        if seen[series] <= number:
            places[entry.identity] = seen[series]
    return places


def _why_kept(
    entry: Entry, policy: Policy, now: datetime, newest: dict[str, int], users: dict[str, list[Entry]]
) -> str | None:
    if entry.tags:
        return f"tagged {', '.join(entry.tags)}"
    if entry.identity in newest:
        return f"number {newest[entry.identity]} of the newest {policy.newest}"
    if policy.younger is not None:
        made_on = _time(entry.facts.made_on)
        if made_on is None or made_on > now - policy.younger:
            return f"made on {entry.facts.made_on[:10]}"
    own = sorted(made_weights(entry.facts))
    user = next((user for digest in own for user in users.get(digest, ()) if user.identity != entry.identity), None)
    return f"{user.name} was made of it" if user else None


def _users(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """By the digest of a file, the artifacts, freed ones too, that were made of it."""
    users: dict[str, list[Entry]] = {}
    for entry in entries:
        for digest in {file.sha256 for file in entry.facts.files if file.role != "output"}:
            users.setdefault(digest, []).append(entry)
    return users


def _checked(registry: Registry, verdict: Verdict, looking: Looking, excluded: Sequence[Path]) -> Verdict:
    """The same, or a refusal, where the policy lets an artifact go that could not be made again."""
    if verdict.fate is not Fate.FREE:
        return verdict
    try:
        why = registry.why_not_ours(verdict.entry) or _why_not_rebuilt(registry, verdict.entry, looking, excluded)
    except Interrupted:
        raise
    except IngotError as error:
        why = error.message
    return Verdict(verdict.entry, Fate.REFUSE, why) if why else verdict


def _why_not_rebuilt(registry: Registry, entry: Entry, looking: Looking, excluded: Sequence[Path]) -> str | None:
    record = registry.record(entry)
    differs = next(_otherwise_here(record), None)
    if differs is not None:
        return f"it was made with {differs}: it might get other bytes"
    missing = can_rebuild(
        record, registry.places(entry).hints, looking.search, registry.layout.adapters, memory=looking.memory,
        progress=looking.progress, stop=looking.stop, excluded=excluded, hub=looking.hub,
    )  # fmt: skip
    return f"not found: {'; '.join(missing.lines(record))}" if missing else None


def _otherwise_here(record: Record) -> Iterator[str]:
    """What decides bytes, and is not here as it was where the artifact was made.

    Quantizers make the same bytes everywhere, or none: see `quantize.gguf.choose`, which raises MissingComponent.
    """
    import torch

    then = record.internals
    if then.plan_version != PLAN_VERSION:
        yield f"plan version {then.plan_version}, and this ingot has {PLAN_VERSION}"
    torch_then, torch_here = then.libraries.get("torch"), versions().get("torch")
    if torch_then != torch_here:
        yield f"torch {torch_then}, and here is {torch_here}"
    if then.device.startswith("cuda"):
        if not torch.cuda.is_available():
            yield f"the device {then.device}, which is not here"
    elif then.cpu_capability != torch.backends.cpu.get_cpu_capability():
        yield f"{then.cpu_capability} instructions, and here are {torch.backends.cpu.get_cpu_capability()}"
    gguf = record.recipe.options.gguf
    if gguf is not None:
        for name in sorted(then.backends.keys() - {"converter"}):
            quantizer_for(name, weighted=gguf.imatrix_sha256 is not None)


def _time(text: str) -> datetime | None:
    try:
        made_on = datetime.fromisoformat(text)
    except ValueError:
        return None
    return made_on if made_on.tzinfo else made_on.replace(tzinfo=UTC)
