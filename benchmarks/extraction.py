"""How much of a tuned model a rank holds, and what that is worth: the tables of docs/extract.md.

python -m benchmarks.extraction --work DIR
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.rounding_effect import ROOT, Voice, effect, listen, load
from ingot.demo import assets
from ingot.extract.decompose import choose_rank, decompose
from ingot.extract.model import Budget, Request
from ingot.extract.result import Extraction
from ingot.extract.run import extract
from ingot.merge import prepare
from ingot.plan.figures import nbytes_text
from ingot.plan.look import Look
from ingot.plan.model import Options
from ingot.storage import DigestMemory

REPORT = ROOT / "docs" / "extract.md"
#: Held-out samples that are asked.
SAMPLES = 96
#: What is asked for: ranks, and shares of energy.
LORAS: tuple[int | float, ...] = (2, 4, 8, 16, 32, 0.9, 0.99)
FULL: tuple[int | float, ...] = (4, 16, 32, 64, 128, 0.99)
FULL_TASK, FULL_RATE, FULL_STEPS = "dates", 5e-4, 500


def main() -> None:
    """Merge, train, extract, merge again, ask; write each table into its place in the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work" / "extraction")
    parser.add_argument("--only", choices=list(SECTIONS), nargs="+", default=list(SECTIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for section in arguments.only:
        lines = "\n".join(SECTIONS[section](arguments.work)).strip()
        begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
        before, _, rest = REPORT.read_text(encoding="utf-8").partition(begin)
        REPORT.write_text(f"{before}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")
        print(section, flush=True)


# -- what a rank is worth ---------------------------------------------------------------------------------------------


def loras(work: Path) -> Iterator[str]:
    """The demo's two adapters of rank 16, merged in bfloat16 as the base is stored."""
    for task in assets.tasks():
        merged = _merge(task.adapter, work / f"{task.name}-merged")
        yield from _table(f"{task.name}, a LoRA of rank 16", merged, task, LORAS, work)


def full(work: Path) -> Iterator[str]:
    """All weights of the base trained on one task, in float32, and stored in bfloat16."""
    (task,) = (task for task in assets.tasks() if task.name == FULL_TASK)
    tuned = work / "full"
    if not (tuned / "config.json").exists():
        _train_fully(tuned)
    yield from _table(f"{task.name}, all weights trained", tuned, task, FULL, work)


def _table(title: str, tuned: Path, task: assets.Task, asked: Sequence[int | float], work: Path) -> Iterator[str]:
    samples = task.samples[:SAMPLES]
    wanted, untouched = listen(load(tuned), samples), listen(load(assets.base()), samples)
    yield f"**{title}**: score {_percent(wanted.score)} %, the base's {_percent(untouched.score)} %"
    yield ""
    yield "| asked for | energy, mean | lowest | left, rms | adapter | effect lost | same answers | score |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in asked:
        budget = Budget.of(one, None, None) if isinstance(one, int) else Budget.of(None, one, None)
        found = _extract(tuned, work, budget)
        voice = _merged_again(found, work, samples)
        heard = effect(wanted, untouched, voice)
        energies = [fit.energy for fit in found.fits]
        total = sum(fit.total for fit in found.fits)
        left = (sum(fit.left for fit in found.fits) / total) ** 0.5
        yield (
            f"| {_asked(budget, found)} | {_percent(sum(energies) / len(energies))} | {_percent(min(energies))} | "
            f"{left:.2g} | {nbytes_text(found.adapter_nbytes)} | {_percent(heard.lost)} | {_percent(heard.same)} | "
            f"{_percent(heard.score)} |"
        )
        print(title, one, flush=True)
    yield ""


def _asked(budget: Budget, found: Extraction) -> str:
    if budget.energy is None:
        return f"rank {budget.rank}"
    ranks = [fit.rank for fit in found.fits]
    return f"energy {budget.energy:g}: ranks {min(ranks)} to {max(ranks)}"


def _merge(adapter: Path, target: Path, weight: float = 1.0, dtype: str | None = None) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    with prepare(str(assets.base()), [(str(adapter), weight)], Options(dtype=dtype), target=target, jobs=2) as job:
        job.run(memory=DigestMemory(target.parent / "memory"))
    torch.set_num_threads(2)  # a merge sets one
    return target


def _extract(tuned: Path, work: Path, budget: Budget) -> Extraction:
    target = work / "adapter"
    shutil.rmtree(target, ignore_errors=True)
    request = Request(str(assets.base()), str(tuned), target, budget)
    return extract(request, memory=DigestMemory(work / "memory"))


def _merged_again(found: Extraction, work: Path, samples: Sequence[assets.Sample]) -> Voice:
    return listen(load(_merge(found.target, work / "again")), samples)


def _train_fully(target: Path) -> None:
    """As the demo trains its adapters, with every weight free."""
    from adapters import _collate, _encode
    from recipe import Recipe
    from scoring import load_base, load_tokenizer
    from tasks import split

    recipe = Recipe()
    torch.manual_seed(recipe.seed)
    model, tokenizer = load_base(assets.base(), torch.float32), load_tokenizer(assets.base())
    samples, _ = split(FULL_TASK, 2000, recipe.held_out, recipe.seed)
    rows = [_encode(tokenizer, sample) for sample in samples]
    optimizer = torch.optim.AdamW(model.parameters(), lr=FULL_RATE, weight_decay=0.0)
    order = random.Random(recipe.seed)
    model.train()
    for step in range(FULL_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = FULL_RATE * min((step + 1) / 30, (FULL_STEPS - step) / FULL_STEPS)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**_collate(order.sample(rows, recipe.lora_batch), tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"full {step + 1}/{FULL_STEPS} loss {loss.item():.4f}", flush=True)
    model.bfloat16().save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(assets.base() / name, target / name)


# -- what rounding costs ----------------------------------------------------------------------------------------------


def rounding(work: Path) -> Iterator[str]:
    """The `dates` adapter, merged with several weights into several dtypes, extracted at its own rank of 16."""
    (task,) = (task for task in assets.tasks() if task.name == "dates")
    yield "| stored as | weight | Δ / half ulp | energy at rank 16 | missing | expected of rounding | left, rms |"
    yield "|---|---|---|---|---|---|---|"
    for dtype, weights in (("F32", (1.0, 0.01)), ("F16", (1.0, 0.01)), ("BF16", (1.0, 0.1, 0.03, 0.01, 0.003))):
        for weight in weights:
            tuned = _merge(task.adapter, work / "rounded", weight, dtype)
            found = _extract(tuned, work, Budget.of(16, None, None))
            total = sum(fit.total for fit in found.fits)
            held, left, noise = (sum(getattr(fit, key) for fit in found.fits) for key in ("held", "left", "rounding"))
            yield (
                f"| {dtype} | {weight:g} | {_ratio(task.adapter, weight, dtype):.2g} | {_percent(held / total)} | "
                f"{1 - held / total:.1e} | {noise / total:.1e} | {(left / total) ** 0.5:.1e} |"
            )


def _ratio(adapter: Path, weight: float, dtype: str) -> float:
    """The median over tensors of rms(Δ) / rms(half an ulp of W)."""
    with prepare(str(assets.base()), [(str(adapter), weight)], Options(dtype=dtype)) as job:
        look = Look(job.base.inputs, job.adapter_files)
        return median(ratio for op in job.plan.ops if op.terms and (ratio := look.delta_ulps(op)) is not None)


# -- what it takes ----------------------------------------------------------------------------------------------------


def costs(_work: Path) -> Iterator[str]:
    """Time of one decomposition on one thread, over that of torch.linalg.svd of the same matrix in float32."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    yield "| matrix | asked for | rank | torch.linalg.svd | ingot | missing |"
    yield "|---|---|---|---|---|---|"
    for rows, columns in ((1024, 1024), (2048, 2048), (2048, 5632)):
        signal = torch.randn(rows, 64, generator=generator) * torch.logspace(0, -3, 64)
        delta = (
            signal @ torch.randn(64, columns, generator=generator)
            + torch.randn(rows, columns, generator=generator) * 1e-2
        )
        begun = time.process_time()
        torch.linalg.svd(delta, full_matrices=False)
        usual = time.process_time() - begun
        values = torch.linalg.svdvals(delta.double()).square()
        for budget in (Budget.of(16, None, None), Budget.of(64, None, None), Budget.of(None, 0.99, None)):
            begun = time.process_time()
            found = decompose(delta, budget, "")
            spent = time.process_time() - begun
            asked = f"rank {budget.rank}" if budget.energy is None else f"energy {budget.energy:g}"
            rank = choose_rank([found], budget)
            missing = 1 - float(found.energies[:rank].sum() / values[:rank].sum())
            yield (
                f"| {rows}×{columns} | {asked} | {rank} | {usual:.2f} s | {spent / usual:.3f} of it | "
                f"{'below 1e-12' if missing < 1e-12 else f'{missing:.0e}'} |"
            )
    torch.set_num_threads(2)


def _percent(share: float) -> str:
    """In percent, with as many digits as tell it from 0 and 100."""
    if share in (0.0, 1.0) or 0.01 < share < 0.99:
        return f"{100 * share:.3g}"
    if share <= 0.01:
        return f"{100 * share:.2g}"
    return f"{100 * share:.{6 if share > 0.9999 else 3}f}".rstrip("0").rstrip(".")


SECTIONS: dict[str, Callable[[Path], Iterator[str]]] = {
    "loras": loras, "full": full, "rounding": rounding, "costs": costs
}  # fmt: skip

if __name__ == "__main__":
    main()
