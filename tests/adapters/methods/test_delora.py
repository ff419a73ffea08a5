"""DeLoRA against PEFT's own merge."""

from __future__ import annotations

import peft
import torch
from torch import nn

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge, jitter
from tests.adapters.methods.wrong import INTEGER, check_refusals

LAYERS = ["q_proj", "down_proj"]


def test_linear_layers_are_pefts(judge: Judge) -> None:
    plan = judge.check("llama", peft.DeloraConfig(r=4, delora_lambda=3, target_modules=LAYERS))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


def test_ranks_and_strengths_by_pattern_are_pefts(judge: Judge) -> None:
    patterns = {"rank_pattern": {"down_proj": 2, "layers.1.*q_proj": 5}, "lambda_pattern": {"q_proj": 7}}
    judge.check("llama", peft.DeloraConfig(r=4, target_modules=LAYERS, bias="delora_only", **patterns))


def test_norms_below_the_shortest_are_pefts(judge: Judge) -> None:
    def nearly_nothing(model: nn.Module) -> None:
        jitter(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "delora_A" in name or "delora_B" in name:
                    parameter[:2, :2] *= 1e-4
                    parameter[:, 0] *= 1e-7
                    parameter[0] *= 1e-7

    judge.check("llama", peft.DeloraConfig(r=4, target_modules=LAYERS), train=nearly_nothing)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.DeloraConfig(r=4, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    settings = {"r": INTEGER, "rank_pattern": ([1], "a", {"q_proj": 0}, {"q_proj": True}, {"q_proj": 1.5})}
    sound = check_refusals(judge, "llama", peft.DeloraConfig(r=4, target_modules=["q_proj"]), settings)
    sound.refusal(settings={"r": 3})
