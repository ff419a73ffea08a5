"""QLoRA adapters merged onto the base as stored and as NF4: the table of docs/quantized-bases.md.

python -m benchmarks.base_as --work DIR
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.rounding_effect import Voice, effect, listen, load, train
from benchmarks.rounding_modes import SAMPLES, merge
from ingot.demo import assets
from ingot.merge import prepare
from ingot.plan.look import Look
from ingot.plan.model import Options

REPORT = Path(__file__).parent.parent / "docs" / "quantized-bases.md"
#: (task, learning rate, steps) of the adapters, each trained on the base as NF4.
TRAINED = (("dates", 2e-5, 20), ("dates", 2e-4, 40), ("commands", 1e-3, 60), ("commands", 3e-3, 150))
BEGIN, END = "<!-- base-as: begin -->", "<!-- base-as: end -->"


def main() -> None:
    """Train, merge, ask; write the table into its place in the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.base_as", description=__doc__)
    parser.add_argument("--work", type=Path, default=REPORT.parent.parent / "benchmarks" / "work" / "base-as")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(table(work))
    before, _, rest = REPORT.read_text(encoding="utf-8").partition(BEGIN)
    REPORT.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(work: Path) -> Iterator[str]:
    """A row for each adapter; the reference is the adapter unmerged on the base as NF4, where it was trained."""
    tasks = {task.name: task for task in assets.tasks()}
    quantized = _as_nf4(work)
    yield "| adapter | NF4's error / update | unmerged: loss / score | onto stored: lost / loss / score | onto nf4 |"
    yield "|---|---|---|---|---|"
    for name, rate, steps in TRAINED:
        adapter = work / f"{name}-{rate:g}-{steps}"
        if not (adapter / "adapter_model.safetensors").exists():
            train(name, quantized, adapter, rate=rate, steps=steps)
        samples = tasks[name].samples[:SAMPLES]
        unmerged, untouched = listen(load(quantized, adapter), samples), listen(load(quantized), samples, ask=False)
        cells = []
        for base_as in ("stored", "nf4"):
            merge(assets.base(), adapter, Options(base_as=base_as), work)
            voice = listen(load(work / "out"), samples)
            lost = effect(unmerged, untouched, voice).lost
            cells.append(f"{100 * lost:.3g} / {_loss(voice, samples):.4f} / {100 * voice.score:.3g}")
        ours = f"{_loss(unmerged, samples):.4f} / {100 * unmerged.score:.3g}"
        row = f"{name}, rate {rate:g}, {steps} steps | {_ratio(adapter):.2g} | {ours}"
        yield f"| {row} | {' | '.join(cells)} |"
        print(row, cells, flush=True)


def _loss(voice: Voice, samples: Sequence[assets.Sample]) -> float:
    """Mean negative log-likelihood of the expected answers' tokens, in nats."""
    from scoring import load_tokenizer

    tokenizer: Any = load_tokenizer(assets.base())
    tails = [tokenizer(s.expected + tokenizer.eos_token, add_special_tokens=False)["input_ids"] for s in samples]
    expected = torch.tensor([token for tail in tails for token in tail])
    return -float(voice.logits.gather(1, expected.unsqueeze(1)).mean())


def _as_nf4(work: Path) -> Path:
    """The demo's base through NF4 and back: a merge of an adapter that does nothing."""
    target, nothing = work / "nf4-base", work / "nothing"
    if not (target / "config.json").exists():
        shutil.copytree(assets.tasks()[0].adapter, nothing, dirs_exist_ok=True)
        tensors = load_file(nothing / "adapter_model.safetensors")
        save_file({name: tensor * 0 for name, tensor in tensors.items()}, nothing / "adapter_model.safetensors")
        merge(assets.base(), nothing, Options(base_as="nf4"), work)
        shutil.move(work / "out", target)
    return target


def _ratio(adapter: Path) -> float:
    """The median over tensors of what `ingot plan` prints."""
    torch.set_num_threads(1)
    with prepare(str(assets.base()), [(str(adapter), 1.0)]) as job:
        look = Look(job.base.inputs, job.adapter_files)
        return median(ratio for op in job.plan.ops if op.terms and (ratio := look.nf4_over_delta(op)) is not None)


if __name__ == "__main__":
    main()
