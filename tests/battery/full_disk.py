"""A disk that is too small, and one that somebody else fills during the run; a real file system of a real size.

The file systems are tmpfs in a mount namespace of a child process, as root or in a user namespace of one's own:

    python -m tests.battery.full_disk ROOT NUMBER        the child; prints its faults as JSON
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from ingot.merge import Job, running
from ingot.merge.running import SPARE_NBYTES
from tests.battery.figure import Count, Figure, Report, scaled
from tests.battery.workshop import Content, Workshop, cli, difference, leavings, llama_model, workshop

SIZES = 50
_NONE, _ENOUGH = 64 << 10, 64 << 20


def run(scale: float, report: Report) -> Figure:
    with workshop(llama_model, hidden=128, layers=4, shard_nbytes=300_000) as shop:
        shop.reference()
        number = scaled(SIZES, scale, 3)
        found = in_namespace(shop.root, "tests.battery.full_disk", str(shop.root), str(number))
        if found is None:
            return Figure([], skipped=["full disks: no mount namespace can be had here"])
    report(number, number)
    small, filled = json.loads(found)
    return Figure(
        [
            Count("disks of too little room: exit 14, nothing written; with room, identical", number, small),
            Count(
                "disks filled during the run: exit 14, nothing final; with room, resumed to identical bytes",
                number,
                filled,
            ),
        ]
    )


def in_namespace(root: Path, module: str, *arguments: str) -> str | None:
    """What a module prints where it may mount file systems that nobody else sees; None where that cannot be had."""
    prefix = _namespace()
    if prefix is None:
        return None
    path = os.pathsep.join(["src", "."])
    found = subprocess.run(
        [*prefix, sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path, "INGOT_CACHE": str(root / "cache")},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        raise RuntimeError(found.stderr[-3000:])
    return found.stdout


def _namespace() -> list[str] | None:
    """A command prefix under which file systems may be mounted that nobody else sees."""
    for prefix in (["unshare", "-m"], ["unshare", "-Urm"]):
        probe = [*prefix, "sh", "-c", "mount -t tmpfs none /mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return prefix
    return None


def _child(root: Path, number: int) -> tuple[list[str], list[str]]:
    shop = Workshop(root, root / "base", root / "adapter")
    expected = shop.reference()
    payload = sum(path.stat().st_size for path in (root / "reference").iterdir())
    sizes = [_NONE + (payload + SPARE_NBYTES - _NONE) * n // number for n in range(number)]
    left = [(payload + (64 << 10)) * n // number for n in range(number)]
    small = [fault for size in sizes if (fault := _too_small(shop, expected, size))]
    return small, [fault for size in left if (fault := _filled(shop, expected, size))]


def _too_small(shop: Workshop, expected: Content, size: int) -> str | None:
    with mounted(shop.root / "disk", size) as disk:
        code, _, said = cli(*shop.command(disk / "out"))
        if code != 14 or list(disk.iterdir()):
            return f"{size} bytes: exit {code}, {list(disk.iterdir())}: {said}"
        return _retried(shop, disk, expected, f"{size} bytes")


def _filled(shop: Workshop, expected: Content, left: int) -> str | None:
    """The room sufficed when it was looked at; then somebody else took all but `left` bytes."""
    with mounted(shop.root / "disk", _ENOUGH) as disk:
        with _ballast(disk / "ballast", left):
            code, _, said = cli(*shop.command(disk / "out"))
        if code != 14 or (disk / "out").exists() or "Traceback" in said:
            return f"{left} bytes left: exit {code}: {said}"
        (disk / "ballast").unlink()
        return _retried(shop, disk, expected, f"{left} bytes left")


def _retried(shop: Workshop, disk: Path, expected: Content, what: str) -> str | None:
    subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}", str(disk)], check=True)
    code, _, said = cli(*shop.command(disk / "out"))
    fault = (f"exit {code}: {said}" if code else None) or difference(disk / "out", expected) or leavings(disk / "out")
    return f"{what}, again: {fault}" if fault else None


@contextmanager
def mounted(path: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def _ballast(path: Path, left: int) -> Iterator[None]:
    """Fill the disk right after the run has looked at its room."""
    really = running.check_room

    def check_room(jobs: Sequence[Job]) -> None:
        really(jobs)
        room = os.statvfs(path.parent)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))

    with mock.patch.object(running, "check_room", check_room):
        yield


if __name__ == "__main__":
    print(json.dumps(_child(Path(sys.argv[1]), int(sys.argv[2]))))
