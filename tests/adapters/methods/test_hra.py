"""HRA against PEFT's own merge, and its compact product of reflections against the product of matrices."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import nn

from ingot.adapters.methods.hra import triangle
from ingot.adapters.terms import Needs
from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, check_refusals
from tests.oracle.reference import merged

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize("settings", [{"r": 4}, {"r": 1}, {"r": 7}, {"r": 4, "apply_GS": True}], ids=str)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.HRAConfig(target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


@pytest.mark.parametrize("orthogonal", [False, True])
def test_convolutions_are_pefts(judge: Judge, orthogonal: bool) -> None:
    judge.check("vit", peft.HRAConfig(r=4, apply_GS=orthogonal, target_modules=["projection"]))


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.HRAConfig(r=2, bias="hra_only", target_modules=LAYERS))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.HRAConfig(r=4, target_modules=LAYERS))


def test_reflections_in_compact_form_are_their_product() -> None:
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = vectors / vectors.norm(dim=0)
    product = torch.eye(12, dtype=torch.float64)
    for unit in units.T:
        product = product @ (torch.eye(12, dtype=torch.float64) - 2 * torch.outer(unit, unit))
    compact = torch.eye(12, dtype=torch.float64) - units @ triangle(units) @ units.T
    assert torch.allclose(compact, product, atol=1e-14)


def test_vectors_of_which_rounding_decides_what_is_orthogonal_are_refused(judge: Judge) -> None:
    def barely(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "hra_u" in name:  # PEFT starts with pairs of equal columns
                parameter.data += 1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))

    config = peft.HRAConfig(r=4, apply_GS=True, target_modules=["q_proj"])
    adapter = judge.adapter("llama", config, "hra-untrained", barely)
    with pytest.raises(AdapterError, match="rounding alone decides"):
        merged(judge.base("llama"), adapter, adapter.with_name("hra-never"))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.HRAConfig(r=4, target_modules=["q_proj"])
    sound = check_refusals(judge, "llama", config, {"apply_GS": FLAG, "r": INTEGER})
    sound.refusal(settings={"r": 3})
