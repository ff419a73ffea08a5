"""Make the demo model, its two LoRA adapters and the held-out samples: ``python train_demo.py --out DIR``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from adapters import train_adapter
from pretrain import make_base
from recipe import Recipe, quick
from scoring import load_base, load_tokenizer, score_all
from tasks import TASKS, Sample, split, write_jsonl


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for ingot-demo-base/, adapters/, samples/, scores.json"
    )
    parser.add_argument("--work", type=Path, help="folder for the training checkpoint (default: OUT with '-work')")
    parser.add_argument("--quick", action="store_true", help="a few steps only: a smoke test, useless weights")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="CPU threads (default: %(default)s)")
    return parser.parse_args()


def build(recipe: Recipe, out: Path, work: Path) -> dict[str, float]:
    """Make whatever is not there yet in ``out``; returns the seconds each stage took."""
    took: dict[str, float] = {}
    base, adapters = out / "ingot-demo-base", out / "adapters"
    work.mkdir(parents=True, exist_ok=True)
    if not (base / "tokenizer_config.json").exists():
        begun = time.monotonic()
        make_base(recipe, work, base)
        took["base"] = time.monotonic() - begun
    held_out: dict[str, list[Sample]] = {}
    for task in TASKS:
        train, held_out[task] = split(task, recipe.lora_samples, recipe.held_out, recipe.seed)
        write_jsonl(held_out[task], out / "samples" / f"{task}.jsonl")
        if (adapters / task / "adapter_config.json").exists():
            continue
        begun = time.monotonic()
        model, tokenizer = load_base(base, torch.float32), load_tokenizer(base)
        train_adapter(model, tokenizer, train, recipe, task, adapters / task)
        took[task] = time.monotonic() - begun
    begun = time.monotonic()
    scores = score_all(base, adapters, held_out, recipe)
    took["scoring"] = time.monotonic() - begun
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    for name, row in scores.items():
        print(f"{name:32}", "  ".join(f"{task} {value:.2f} %" for task, value in row.items()), flush=True)
    return took


def main() -> None:
    """Read the command line and run the recipe."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    recipe = quick(Recipe()) if args.quick else Recipe()
    work = args.work or args.out.with_name(args.out.name + "-work")
    for stage, seconds in build(recipe, args.out, work).items():
        print(f"{stage}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
