"""Eight processes on one output at once: of one plan, and of two."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.battery.figure import Count, Figure, Report, counted, scaled
from tests.battery.processes import ended, forked
from tests.battery.workshop import Workshop, content_of, leavings, llama_model, workshop

ROUNDS, PROCESSES = 100, 8


def run(scale: float, report: Report) -> Figure:
    codes: Counter[int] = Counter()
    with workshop(llama_model) as one:
        other = _other(one)
        # Two plans in every other round.
        rounds = [(one, other) if n % 2 else (one, one) for n in range(scaled(ROUNDS, scale, 2))]
        what = f"rounds of {PROCESSES} processes on one output (one plan, two plans): never mixed, all exit 0 or 15"
        faults = (_round(number, shops, codes) for number, shops in enumerate(rounds))
        count: Count = counted(what, len(rounds), faults, report)
    return Figure([count], [f"exit codes: {', '.join(f'{n} × {code}' for code, n in sorted(codes.items()))}"])


def _other(shop: Workshop) -> Workshop:
    """The same base, another adapter."""
    adapter = shop.root / "other-adapter"
    shutil.copytree(shop.adapter, adapter)
    weights = adapter / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
    return shop.with_adapter(adapter)


def _round(number: int, shops: tuple[Workshop, Workshop], codes: Counter[int]) -> str | None:
    folder = shops[0].root / f"round-{number}"
    folder.mkdir()
    out, start_at = folder / "out", time.monotonic() + 0.3
    crowd = [shops[n % 2] for n in range(PROCESSES)]
    running = [
        forked(shop.command(out), shop.root / "cache", folder / f"{n}.log", start_at=start_at)
        for n, shop in enumerate(crowd)
    ]
    found = [ended(process) for process in running]
    codes.update(found)
    fault = _fault(out, crowd, found)
    if fault:
        said = "; ".join((folder / f"{n}.log").read_text()[-300:] for n in range(PROCESSES) if found[n] not in (0, 15))
        return f"round {number}: {fault} {found} {said}"
    shutil.rmtree(folder)
    return None


def _fault(out: Path, crowd: list[Workshop], codes: list[int]) -> str | None:
    made = content_of(out)
    right = [made == _reference(shop) for shop in crowd]
    if not any(right):
        return "the output is no one's plan"
    if not set(codes) <= {0, 15}:
        return "an exit code of neither"
    if 0 not in codes or any(code == 0 and not mine for code, mine in zip(codes, right, strict=True)):
        return "success was told of another plan's output"
    return leavings(out)


def _reference(shop: Workshop) -> dict[str, str]:
    out = shop.root / f"reference-{shop.adapter.name}"
    if not out.exists():
        shop.merge(out)
    content = content_of(out)
    assert content is not None
    return content
