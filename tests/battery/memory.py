"""Peak memory of real processes against the plan's promise, for a model and for one of ten times its size."""

from __future__ import annotations

import json
import shutil
import sys

from tests.battery.figure import Count, Figure, Report
from tests.battery.processes import started
from tests.battery.workshop import Workshop, cli, llama_model, workshop

LAYERS = (8, 80)
#: Bytes of a layer's weights in BF16 are 2 · 11 · hidden²: about 5.8 MB.
HIDDEN, QUICK_HIDDEN = 512, 128

#: subtle: a process begins with the peak of the one that started it, and this one has imported torch. A small one in
#: between reports the peak of its child.
_LAUNCHER = (
    sys.executable, "-c",
    "import resource, subprocess, sys\n"
    "subprocess.run(sys.argv[1:], check=True)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
)  # fmt: skip


def run(scale: float, report: Report) -> Figure:
    counted = Count("models stay within the peak memory that the plan states")
    notes = []
    for number, layers in enumerate(LAYERS):
        hidden = HIDDEN if scale >= 1 else QUICK_HIDDEN
        with workshop(llama_model, hidden=hidden, layers=layers, shard_nbytes=50_000_000) as shop:
            peak, stated, model = _measured(shop)
        counted.add(None if peak <= stated else f"{layers} layers: {peak:,} bytes, stated {stated:,}")
        notes.append(f"a model of {model / 1e6:,.0f} MB: peak {peak / 1e6:.0f} MB, stated {stated / 1e6:.0f} MB")
        report(number + 1, len(LAYERS))
    return Figure([counted], notes)


def _measured(shop: Workshop) -> tuple[int, int, int]:
    """Peak resident bytes of `ingot merge --jobs 2`, the plan's bound, and the bytes of the base."""
    code, said, _ = cli("plan", str(shop.base), str(shop.adapter), "--jobs", "2", "--json")
    assert code == 0, said
    stated = _budget(json.loads(said.splitlines()[-1]))
    process = started(
        shop.command(shop.root / "out", "--jobs", "2"), shop.root / "cache", shop.root / "log", through=_LAUNCHER
    )
    code, said = process.wait(), (shop.root / "log").read_text()
    assert code == 0, said
    shutil.rmtree(shop.root / "out")
    peak = int(said.splitlines()[-1]) * 1024
    return peak, stated, sum(path.stat().st_size for path in shop.base.glob("*.safetensors"))


def _budget(line: dict[str, object]) -> int:
    """`peak_memory_nbytes`, wherever it stands in the plan's JSON."""
    if isinstance(line.get("peak_memory_nbytes"), int):
        return int(str(line["peak_memory_nbytes"]))
    inner = [value for value in line.values() if isinstance(value, dict)]
    return max((_budget(value) for value in inner), default=0)
