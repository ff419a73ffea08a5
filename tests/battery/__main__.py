"""python -m tests.battery [--only NAME ...] [--quick] [--json]"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from tests import dispositions
from tests.battery.figure import Count, Figure, Report

#: In order of the docs; each is a module of this package.
ITEMS = (
    "crash_points", "failing_writes", "full_disk", "kills", "signals", "resume_state", "concurrency", "truncation",
    "header_bits", "evil", "nonfinite", "rot", "permissions", "determinism", "memory", "evidence",
    "registry_gc", "registry_index", "release_kills", "rebuild_after_gc",
)  # fmt: skip
QUICK = 0.1


@dataclass(frozen=True)
class Row:
    name: str
    figure: Figure
    seconds: float


def run_item(name: str, scale: float, *, quiet: bool = False) -> Figure:
    """One item; what it raises is a fault too, and the others go on."""
    module = importlib.import_module(f"tests.battery.{name}")
    try:
        figure: Figure = module.run(scale, Report(name, quiet=quiet))
    except Exception:
        figure = Figure([Count("runs of this item came to their end", 1, [traceback.format_exc()])])
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the items, print each figure as it is reached, then the table; 1 when any falls short."""
    dispositions.restore()
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ITEMS, default=list(ITEMS), metavar="NAME", help=", ".join(ITEMS))
    parser.add_argument("--quick", action="store_true", help="a tenth of each item")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout")
    arguments = parser.parse_args(argv)
    begun, rows = time.monotonic(), []
    for name in arguments.only:
        started = time.monotonic()
        figure = run_item(name, QUICK if arguments.quick else 1.0)
        rows.append(Row(name, figure, time.monotonic() - started))
        _tell(rows[-1])
    seconds = time.monotonic() - begun
    print(_json(rows, seconds) if arguments.json else _table(rows, seconds))
    return 0 if all(row.figure.ok for row in rows) else 1


def _tell(row: Row) -> None:
    for line in (*row.figure.lines, *(f"  FAULT {fault}" for fault in row.figure.faults)):
        print(f"{row.name}: {line}", file=sys.stderr, flush=True)


def _table(rows: Sequence[Row], seconds: float) -> str:
    lines = [""]
    for row in rows:
        first, *rest = row.figure.lines
        lines.append(f"{'ok' if row.figure.ok else 'FAILED':<8}{row.name:<16}{row.seconds:6.0f} s  {first}")
        lines += [f"{'':34}{line}" for line in rest]
    short = sum(not row.figure.ok for row in rows)
    lines += ["", f"{len(rows) - short} of {len(rows)} items, {seconds / 60:.1f} minutes on {os.cpu_count()} cores"]
    return "\n".join(lines)


def _json(rows: Sequence[Row], seconds: float) -> str:
    items = [
        {"name": row.name, "ok": row.figure.ok, "figures": row.figure.lines, "faults": row.figure.faults,
         "seconds": round(row.seconds, 1)} for row in rows
    ]  # fmt: skip
    return json.dumps(
        {"ok": all(row.figure.ok for row in rows), "seconds": round(seconds, 1), "items": items}, indent=2
    )


if __name__ == "__main__":
    sys.exit(main())
