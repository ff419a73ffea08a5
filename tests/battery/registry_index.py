"""The index of a registry, damaged in every way, also under eight writers at once: nothing that was written is missing.

The truth is in the records and the tags; so after each damage the artifacts and tags must be exactly those that were
written, `reindex` must say the same, and once the trouble is over the index must be a sound one again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ingot.registry.places import Places
from ingot.registry.store import Registry
from tests.battery.figure import Figure, Report, caught, counted, scaled
from tests.battery.processes import ended, forked, parallel, running
from tests.battery.workshop import Workshop, scratch, small_model, workshop
from tests.registry.shelf import release, variant

DAMAGES, ROUNDS, WRITERS, READERS, EACH = 400, 10, 8, 2, 8
SMALL_SAMPLE, NOBODY = 0.05, 65534
#: Name, state and tags of every artifact.
Truth = dict[str, tuple[str, tuple[str, ...]]]
Damage = Callable[[Path, random.Random], None]


def run(scale: float, report: Report) -> Figure:
    with workshop(small_model) as shop:
        shelf = _shelf(shop)
        number = scaled(DAMAGES, scale, len(_DAMAGES))
        seeds = [(names[n % len(names)], n) for n in range(number) for names in [sorted(_DAMAGES)]]
        what = f"damaged indexes ({len(_DAMAGES)} kinds): every artifact and tag as written, `reindex` the same"
        counts = [counted(what, number, parallel(partial(_damaged, shelf), seeds), report)]
        each = EACH if scale >= SMALL_SAMPLE else 2
        rounds = range(scaled(ROUNDS, scale, 1))
        what = (
            f"rounds of {WRITERS} writers ({each} artifacts and tags each) and {READERS} readers over an index that is "
            "damaged all the time: the same, no process failed, and no reader lost what it had seen"
        )
        faults = (caught(partial(_round, shelf, each), n) for n in rounds)
        counts.append(counted(what, len(rounds), faults, report))
        stale = (
            caught(partial(_read_only, shelf), damage) for damage in (None, "deleted", "flipped header", "no table")
        )
        what = "registries in folders that cannot be written, with and without an index: every artifact and tag listed"
        counts.append(counted(what, 4, stale, report))
    return Figure(counts)


def _shelf(shop: Workshop) -> Path:
    """A registry with an artifact that is freed, one elsewhere, one here; and two tags."""
    root = shop.root / "shelf"
    registry = Registry.open(root / "registry", create=True)
    first = release(registry, shop.base, shop.adapter, "1")
    made = variant(registry.folder(first), registry.layout.work / "two", version="2")
    second = registry.publish(made, Places("support-v2"))
    away = variant(registry.folder(first), root / "elsewhere", version="3")
    registry.tag([("champion", second.identity), ("old", first.identity)])
    registry.add(away, Places("support-v3"))
    with registry.changing():
        registry.free(first)
    return root


def truth_of(registry: Registry) -> Truth:
    return {entry.identity: (f"{entry.name} {entry.state}", entry.tags) for entry in registry.entries()}


# -- damage of one kind


def _flipped(index: Path, chance: random.Random, share: float = 1.0) -> None:
    data = bytearray(index.read_bytes())
    for _ in range(chance.choice((1, 1, 8, 200))):
        data[chance.randrange(max(1, int(len(data) * share)))] ^= 1 << chance.randrange(8)
    index.write_bytes(data)


def _in_a_value(index: Path, chance: random.Random) -> None:
    """Damage that SQLite cannot notice: another letter in what a row says."""
    connection = sqlite3.connect(index)
    with connection:
        path, facts = chance.choice(connection.execute("SELECT path, facts FROM records").fetchall())
        at = chance.randrange(len(facts) - 1)
        changed = facts[:at] + chance.choice("0a \x7f") + facts[at + 1 :]
        connection.execute("UPDATE records SET facts = ? WHERE path = ?", (changed, path))
    connection.close()


def _sql(text: str, index: Path, _: random.Random) -> None:
    connection = sqlite3.connect(index)
    with connection:
        connection.execute(text)
    connection.close()


def _directory(index: Path, chance: random.Random) -> None:
    index.unlink(missing_ok=True)
    index.mkdir()
    if chance.random() < 0.5:
        (index / "file").write_text("in it")


def _link(index: Path, chance: random.Random) -> None:
    index.unlink(missing_ok=True)
    index.symlink_to(chance.choice(("index.sqlite", "nowhere/index.sqlite")))


_DAMAGES: dict[str, Damage] = {
    "deleted": lambda index, _: index.unlink(),
    "zero length": lambda index, _: index.write_bytes(b""),
    "truncated": lambda index, chance: os.truncate(index, chance.randrange(index.stat().st_size)),
    "flipped": _flipped,
    "flipped header": partial(_flipped, share=0.02),
    "another value": _in_a_value,
    "garbage": lambda index, chance: index.write_bytes(chance.randbytes(chance.randrange(20_000))),
    "zeros": lambda index, _: index.write_bytes(bytes(index.stat().st_size)),
    "older version": partial(_sql, "PRAGMA user_version = 1"),
    "newer version": partial(_sql, "PRAGMA user_version = 99"),
    "no table": partial(_sql, "DROP TABLE records"),
    "another table": partial(_sql, "ALTER TABLE records RENAME COLUMN facts TO fiction"),
    "a row too few": partial(_sql, "DELETE FROM records WHERE path = (SELECT min(path) FROM records)"),
    "a journal that is none": lambda index, chance: (
        Path(f"{index}-journal").write_bytes(chance.randbytes(5_000)) and None
    ),
    "a directory": _directory,
    "a link": _link,
}


def _damaged(shelf: Path, point: tuple[str, int]) -> str | None:
    name, seed = point
    chance = random.Random(seed)
    with scratch(shelf / "tries") as folder:
        registry = Registry.open(Path(shutil.copytree(shelf / "registry", folder / "registry")))
        expected = truth_of(registry)
        _DAMAGES[name](registry.layout.index, chance)
        for how in ("a look", "another look"):
            found = truth_of(registry)
            if found != expected:
                return f"{name} {seed}: {how} found {found}, not {expected}"
        registry.reindex()
        if truth_of(registry) != expected or registry.faults:
            return f"{name} {seed}: reindex found something else: {registry.faults}"
        return _unsound(registry.layout.index, name)


def _unsound(index: Path, name: str) -> str | None:
    """What was put in its way by hand is left alone; else the index is an index again."""
    if name in ("a directory", "a link"):
        return None
    connection = sqlite3.connect(f"file:{index}?mode=ro", uri=True)
    try:
        (rows,) = connection.execute("SELECT count(*) FROM records").fetchone()
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
    finally:
        connection.close()
    return None if rows and sound == "ok" else f"{name}: the index stays damaged: {sound}"


def _read_only(shelf: Path, damage: str | None) -> str | None:
    """By a user who is not root: root may write everywhere."""
    user = NOBODY if os.geteuid() == 0 else None
    with scratch(shelf / "tries") as folder:
        root = Path(shutil.copytree(shelf / "registry", folder / "registry"))
        expected = truth_of(Registry.open(root))
        if damage is not None:
            _DAMAGES[damage](root / "index.sqlite", random.Random(1))
        for path in (shelf.parent, shelf, shelf / "tries", folder, shelf / "elsewhere"):
            path.chmod(0o755)
        paths = [root, *root.rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        (folder / "log").touch()
        (folder / "log").chmod(0o666)
        command = ["registry", "list", "--json", "--registry", str(root)]
        code = ended(forked(command, folder / "cache", folder / "log", user=user))
        for path in paths:
            path.chmod(0o755)
        said = (folder / "log").read_text()
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        listed = [line for line in lines if line["type"] == "artifact"]
        found = {line["identity"]: (f"{line['name']} {line['state']}", tuple(line["tags"])) for line in listed}
        return None if found == expected and code == 0 else f"index {damage}: exit {code}, {said}"


# -- damage under many


def _round(shelf: Path, each: int, number: int) -> str | None:
    chance = random.Random(number)
    with scratch(shelf / "tries") as folder:
        root = Path(shutil.copytree(shelf / "registry", folder / "registry"))
        registry, stop = Registry.open(root), folder / "stop"
        expected = truth_of(registry)
        artifact = registry.layout.artifacts / "support-v2"
        for writer in range(WRITERS):
            for n in range(each):
                variant(artifact, folder / f"made-{writer}-{n}", version=f"{writer}.{n}")
        readers = [running(_read, root, folder / f"reader-{n}", stop) for n in range(READERS)]
        writers = [running(_write, root, folder, writer, each) for writer in range(WRITERS)]
        while any(writer.exitcode is None for writer in writers):
            _vandalize(registry.layout.index, chance)
            time.sleep(chance.uniform(0, 0.02))
        codes = [ended(process) for process in writers]
        stop.touch()
        codes += [ended(process) for process in readers]
        if any(codes):
            said = [path.read_text() for path in sorted(folder.glob("reader-*"))]
            return f"round {number}: exit codes {codes} {said}"
        shutil.rmtree(registry.layout.index, ignore_errors=True)
        for writer in range(WRITERS):
            for n in range(each):
                where = folder / f"made-{writer}-{n}"
                identity = next(e.identity for e in registry.entries() if e.place == str(where))
                expected[identity] = f"{where.name} elsewhere", (f"tag-{writer}-{n}",)
        found = truth_of(registry)
        again = truth_of(registry) if registry.reindex() else {}
        if found != expected or again != expected:
            return f"round {number}: {len(found)} found, {len(again)} after reindex, {len(expected)} expected"
        return _unsound(registry.layout.index, f"round {number}")


def _write(root: Path, folder: Path, writer: int, each: int) -> None:
    registry = Registry.open(root)
    for n in range(each):
        made = folder / f"made-{writer}-{n}"
        entry = registry.add(made, Places(made.name))
        registry.tag([(f"tag-{writer}-{n}", entry.identity)])
        mine = next(one for one in registry.entries() if one.identity == entry.identity)
        assert mine.tags == (f"tag-{writer}-{n}",), mine


def _read(root: Path, log: Path, stop: Path) -> None:
    """Look until told to stop: what was seen once is seen always, and whole."""
    registry, seen = Registry.open(root), {}
    while not stop.exists():
        found = truth_of(registry)
        lost = [name for identity, name in seen.items() if identity not in found]
        if lost or registry.faults:
            log.write_text(f"lost {lost}, {registry.faults}")
            raise AssertionError(lost)
        seen = {identity: name for identity, (name, _) in found.items()}


def _vandalize(index: Path, chance: random.Random) -> None:
    """One kind of damage at random; another process may be quicker."""
    name = chance.choice(sorted(_DAMAGES))
    try:
        if index.is_dir() and not index.is_symlink():
            shutil.rmtree(index)
        elif index.is_symlink():
            index.unlink()
        _DAMAGES[name](index, chance)
    except (OSError, sqlite3.Error, ValueError, IndexError):
        return
