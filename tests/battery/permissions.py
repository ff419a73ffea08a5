"""Places where nothing may be written, and the modes of what is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.battery.figure import Count, Figure, Report
from tests.battery.processes import ended, forked
from tests.battery.workshop import Workshop, difference, leavings, llama_model, workshop

UMASKS = (0o077, 0o022, 0o002, 0o027)
NOBODY = 65534


def run(scale: float, report: Report) -> Figure:
    with workshop(llama_model) as shop:
        shop.root.chmod(0o755)
        for path in (*shop.base.iterdir(), *shop.adapter.iterdir()):
            path.chmod(0o644)  # safetensors makes them 0600, and the user of the second half is not root
        shop.reference()
        modes = Count("umasks give every file 0666 & ~umask and the folder 0777 & ~umask")
        for number, umask in enumerate(UMASKS):
            modes.add(_modes(shop, umask))
            report(number, len(UMASKS))
        refused = Count("places that may not be written: exit 15, nothing written")
        for name, make in _PLACES.items():
            refused.add(_refused(shop, name, make))
    return Figure([modes, refused])


def _modes(shop: Workshop, umask: int) -> str | None:
    out = shop.root / f"umask-{umask:o}"
    code = ended(forked(shop.command(out), shop.root / "cache", shop.root / "log", umask=umask))
    if code:
        return f"umask {umask:03o}: exit {code}: {(shop.root / 'log').read_text()}"
    wrong = {
        path.name: oct(path.stat().st_mode) for path in out.iterdir() if path.stat().st_mode & 0o7777 != 0o666 & ~umask
    }
    if out.stat().st_mode & 0o7777 != 0o777 & ~umask:
        wrong["the folder"] = oct(out.stat().st_mode)
    fault = difference(out, shop.reference()) or leavings(out)
    return f"umask {umask:03o}: {wrong or fault}" if wrong or fault else None


def _closed(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "out"


def _closed_above(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "new" / "out"


def _file(folder: Path) -> Path:
    (folder / "out").write_text("mine")
    return folder / "out"


def _full(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("mine")
    return folder / "out"


def _link(folder: Path) -> Path:
    (folder / "elsewhere").mkdir()
    (folder / "out").symlink_to("elsewhere")
    return folder / "out"


#: What lies at the target, by its name.
_PLACES: dict[str, Callable[[Path], Path]] = {
    "a read-only folder": _closed,
    "a new folder in a read-only one": _closed_above,
    "a file": _file,
    "a folder that is not empty": _full,
    "a link to a folder": _link,
}


def _refused(shop: Workshop, name: str, make: Callable[[Path], Path]) -> str | None:
    """As a user who is not root: root may write everywhere."""
    user = NOBODY if os.geteuid() == 0 else None
    folder = shop.root / name.replace(" ", "-")
    folder.mkdir()
    out = make(folder)
    if user is not None:
        os.chown(folder, user, user)
    before = _seen(folder)
    log = shop.root / "log"
    code = ended(forked(shop.command(out), shop.root / "cache", log, user=user))
    after = _seen(folder)
    folder.chmod(0o755)
    well = code == 15 and after == before and "Traceback" not in log.read_text()
    return None if well else f"{name}: exit {code}, {sorted(after - before)}: {log.read_text()}"


def _seen(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")}
