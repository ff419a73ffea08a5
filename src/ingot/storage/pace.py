"""How fast this machine's last big run wrote, so that the next plan can say how long it will take.

A cache in every sense: absent, unreadable or absurd means unknown, and no failure of it is an error.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from ingot.errors import IngotError
from ingot.formats import strict_json
from ingot.storage.digest_memory import cache_directory

_FILE_NAME = "pace.json"
#: A run that wrote less says more about its start than about the disk.
LEAST_NBYTES = 256 << 20


def recall(directory: Path | None = None) -> float | None:
    """Bytes a second of the last big run, or None."""
    directory = directory or cache_directory()
    if directory is None:
        return None
    try:
        found = strict_json.loads((directory / _FILE_NAME).read_bytes(), where=_FILE_NAME)
    except (OSError, IngotError):
        return None
    rate = found.get("nbytes_per_second") if isinstance(found, dict) else None
    return float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) and 1e3 < rate < 1e12 else None


def remember(nbytes: int, seconds: float, directory: Path | None = None) -> None:
    """Keep the pace of a run that wrote `nbytes`; a small run is not kept."""
    directory = directory or cache_directory()
    if directory is None or nbytes < LEAST_NBYTES or seconds <= 0 or not math.isfinite(seconds):
        return
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / _FILE_NAME).write_bytes(strict_json.dumps_pretty({"nbytes_per_second": round(nbytes / seconds)}))
