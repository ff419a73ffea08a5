"""One pass to a Q4_K_M against the usual three: merge, llama.cpp's converter, llama-quantize.

python -m benchmarks.gguf --sizes 1B 3B --repeats 3 --work DIR

Needs the llama.cpp that `make reference` builds (or INGOT_LLAMA_CPP). Writes docs/benchmarks-gguf.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Contender, Cost, medians, run
from benchmarks.report import machine
from benchmarks.synthetic import SHAPES, make_adapter, make_base
from tests.quantize.gguf.models import FILES, TOKENIZER
from tests.quantize.gguf.reference import llama_cpp
from tests.quantize.gguf.reference.files import CONVERT

ROOT = Path(__file__).parent.parent
ONE, THREE, PEFT = "one pass", "ingot merge, convert, llama-quantize", "PEFT merge, convert, llama-quantize"
_HEAD = """\
# GGUF in one pass, measured

Written by `python -m benchmarks.gguf`: a synthetic Llama in bf16 and a LoRA of rank 16, to Q4_K_M. Three steps are a
merge (a PEFT script, or `ingot merge`), llama.cpp's convert_hf_to_gguf.py and llama-quantize (all cores). Wall time
includes starting every process and the `sync` at the end; medians, the ways in turns. Bytes written are those of every
file that a way makes. Most of the one pass is ggml's own quantizer, which llama-quantize runs too: that bounds what can
be saved.

Machine: {machine}.

| model | way | wall | of PEFT's three steps | CPU | peak memory | bytes written |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """What a way took on one model."""

    size: str
    name: str
    cost: Cost
    written: int


def main() -> None:
    """Parse the arguments, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf", description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1B", "3B"], choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "benchmarks-gguf.md")
    arguments = parser.parse_args()
    results: list[Result] = []
    for size in arguments.sizes:
        results += _measure(size, arguments.work, arguments.repeats)
        arguments.report.write_text(_report(results), encoding="utf-8")
    print(arguments.report.read_text(encoding="utf-8"))


def _measure(size: str, work: Path, repeats: int) -> list[Result]:
    base, adapter = work / f"gguf-{size}", work / f"gguf-{size}-r16"
    for path in (base, adapter):
        shutil.rmtree(path, ignore_errors=True)
    make_base(SHAPES[size], base)
    make_adapter(SHAPES[size], adapter, 16)
    for file in FILES:
        if (TOKENIZER / file).exists():
            shutil.copy(TOKENIZER / file, base / file)
    ways = (
        _one(base, adapter, work / "out-one"),
        _three(THREE, "ingot", base, adapter, work / "out-three"),
        _three(PEFT, "benchmarks.peft_merge", base, adapter, work / "out-peft"),
    )
    costs: dict[str, list[Cost]] = {way.name: [] for way in ways}
    written = {}
    try:
        for number in range(repeats):
            for way in ways:
                costs[way.name].append(run(way, cold=False))
                written[way.name] = sum(file.stat().st_size for file in way.out.rglob("*") if file.is_file())
                shutil.rmtree(way.out)
                last = costs[way.name][-1]
                print(
                    f"  {size} {number + 1}/{repeats} {way.name:<32} {last.seconds:6.1f} s", file=sys.stderr, flush=True
                )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return [Result(size, way.name, medians(costs[way.name]), written[way.name]) for way in ways]


def _one(base: Path, adapter: Path, out: Path) -> Contender:
    command = [sys.executable, "-m", "ingot", "merge", str(base), str(adapter), "-o", str(out), "--to", "gguf:Q4_K_M",
               "--quiet"]  # fmt: skip
    return Contender(ONE, command, out, {})


def _three(name: str, merger: str, base: Path, adapter: Path, out: Path) -> Contender:
    merged, whole = out / "merged", out / "whole.gguf"
    inputs = [str(base), str(adapter)]
    merge = ["merge", *inputs, "-o", str(merged), "--quiet"] if merger == "ingot" else [*inputs, str(merged)]
    steps = (
        ["mkdir", "-p", str(out)],
        [sys.executable, "-m", merger, *merge],
        ["cp", *(str(base / file) for file in FILES if (base / file).exists()), str(merged)],
        [sys.executable, "-c", CONVERT, str(llama_cpp.source()), str(merged), "--outfile", str(whole)],
        [str(llama_cpp.binaries() / "llama-quantize"), str(whole), str(out / "q4.gguf"), "Q4_K_M",
         str(len(os.sched_getaffinity(0)))],
    )  # fmt: skip
    script = "import subprocess, sys\nfor step in eval(sys.argv[1]): subprocess.run(step, check=True)"
    environment = {"LD_LIBRARY_PATH": str(llama_cpp.binaries()), "HF_HUB_OFFLINE": "1"}
    return Contender(name, [sys.executable, "-c", script, repr([list(step) for step in steps])], out, environment)


def _report(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        three = next(other for other in results if (other.size, other.name) == (result.size, PEFT))
        cost = result.cost
        rows.append(
            f"| {result.size} | {result.name} | {cost.seconds:.1f} s | {cost.seconds / three.cost.seconds:.2f} × "
            f"| {cost.cpu_seconds:.1f} s | {cost.peak_nbytes / 1e6:.0f} MB "
            f"| {result.written / 1e9:.2f} GB ({result.written / three.written:.2f} ×) |"
        )
    return _HEAD.format(machine=machine()) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
