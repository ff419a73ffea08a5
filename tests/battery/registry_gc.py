"""Garbage collection that dies or fails at each of its operations, and by `kill -9`: tags and adapters live.

The registry has an artifact of each kind: two that may go (one of them needs a kept adapter), a tagged one, the newest,
one that could not be made again, one that another was made of; and adapters, which are kept.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from ingot.errors import IngotError
from ingot.record.artifact import record_in
from ingot.registry.collect import Fate as Verdict
from ingot.registry.collect import Looking, Policy, collect, decide
from ingot.registry.entry import Entry, State
from ingot.registry.keeping import keep
from ingot.registry.store import Registry
from ingot.storage import DigestMemory, Disk, PosixDisk
from tests import toy
from tests.battery.figure import Count, Figure, Report, counted, scaled, thinned
from tests.battery.full_disk import in_namespace, mounted
from tests.battery.processes import ended, forked, parallel
from tests.battery.workshop import Workshop, scratch, small_model, workshop
from tests.registry.shelf import content_of, release, variant
from tests.storage.faulty_disk import FATES, KEPT, WHENS, Crash, Fate, FaultyDisk, When

KILLS, TWICE, MORE = 50, 400, 8
SMALL_SAMPLE, NEWEST = 0.05, "2099-01-01T00:00:00Z"
ERRORS = (errno.ENOSPC, errno.EIO)
POLICY = Policy(newest=1)
Point = tuple[int, When, Fate]


@dataclass(frozen=True)
class Shelf:
    """A registry at `root`/registry, never changed; `going` are the names of what may go."""

    root: Path
    going: frozenset[str]

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    def memory(self) -> DigestMemory:
        return DigestMemory(self.root / "cache")

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.registry, folder / "registry", symlinks=True))


def run(scale: float, report: Report) -> Figure:
    codes: Counter[str] = Counter()
    with workshop(small_model) as shop:
        shelf = shelf_of(shop)
        number = operations(shelf)
        points: list[Point] = [(n, when, fate) for n in range(number) for when in WHENS for fate in FATES]
        tries = [(point,) for point in thinned(points, scale, 6)]
        kept = "every tag, adapter and kept artifact as it was, the others whole or freed, the next gc ends it"
        once = f"crash points of gc ({number} operations × {len(WHENS)} moments × {len(FATES)} fates): {kept}"
        counts = [counted(once, len(tries), parallel(partial(_crash, shelf), tries), report)]
        chance = random.Random(1)
        pairs = [tuple(chance.choices(points, k=2)) for _ in range(scaled(TWICE, scale, 2))]
        counts.append(counted("pairs of crashes, the second in the next gc", len(pairs),
                              parallel(partial(_crash, shelf), pairs), report))  # fmt: skip
        failing = thinned([(n, code) for n in range(number) for code in ERRORS], scale, 4)
        what = f"failing operations of gc ({number} × ENOSPC, EIO): the same"
        counts.append(counted(what, len(failing), parallel(partial(_fail, shelf), failing), report))
        counts.append(_kills(larger(shelf, MORE), scaled(KILLS, scale, 1), codes, report))
        skipped = _full(shelf, counts) if scale > SMALL_SAMPLE else []
    found = ", ".join(f"{number} {what}" for what, number in sorted(codes.items()))
    return Figure(counts, [f"of the kills: {found}"], skipped)


def shelf_of(shop: Workshop) -> Shelf:
    """See the module."""
    root = shop.root / "shelf"
    registry = Registry.open(root / "registry", create=True)
    adapters = {}
    for number in (1, 3, 4, 5):
        adapters[number] = root / f"adapter-{number}"
        toy.write_adapter(adapters[number], *_scaled(shop.adapter, number))
    entries = {number: release(registry, shop.base, adapter, str(number)) for number, adapter in adapters.items()}
    upon = release(registry, registry.layout.artifacts / entries[4].name, adapters[1], "1", title="upon")
    tagged, _ = (_sister(registry, entries[1], version) for version in ("2", "99"))
    registry.tag([("champion", tagged.identity), ("prod/eu", upon.identity)])
    for number in (1, 5):
        keep(adapters[number], registry.layout.adapters, registry.disk)
    shutil.rmtree(adapters[3])
    shutil.rmtree(adapters[5])
    return Shelf(root, frozenset(entries[number].name for number in (1, 5)))


def larger(shelf: Shelf, more: int) -> Shelf:
    """Another with `more` artifacts that may go."""
    root = shelf.root / "larger"
    root.mkdir()
    registry = Registry.open(shelf.copy(root))
    first = next(entry for entry in registry.entries() if entry.name == "support-v1")
    names = [_sister(registry, first, str(number)).name for number in range(10, 10 + more)]
    return Shelf(root, shelf.going | set(names))


def _sister(registry: Registry, entry: Entry, version: str) -> Entry:
    """The same files, released as another version."""
    made_on = NEWEST if version == "99" else entry.facts.made_on
    made = variant(registry.folder(entry), registry.layout.work / version, version=version, made_on=made_on)
    return registry.publish(made, replace(registry.places(entry), name=f"{entry.facts.title}-v{version}"))


def operations(shelf: Shelf) -> int:
    """Operations of an undisturbed gc; proves that it frees what may go."""
    with scratch(shelf.root / "tries") as folder:
        disk = FaultyDisk(folder)
        root = shelf.copy(folder)
        gc(shelf, root, disk)
        fault = fault_of(shelf, root) or unfinished(shelf, root)
        assert fault is None, fault
        return len(disk.operations)


def gc(shelf: Shelf, root: Path, disk: Disk) -> None:
    registry = Registry.open(root, disk=disk)
    looking = Looking(memory=shelf.memory())
    wanted = [one.entry for one in decide(registry, POLICY, looking) if one.fate is Verdict.FREE]
    collect(registry, POLICY, looking, wanted)


def fault_of(shelf: Shelf, root: Path) -> str | None:
    """What was lost; None where nothing was but, maybe, artifacts that may go, and their records tell of them."""
    if content_of(root / "adapters") != content_of(shelf.registry / "adapters"):
        return "an adapter was changed"
    if (root / "tags.jsonl").read_bytes() != (shelf.registry / "tags.jsonl").read_bytes():
        return "the tags were changed"
    states = {entry.identity: entry.state for entry in Registry.open(root).entries()}
    for whole in sorted((shelf.registry / "artifacts").iterdir()):
        identity, here = record_in(whole).identity, root / "artifacts" / whole.name
        if here.exists():
            if content_of(here) != content_of(whole) or states.get(identity) is not State.HERE:
                return f"{whole.name} is not whole, or not listed"
        elif whole.name not in shelf.going:
            return f"{whole.name} was freed"
        elif record_in(root / "records" / identity).identity != identity or states.get(identity) is not State.FREED:
            return f"{whole.name} was freed, and its record does not tell of it"
    return None


def unfinished(shelf: Shelf, root: Path) -> str | None:
    """What a gc that ended has left."""
    left = [name for name in sorted(shelf.going) if (root / "artifacts" / name).exists()]
    left += [str(path) for path in root.rglob("*freed-*")]
    return f"left: {', '.join(left)}" if left else None


def _finished(shelf: Shelf, root: Path, disk: Disk) -> str | None:
    fault = fault_of(shelf, root)
    if fault is None:
        gc(shelf, root, disk)
        fault = fault_of(shelf, root) or unfinished(shelf, root)
    return fault


def _crash(shelf: Shelf, points: Sequence[Point]) -> str | None:
    with scratch(shelf.root / "tries") as folder:
        root, grave = shelf.copy(folder), folder / "grave"
        grave.mkdir()
        for number, when, fate in points:
            disk = FaultyDisk(grave, crash_at=number, when=when, fate=fate)
            try:
                gc(shelf, root, disk)
            except Crash:
                pass
            except IngotError:
                if not disk.crashed:
                    raise
            fault = fault_of(shelf, root)
            if fault:
                return f"{points}: {fault}"
        fault = _finished(shelf, root, FaultyDisk(grave, fate=KEPT))
        return f"{points}: {fault}" if fault else None


def _fail(shelf: Shelf, point: tuple[int, int]) -> str | None:
    number, code = point
    with scratch(shelf.root / "tries") as folder:
        root, grave = shelf.copy(folder), folder / "grave"
        grave.mkdir()
        disk = FaultyDisk(grave, fail_at=number, fail_errno=code)
        try:
            gc(shelf, root, disk)
        except IngotError:
            pass
        else:
            if disk.operations[number][0] != "unlock":  # which cannot fail
                return f"operation {disk.operations[number]}, {errno.errorcode[code]}: swallowed"
        fault = _finished(shelf, root, FaultyDisk(grave))
        return f"operation {disk.operations[number]}, {errno.errorcode[code]}: {fault}" if fault else None


def _kills(shelf: Shelf, number: int, codes: Counter[str], report: Report) -> Count:
    """Of real processes, at any moment between start and end; those that were too quick do not count."""
    chance, count = random.Random(5), Count("kill -9 of gc at a random moment: the same")
    seconds = 0.0
    for _ in range(2):  # the first time the server starts, and every input is read
        with scratch(shelf.root / "tries") as folder:
            root, begun = shelf.copy(folder), time.monotonic()
            code = ended(forked(_command(root), shelf.root / "cache", folder / "log"))
            seconds = time.monotonic() - begun
            assert (code, unfinished(shelf, root)) == (0, None), (folder / "log").read_text()
    for _ in range(10 * number):
        landed, fault = _kill(shelf, chance.uniform(0.2, 1) * seconds, codes)
        if landed or fault:
            count.add(fault)
            report(count.tried, number)
        if count.tried == number:
            break
    return count


def _command(root: Path) -> list[str]:
    return ["registry", "gc", "--keep-newest", "1", "--yes", "--registry", str(root)]


def _kill(shelf: Shelf, after: float, codes: Counter[str]) -> tuple[bool, str | None]:
    """Whether it was still alive, and what was lost."""
    with scratch(shelf.root / "tries") as folder:
        root = shelf.copy(folder)
        process = forked(_command(root), shelf.root / "cache", folder / "log")
        time.sleep(after)
        process.kill()
        landed = ended(process) != 0
        try:
            fault = fault_of(shelf, root)
            freed = sum(not (root / "artifacts" / name).exists() for name in shelf.going)
            if landed:
                codes[f"with {freed} of {len(shelf.going)} freed"] += 1
            return landed, fault or _finished(shelf, root, PosixDisk())
        except Exception as error:
            return landed, repr(error)


def _full(shelf: Shelf, counts: list[Count]) -> list[str]:
    """A file system without a byte left is what gc is for: it works there. Adds to `counts`, or says why not."""
    found = in_namespace(shelf.root, "tests.battery.registry_gc", str(shelf.root), *sorted(shelf.going))
    if found is None:
        return ["gc on a full disk: no mount namespace can be had here"]
    count = Count("full disks on which gc frees all that may go")
    count.add(json.loads(found))
    counts.append(count)
    return []


def _child(root: Path, going: Sequence[str]) -> str | None:
    shelf = Shelf(root, frozenset(going))
    with mounted(root / "disk", 64 << 20) as disk:
        copy = shelf.copy(disk)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            for nbytes in (1 << 20, 4096, 1):
                try:
                    while ballast.write(bytes(nbytes)):
                        pass
                except OSError:
                    continue
        return _finished(shelf, copy, PosixDisk())


def _scaled(adapter: Path, number: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Other values, of the same shapes."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    return {k: v * number for k, v in load_file(adapter / "adapter_model.safetensors").items()}, config


if __name__ == "__main__":
    print(json.dumps(_child(Path(sys.argv[1]), sys.argv[2:])))
