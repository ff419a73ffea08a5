"""Inputs that must be refused, as data: `CASES[kind]` is a list, and each case knows how to be tried.

python -m tests.formats.evil     prints "n of n refused" for each kind
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ingot.errors import IngotError

from .evil_case import Case
from .evil_headers import HEADERS, LARGE_HEADERS
from .evil_pickles import PICKLES
from .evil_texts import FILE_NAMES, INDEXES, JSON
from .evil_zips import ZIPS

CASES: dict[str, list[Case]] = {
    "safetensors headers": HEADERS,
    "100 MB headers": LARGE_HEADERS,
    "JSON documents": JSON,
    "file names": FILE_NAMES,
    "shard indexes": INDEXES,
    "pickles": PICKLES,
    "zip files": ZIPS,
}


def is_refused(case: Case, directory: Path) -> bool:
    try:
        case.prepare(directory)()
    except IngotError:
        return True
    return False


def main() -> int:
    """Try everything; 1 where anything was let in."""
    let_in = 0
    for kind, cases in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            passed = [case.name for case in cases if not is_refused(case, Path(directory))]
        print(
            f"{kind}: {len(cases) - len(passed)} of {len(cases)} refused", *passed, sep="\n  let in: " if passed else ""
        )
        let_in += len(passed)
    return 1 if let_in else 0


if __name__ == "__main__":
    sys.exit(main())
