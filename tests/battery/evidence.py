"""Faults planted into merged models, and sound merges: `validate` names every one of the first and none of the second.

On the demo's model and adapters, by the default gates. The notes say which gates saw a fault: the weights alone would
do for most, but a GGUF has none that can be compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ingot.demo import assets
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.storage import DigestMemory
from ingot.validate.request import Request, check
from ingot.validate.result import Evaluation
from ingot.validate.run import evaluate
from tests.battery.figure import Count, Figure, Report, count, scaled
from tests.battery.workshop import Workshop, scratch, workshop
from tests.validate.faults import BESIDE_WEIGHTS, IN_WEIGHTS, Clean, Plant

TRIES = 50
#: Of the task's samples; answers are short, for they only need to show that the model still works.
SAMPLES, NEW_TOKENS = 8, 12


def run(scale: float, report: Report) -> Figure:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    tries = range(scaled(TRIES, scale))
    seen: dict[str, Counter[str]] = {}
    with workshop() as shop:
        task = assets.tasks()[0]
        clean = Clean(assets.base(), task.adapter, _merged(shop, task.adapter, shop.root / "clean"))
        counts = [count("sound merges passed", tries, partial(_sound, shop), report)]
        for plant in (*IN_WEIGHTS, *BESIDE_WEIGHTS):
            gates = seen.setdefault(plant.__name__, Counter())
            counts.append(_planted(shop, clean, plant, tries, gates, report))
    notes = [f"{name} was seen by: {_listed(gates)}" for name, gates in seen.items()]
    return Figure(counts, notes)


def _planted(shop: Workshop, clean: Clean, plant: Plant, tries: range, gates: Counter[str], report: Report) -> Count:
    def one(seed: int) -> str | None:
        with scratch(shop.root / "tries") as folder:
            planted = plant(clean, folder / "faulty", seed)
            found = _validated(shop, clean.adapter, 1.0, planted.path)
        failed = [gate.name for gate in found.candidates[0].gates if not gate.ok]
        gates.update(dict.fromkeys(failed, 1))
        return None if failed else f"seed {seed}: {planted.kind} in {', '.join(planted.where)} was not noticed"

    return count(f"merges with a fault of the kind {plant.__name__} failed", tries, one, report)


def _sound(shop: Workshop, seed: int) -> str | None:
    """Both adapters, at different weights, in each dtype and rounding."""
    task = assets.tasks()[seed % 2]
    weight = 1.0 - 0.01 * (seed // 2)
    dtype, rounding = (None, "F16", "F32")[seed % 3], ("nearest", "stochastic", "preserve", "auto")[seed % 4]
    with scratch(shop.root / "tries") as folder:
        out = _merged(shop, task.adapter, folder / "sound", weight, Options(dtype=dtype, rounding=rounding))
        found = _validated(shop, task.adapter, weight, out)
    faults = [f"{gate.name}: {gate.said}" for gate in found.candidates[0].gates if not gate.ok]
    return f"seed {seed}: {'; '.join(faults)}" if faults else None


def _merged(shop: Workshop, adapter: Path, out: Path, weight: float = 1.0, options: Options | None = None) -> Path:
    with prepare(str(assets.base()), [(str(adapter), weight)], options, target=out) as job:
        job.run(memory=DigestMemory(shop.root / "cache"))
    return out


def _validated(shop: Workshop, adapter: Path, weight: float, candidate: Path) -> Evaluation:
    samples = shop.root / f"{adapter.name}.jsonl"
    if not samples.exists():
        lines = (assets.DATA / "samples" / samples.name).read_text(encoding="utf-8").splitlines(keepends=True)
        samples.write_text("".join(lines[:: len(lines) // SAMPLES][:SAMPLES]), encoding="utf-8")
    request = Request(
        reference=f"{assets.base()}+{adapter}={weight!r}", candidates=(str(candidate),), samples=(str(samples),),
        chat=True, new_tokens=NEW_TOKENS, dtype="float32", jobs=2, work=shop.root / "work",
    )  # fmt: skip
    return evaluate(check(request), _no_bar)


@contextmanager
def _no_bar(_what: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def _listed(gates: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in gates.most_common()) or "none"
