"""`make bench`: makes synthetic checkpoints, runs every contender, writes docs/benchmarks.md.

python -m benchmarks --sizes 1B 3B 8B --repeats 5 --work DIR
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Contender, Cost, can_drop_caches, interleaved, medians
from benchmarks.report import Result, write_report
from benchmarks.rounding import differing_share
from benchmarks.synthetic import SHAPES, make_adapter, make_base

ROOT = Path(__file__).parent.parent
INGOT, FIRST, COPY, PEFT = "ingot, base digest known", "ingot, first sight of the base", "cp -r", "PEFT script"
#: PEFT holds the whole model and a copy of a shard; the 8B does not fit the machine that this is meant for.
PEFT_SIZES = ("1B", "3B")
RANKS = (16, 64)


def main() -> None:
    """Parse the arguments, measure, report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1B", "3B", "8B"], choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    results: list[Result] = []
    for size in arguments.sizes:
        for result in _measure(size, arguments.work, arguments.repeats):
            results.append(result)
            write_report(sorted(results, key=lambda r: (list(SHAPES).index(r.size), r.rank)), arguments.report)
    print(arguments.report.read_text(encoding="utf-8"))


def _measure(size: str, work: Path, repeats: int) -> Iterator[Result]:
    with _made(size, work) as base:
        for rank in RANKS:
            adapter = work / f"{size}-r{rank}"
            main_case = size == "3B" and rank == RANKS[0]
            contenders = _contenders(base, adapter, work, with_peft=False)
            count = repeats if main_case else 1 if size == "8B" else max(1, repeats // 2)
            warm = {name: medians(costs) for name, costs in interleaved(contenders, count, cold=False).items()}
            cold: dict[str, Cost] = {}
            if main_case and can_drop_caches():
                cold = {name: medians(costs) for name, costs in interleaved(contenders, count, cold=True).items()}
            if size in PEFT_SIZES and rank == RANKS[0]:
                peft = [c for c in _contenders(base, adapter, work, with_peft=True) if c.name == PEFT]
                warm |= {
                    name: medians(costs) for name, costs in interleaved(peft, max(1, repeats // 2), cold=False).items()
                }
            shares = _shares(size, base, adapter, work) if size == "1B" and rank == RANKS[0] else {}
            yield Result(size, rank, warm, cold, shares)


@contextmanager
def _made(size: str, work: Path) -> Iterator[Path]:
    base = work / size
    print(f"{size}: making the checkpoint and its adapters", file=sys.stderr, flush=True)
    for path in (base, *(work / f"{size}-r{rank}" for rank in RANKS)):
        shutil.rmtree(path, ignore_errors=True)
    make_base(SHAPES[size], base)
    for rank in RANKS:
        make_adapter(SHAPES[size], work / f"{size}-r{rank}", rank)
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _contenders(base: Path, adapter: Path, work: Path, *, with_peft: bool) -> list[Contender]:
    out, known, fresh = work / "out", work / "cache-known", work / "cache-fresh"
    merge = [sys.executable, "-m", "ingot", "merge", str(base), str(adapter), "-o", str(out), "--quiet"]
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(merge, env={**os.environ, "INGOT_CACHE": str(known)}, check=True, stdout=subprocess.DEVNULL)
    found = [
        Contender(COPY, ["cp", "-r", str(base), str(out)], out, {}),
        Contender(INGOT, merge, out, {"INGOT_CACHE": str(known)}),
        Contender(FIRST, merge, out, {"INGOT_CACHE": str(fresh)}, lambda: shutil.rmtree(fresh, ignore_errors=True)),
    ]
    if with_peft:
        script = [sys.executable, "-m", "benchmarks.peft_merge", str(base), str(adapter), str(out)]
        found.append(Contender(PEFT, script, out, {"HF_HUB_OFFLINE": "1"}))
    return found


def _shares(size: str, base: Path, adapter: Path, work: Path) -> dict[str, tuple[float, int]]:
    out = work / "rounding"
    ways = {
        "ingot": [sys.executable, "-m", "ingot", "merge", str(base), str(adapter), "-o", str(out), "--quiet"],
        "PEFT": [sys.executable, "-m", "benchmarks.peft_merge", str(base), str(adapter), str(out)],
        "PEFT, safe_merge": [
            sys.executable,
            "-m",
            "benchmarks.peft_merge",
            str(base),
            str(adapter),
            str(out),
            "--safe",
        ],
    }
    shares = {}
    for name, command in ways.items():
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shares[name] = differing_share(SHAPES[size], base, adapter, out, layers=4)
    shutil.rmtree(out, ignore_errors=True)
    return shares


if __name__ == "__main__":
    main()
