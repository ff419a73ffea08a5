"""Hostile inputs: refused, with a canary outside unharmed, and with nothing imported, run or connected on the way."""

from __future__ import annotations

import sys
from pathlib import Path

from ingot.errors import IngotError, printable
from tests.battery.evil_folders import FOLDERS, EvilFolder, copied
from tests.battery.figure import Figure, Report, count, thinned
from tests.battery.workshop import Workshop, cli, difference, scratch, workshop
from tests.formats.evil import CASES
from tests.formats.evil_case import CANARY, Case

#: Audit events that an input must never cause. Our own lazy imports are done before, by honest merges and refusals.
_FORBIDDEN = ("exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.",
              "subprocess.", "socket.", "ctypes.", "marshal.", "pickle.", "code.", "urllib.", "ftplib.", "smtplib.",
              "webbrowser.", "shutil.", "os.remove", "os.rename", "os.truncate", "os.symlink", "os.link")  # fmt: skip
_events: list[str] | None = None


def run(scale: float, report: Report) -> Figure:
    _listen()
    with workshop() as shop:
        _warm_up(shop)
        library = [(kind, case) for kind, cases in CASES.items() for case in cases]
        read = count(
            "evil files refused by the library: canary unharmed, nothing imported or run",
            thinned(library, scale, 20), lambda kind_case: _library(shop, *kind_case), report,
        )  # fmt: skip
        merged = count(
            "evil bases and adapters refused by `ingot merge`: nothing written, imported or run, canary unharmed",
            thinned(FOLDERS, scale, 20), lambda evil: _command(shop, evil), report,
        )  # fmt: skip
    return Figure([read, merged])


def _listen() -> None:
    """An audit hook stays for the life of the process; it looks only while `_events` is a list."""
    if not getattr(sys, "_ingot_battery_listens", False):
        sys.addaudithook(_hear)
        sys._ingot_battery_listens = True  # type: ignore[attr-defined]


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _events is not None and event.startswith(_FORBIDDEN):
        _events.append(f"{event} {arguments!r}"[:200])


def _warm_up(shop: Workshop) -> None:
    """An honest merge, and refusals of each kind: whatever ingot imports late is imported now."""
    shop.reference()
    printable("\x1b")  # the codec of the escapes
    for evil in thinned(FOLDERS, 0.02, 10):
        with scratch(shop.root / "tries") as folder:
            outside = _outside(folder)
            copy = copied(shop, folder)
            evil.spoil(copy, outside)
            cli(*copy.command(folder / "out"))


def _outside(folder: Path) -> Path:
    outside = folder / "outside"
    outside.mkdir()
    (outside / CANARY).write_text("sings")
    return outside


def _library(shop: Workshop, kind: str, case: Case) -> str | None:
    global _events
    with scratch(shop.root / "tries") as folder:
        outside = _outside(folder)
        before = (outside / CANARY).stat()
        attempt = case.prepare(outside)
        _events = []
        try:
            attempt()
            fault: str | None = "let in"
        except IngotError:
            fault = None
        finally:
            heard, _events = _events, None
        fault = fault or _harm(outside, before.st_mtime_ns, heard)
        return f"{kind}, {case.name}: {fault}" if fault else None


def _command(shop: Workshop, evil: EvilFolder) -> str | None:
    global _events
    with scratch(shop.root / "tries") as folder:
        outside, copy = _outside(folder), copied(shop, folder)
        evil.spoil(copy, outside)
        before = (outside / CANARY).stat()
        _events = []
        try:
            code, _, said = cli(*copy.command(folder / "place" / "out"))
        finally:
            heard, _events = _events, None
        fault = _harm(outside, before.st_mtime_ns, heard)
        if code not in (10, 11, 12, 16) or (folder / "place").exists():
            fault = (
                f"exit {code}, {'' if code else difference(folder / 'place' / 'out', shop.reference())} {said[-500:]}"
            )
        return f"{evil.name}: {fault}" if fault else None


def _harm(outside: Path, mtime_ns: int, heard: list[str]) -> str | None:
    canary = outside / CANARY
    if not canary.exists() or canary.read_text() != "sings" or canary.stat().st_mtime_ns != mtime_ns:
        return "the canary was harmed"
    return f"audit events: {heard[:3]}" if heard else None
