"""What a merged demo model has lost of its adapter: held against PEFT's unmerged one, all arithmetic in float32."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ingot.demo import assets

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "training"))  # its files import one another by their plain names


@dataclass(frozen=True)
class Effect:
    """A merged model on held-out samples, beside the unmerged adapter.

    Attributes:
        lost: KL(unmerged ‖ merged) / KL(unmerged ‖ base), both the mean over positions.
        top1: share of positions with the same most likely token as unmerged.
        same: share of samples with the same greedy answer as unmerged.
        score: share of samples whose greedy answer contains what is expected.
    """

    lost: float
    top1: float
    same: float
    score: float


@dataclass(frozen=True)
class Voice:
    """What a model says of the samples: log-probabilities[positions, vocabulary] in float64, greedy answers."""

    logits: torch.Tensor
    answers: tuple[str, ...]
    score: float


def train(task: str, base: Path, target: Path, *, rate: float, steps: int) -> None:
    """A LoRA of the demo's recipe on all projections, at another learning rate and for fewer steps."""
    from adapters import train_adapter
    from recipe import Recipe
    from scoring import load_base, load_tokenizer
    from tasks import split

    recipe = replace(Recipe(), lora_lr=rate, lora_steps=steps)
    samples, _ = split(task, 2000, recipe.held_out, recipe.seed)
    train_adapter(load_base(base, torch.float32), load_tokenizer(base), samples, recipe, task, target)


def listen(model: torch.nn.Module, samples: Sequence[assets.Sample], *, ask: bool = True) -> Voice:
    """Log-probabilities of each token of the expected answers, and the greedy answers, where they are asked for.

    The prompts' own positions are left out: all samples begin alike, and one near tie there would count for all.
    """
    from adapters import encode_prompt
    from recipe import Recipe
    from scoring import answers, load_tokenizer

    tokenizer: Any = load_tokenizer(assets.base())
    rows = []
    with torch.inference_mode():
        for sample in samples:
            tail = tokenizer(sample.expected + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
            head = encode_prompt(tokenizer, sample.prompt)
            logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
            rows.append(torch.log_softmax(logits.double(), dim=-1))
    if not ask:
        return Voice(torch.cat(rows), ("",) * len(samples), 0.0)
    found = tuple(answers(model, tokenizer, [sample.prompt for sample in samples], Recipe()))
    right = sum(sample.expected in answer for sample, answer in zip(samples, found, strict=True))
    return Voice(torch.cat(rows), found, right / len(samples))


def load(folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    """A checkpoint in float32; with `adapter` applied by PEFT, unmerged."""
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


def effect(unmerged: Voice, base: Voice, merged: Voice) -> Effect:
    """How the merged model differs from the unmerged adapter."""
    same = [one == other for one, other in zip(unmerged.answers, merged.answers, strict=True)]
    agree = unmerged.logits.argmax(dim=-1) == merged.logits.argmax(dim=-1)
    return Effect(
        lost=divergence(unmerged, merged) / divergence(unmerged, base),
        top1=float(agree.double().mean()),
        same=sum(same) / len(same),
        score=merged.score,
    )


def divergence(one: Voice, other: Voice) -> float:
    """Mean KL(one ‖ other) over positions, in nats."""
    return float((one.logits.exp() * (one.logits - other.logits)).sum(dim=-1).mean())


def size(adapter: Path, base: Path) -> tuple[float, float]:
    """(rms of Δ over all its elements, rms of the weights W that it changes)."""
    squares, count = [0.0, 0.0], 0
    for _, weight, left, right in _changed(adapter, base):
        squares[0] += float((left @ right).square().sum())
        squares[1] += float(weight.square().sum())
        count += weight.numel()
    return math.sqrt(squares[0] / count), math.sqrt(squares[1] / count)


def preserved(base: Path, adapter: Path, *, along_outputs: bool) -> torch.nn.Module:
    """The base with every W + Δ rounded to bfloat16 by error feedback, along the inputs or along the outputs."""
    from ingot.kernels.feedback import Subspace, feedback

    model = load(base)
    for name, weight, left, right in _changed(adapter, base):
        exact, factor = (weight + left @ right).float(), right
        if along_outputs:
            exact, factor = exact.T.contiguous(), left.T
        out = torch.empty(exact.shape, dtype=torch.bfloat16)
        feedback(exact, out, Subspace.of((0, len(exact)), (0, exact.shape[1]), factor))
        model.get_parameter(name).data.copy_(out.T if along_outputs else out)
    return model


def _changed(adapter: Path, base: Path) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(name, W[out, in], s·B[out, r], A[r, in]) of every weight that the adapter changes, in float64; s is 2."""
    weights = {name: tensor for file in base.glob("*.safetensors") for name, tensor in load_file(file).items()}
    factors = load_file(adapter / "adapter_model.safetensors")
    for key, a in factors.items():
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            yield name, weights[name].double(), 2.0 * factors[key.replace("lora_A", "lora_B")].double(), a.double()
