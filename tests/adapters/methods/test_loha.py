"""LoHa against PEFT's own merge."""

from __future__ import annotations

import peft

from tests.adapters.methods.judge import Judge


def test_linear_layers_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.LoHaConfig(r=4, alpha=6, target_modules=["q_proj", "down_proj"]))
