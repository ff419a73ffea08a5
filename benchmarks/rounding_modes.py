"""What each rounding mode does to trained adapters, and what it costs: the tables of docs/rounding.md.

python -m benchmarks.rounding_modes --work DIR
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

from benchmarks.rounding_effect import Effect, Voice, effect, listen, load, preserved, size, train
from ingot.demo import assets
from ingot.kernels.feedback import Preserve, Subspace
from ingot.kernels.grid import TileGrid
from ingot.kernels.rounding import Round, Stochastic, nearest
from ingot.kernels.tile import BlockChange, merge_tile
from ingot.merge import prepare
from ingot.plan.look import Look
from ingot.plan.model import Options
from ingot.storage import DigestMemory

REPORT = Path(__file__).parent.parent / "docs" / "rounding.md"
MODES = ("nearest", "stochastic", "preserve", "auto")
#: (task, learning rate, steps) of the adapters that are trained here, small updates first.
TRAINED = (
    ("dates", 1e-6, 20), ("dates", 5e-6, 20), ("dates", 2e-5, 20), ("dates", 5e-5, 40), ("dates", 2e-4, 40),
    ("commands", 5e-6, 20), ("commands", 5e-5, 40), ("commands", 1e-3, 60),
)  # fmt: skip
#: Adapters that are merged with several seeds.
CHANCED = ("dates, rate 5e-06, 20 steps", "dates, rate 2e-05, 20 steps", "dates, rate 5e-05, 40 steps",
           "commands, rate 5e-06, 20 steps", "commands, rate 5e-05, 40 steps")  # fmt: skip
#: Held-out samples that are asked.
SAMPLES = 96
#: Column title -> (base, --dtype)
TARGETS = {"bf16": ("bf16", None), "bf16 base to fp16": ("bf16", "F16"), "fp16": ("fp16", None)}


def main() -> None:
    """Train, merge, ask, time; write each table into its place in the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding_modes", description=__doc__)
    parser.add_argument("--work", type=Path, default=REPORT.parent.parent / "benchmarks" / "work" / "rounding")
    parser.add_argument("--only", choices=list(SECTIONS), nargs="+", default=list(SECTIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for section in arguments.only:
        lines = "\n".join(SECTIONS[section](arguments.work)).strip()
        begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
        before, _, rest = REPORT.read_text(encoding="utf-8").partition(begin)
        REPORT.write_text(f"{before}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


# -- what it does -----------------------------------------------------------------------------------------------------


def effects(work: Path) -> Iterator[str]:
    """A table for each target."""
    bases = {"bf16": assets.base(), "fp16": _fp16_base(work)}
    adapters = list(_adapters(work))
    for title, (base, dtype) in TARGETS.items():
        yield f"### {title}"
        yield ""
        yield "| adapter | Δ rms | Δ / half ulp | score | " + " | ".join(MODES) + " |"
        yield "|---|---|---|---|" + "---|" * len(MODES)
        for name, task, adapter in adapters:
            yield _row(name, task, adapter, bases[base], dtype, work)
            print(title, name, flush=True)
        yield ""


def _row(name: str, task: assets.Task, adapter: Path, base: Path, dtype: str | None, work: Path) -> str:
    samples = task.samples[:SAMPLES]
    unmerged, untouched = listen(load(base, adapter), samples), listen(load(base), samples)
    found = {mode: _merged(base, adapter, dtype, mode, work, samples) for mode in MODES}
    cells = [_cell(effect(unmerged, untouched, voice)) for voice in found.values()]
    delta, ratio = size(adapter, base)[0], _ratio(base, adapter, dtype)
    return f"| {name} | {delta:.1e} | {ratio:.3g} | {_percent(unmerged.score)} | {' | '.join(cells)} |"


def _merged(
    base: Path, adapter: Path, dtype: str | None, mode: str, work: Path, samples: tuple[assets.Sample, ...]
) -> Voice:
    merge(base, adapter, Options(dtype=dtype, rounding=mode), work)
    return listen(load(work / "out"), samples)


def merge(base: Path, adapter: Path, options: Options, work: Path) -> None:
    """Into `work`/out."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    with prepare(str(base), [(str(adapter), 1.0)], options, target=out, jobs=2) as job:
        job.run(memory=DigestMemory(work / "memory"))
    torch.set_num_threads(2)  # a merge sets one


def _ratio(base: Path, adapter: Path, dtype: str | None) -> float:
    """The median over tensors of the figure that `auto` goes by."""
    with prepare(str(base), [(str(adapter), 1.0)], Options(dtype=dtype)) as job:
        look = Look(job.base.inputs, job.adapter_files)
        return median(ratio for op in job.plan.ops if op.terms and (ratio := look.delta_ulps(op)) is not None)


def _cell(found: Effect) -> str:
    return f"{_percent(found.lost)} / {_percent(found.top1)} / {_percent(found.same)} / {_percent(found.score)}"


def _percent(share: float) -> str:
    if 0 < share < 1e-5:
        return "<0.001"
    return f"{100 * share:.3g}"


def _adapters(work: Path) -> Iterator[tuple[str, assets.Task, Path]]:
    """(name, its task, folder): the trained ones, then the demo's."""
    tasks = {task.name: task for task in assets.tasks()}
    for name, rate, steps in TRAINED:
        folder = work / f"{name}-{rate:g}-{steps}"
        if not (folder / "adapter_model.safetensors").exists():
            train(name, assets.base(), folder, rate=rate, steps=steps)
        yield f"{name}, rate {rate:g}, {steps} steps", tasks[name], folder
    for task in tasks.values():
        yield f"{task.name}, the demo's", task, task.adapter


def _fp16_base(work: Path) -> Path:
    """The demo base in float16 whose weights use all 11 bits: the 3 that bfloat16 has cut off are drawn at random."""
    target = work / "fp16-base"
    if (target / "config.json").exists():
        return target
    shutil.copytree(assets.base(), target)
    generator = torch.Generator().manual_seed(0)
    for file in target.glob("*.safetensors"):
        tensors = {}
        for name, tensor in load_file(file).items():
            noise = torch.rand(tensor.shape, generator=generator) - 0.5
            tensors[name] = (tensor.float() * (1 + noise * 2**-7)).to(torch.float16)
        save_file(tensors, file, {"format": "pt"})
    config = target / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("bfloat16", "float16"), encoding="utf-8")
    return target


def seeds(work: Path) -> Iterator[str]:
    """Share of the effect that is lost in bf16 by five seeds of chance, beside error feedback, which has none."""
    yield "| adapter | stochastic, seeds 0 to 4 | preserve |"
    yield "|---|---|---|"
    for name, task, adapter in _adapters(work):
        if name in CHANCED:
            samples = task.samples[:SAMPLES]
            unmerged, untouched = (listen(load(assets.base(), path), samples, ask=False) for path in (adapter, None))

            def lost(mode: str, seed: int = 0) -> str:
                merge(assets.base(), adapter, Options(rounding=mode, seed=seed), work)  # noqa: B023 - called at once
                return _percent(effect(unmerged, untouched, listen(load(work / "out"), samples, ask=False)).lost)  # noqa: B023

            yield f"| {name} | {', '.join(lost('stochastic', seed) for seed in range(5))} | {lost('preserve')} |"


def variants(work: Path) -> Iterator[str]:
    """Share of the effect that `preserve` loses in bf16, by its step, and along the outputs instead of the inputs."""
    adapters = [adapter for adapter in _adapters(work) if adapter[1].name == "dates"]
    yield "| adapter | 1 column at a time | 16 | 64 | 16, along the outputs |"
    yield "|---|---|---|---|---|"
    for name, task, adapter in adapters:
        samples = task.samples[:SAMPLES]
        unmerged, untouched = (listen(load(assets.base(), path), samples, ask=False) for path in (adapter, None))
        cells = []
        for step, outputs in ((1, False), (16, False), (64, False), (16, True)):
            with mock.patch("ingot.kernels.feedback.STEP", step):
                model = preserved(assets.base(), adapter, along_outputs=outputs)
            cells.append(_percent(effect(unmerged, untouched, listen(model, samples, ask=False)).lost))
        yield f"| {name} | {' | '.join(cells)} |"


def widths(_work: Path) -> Iterator[str]:
    """|(W' - W - Δ) Q| / |Δ Q| in bf16 for a random W of rms 0.036 and a Δ of a tenth of half an ulp, rank 16."""
    yield "| width | nearest | stochastic | preserve |"
    yield "|---|---|---|---|"
    generator = torch.Generator().manual_seed(0)
    for width in (256, 1024, 4096):
        weight = (torch.randn(512, width, generator=generator) * 0.036).bfloat16().float()
        A, B = (torch.randn(shape, generator=generator) for shape in ((16, width), (512, 16)))
        delta = B @ A * (1e-5 / 4)  # of rms 1e-5
        Q = torch.linalg.qr(A.double().T)[0]
        cells = []
        for rounding in (nearest, Stochastic.of(0, "w"), Preserve((Subspace.of((0, 512), (0, width), A),))):
            out = torch.empty(weight.shape, dtype=torch.bfloat16)
            rounding(weight + delta, 0, out)
            error = out.double() - weight.double() - delta.double()
            cells.append(f"{float((error @ Q).norm() / (delta.double() @ Q).norm()):.3g}")
        yield f"| {width} | {' | '.join(cells)} |"


# -- what it costs ----------------------------------------------------------------------------------------------------


def costs(_work: Path, repeats: int = 5) -> Iterator[str]:
    """Time of W + s·B@A and its rounding, tile by tile on one thread, over that of nearest in the same run."""
    torch.set_num_threads(1)
    yield "| matrix | rank | dtype | nearest | stochastic | preserve |"
    yield "|---|---|---|---|---|---|"
    for rows, columns in ((4096, 4096), (4096, 14336)):
        for rank in (16, 64):
            for dtype in (torch.bfloat16, torch.float16):
                times = _times(rows, columns, rank, dtype, repeats)
                base = times["nearest"]
                shown = " | ".join(f"{times[mode] / base:.1f}" for mode in ("stochastic", "preserve"))
                title = f"{rows}×{columns} | {rank} | {str(dtype).removeprefix('torch.')}"
                yield f"| {title} | 1 ({1e9 * base / rows / columns:.2f} ns an element) | {shown} |"
    torch.set_num_threads(2)


def _times(rows: int, columns: int, rank: int, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(rows, columns, generator=generator) * 0.036).to(dtype)
    A, B = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator) * 1e-5

    def add(tile: torch.Tensor, row: int) -> None:
        tile.addmm_(B[row : row + len(tile)], A)

    change = BlockChange((0, rows), (0, columns), add)
    modes: dict[str, Round] = {
        "nearest": nearest,
        "stochastic": Stochastic.of(0, "w"),
        "preserve": Preserve((Subspace.of((0, rows), (0, columns), A),)),
    }
    grid, out = TileGrid(rows, columns), torch.empty_like(weight)
    scratch = torch.empty(grid.height * columns)
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(repeats):
        for mode, rounding in modes.items():
            begun = time.perf_counter()
            for tile in range(grid.count):
                part = slice(*grid.rows_of(tile))
                merge_tile(weight[part], part.start, [change], scratch, out[part], rounding)
            times[mode].append(time.perf_counter() - begun)
    return {mode: median(of_mode) for mode, of_mode in times.items()}


SECTIONS: dict[str, Callable[[Path], Iterator[str]]] = {
    "effects": effects, "seeds": seeds, "widths": widths, "variants": variants, "costs": costs
}  # fmt: skip

if __name__ == "__main__":
    main()
