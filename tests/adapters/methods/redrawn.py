"""What is drawn again from a seed must be what PEFT's layers hold on a base of 16-bit weights, which rounds it.

check_rounding(judge, config)   every delta on a bfloat16 base, against the delta of PEFT's layer
"""

from __future__ import annotations

from pathlib import Path

import peft
import torch
import transformers

from ingot.adapters.forms import Plus
from tests.adapters.methods.cuts import terms
from tests.adapters.methods.judge import TOLERANCE, Judge, jitter
from tests.oracle.reference import config_of, unheard
from tests.tiny_models import MODELS


def check_rounding(judge: Judge, config: peft.PeftConfig) -> None:
    base = judge.root / "base-llama-bf16"
    with unheard():
        if not base.exists():
            MODELS["llama"]().to(torch.bfloat16).save_pretrained(base)
        adapter = judge.root / f"rounded-{config.peft_type.value}-{len(list(judge.root.iterdir()))}"
        wrapped = peft.get_peft_model(_load(base), config)
        jitter(wrapped)
        wrapped.save_pretrained(adapter)
        again = peft.PeftModel.from_pretrained(_load(base), adapter)
    compared = 0
    for name, term, load, _ in terms(base, adapter):
        assert isinstance(term, Plus)
        layer = again.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        expected = layer.get_delta_weight("default").float()
        ours = term.scaling * term.delta.make(load)(0, len(expected))
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max(), name
        compared += 1
    assert compared


def _load(base: Path) -> transformers.PreTrainedModel:
    return getattr(transformers, config_of(base)["architectures"][0]).from_pretrained(base).eval()
