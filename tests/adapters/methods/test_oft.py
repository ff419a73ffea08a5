"""OFT against PEFT's own merge; the series of older releases against their formula in float64."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from ingot.adapters.terms import Needs
from ingot.plan.model import Options
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, POSITIVE, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, merged, on_disk, write_adapter

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {"oft_block_size": 4},
        {"oft_block_size": 8, "num_cayley_neumann_terms": 1},
        {"oft_block_size": 8, "num_cayley_neumann_terms": 2},
        {"oft_block_size": 8, "num_cayley_neumann_terms": 3},
        {"oft_block_size": 8, "num_cayley_neumann_terms": 4},
        {"oft_block_size": 8, "num_cayley_neumann_terms": 7},
        {"oft_block_size": 4, "use_cayley_neumann": False},
        {"oft_block_size": 4, "block_share": True},
        {"oft_block_size": 0, "r": 2},
        {"oft_block_size": 4, "coft": True, "eps": 0.05},
        {"oft_block_size": 4, "coft": True, "eps": 0.05, "block_share": True, "use_cayley_neumann": False},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    # One term is R = I: both merges leave the base as it is.
    changes = settings.get("num_cayley_neumann_terms") != 1
    plan = judge.check("llama", peft.OFTConfig(target_modules=LAYERS, **settings), changes=changes)
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


def test_convolutions_are_pefts(judge: Judge) -> None:
    judge.check("vit", peft.OFTConfig(oft_block_size=8, target_modules=["projection"]))


def test_embeddings_rotate_the_other_way_as_in_peft(judge: Judge) -> None:
    judge.check("llama", peft.OFTConfig(oft_block_size=8, target_modules=["embed_tokens", "q_proj"]))


def test_output_embeddings_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.OFTConfig(oft_block_size=8, target_modules=["lm_head"]))


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.OFTConfig(oft_block_size=4, bias="oft_only", target_modules=LAYERS))


def test_a_fused_tensor_on_disk_is_rotated_part_by_part(judge: Judge) -> None:
    judge.check("nomic_bert", peft.OFTConfig(oft_block_size=4, target_modules=["q_proj", "v_proj"]))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.OFTConfig(oft_block_size=4, target_modules=LAYERS))
    check_cuts(judge, "llama", peft.OFTConfig(oft_block_size=4, block_share=True, target_modules=["embed_tokens"]))


@pytest.mark.parametrize("terms", [2, 3, 4, 5])
def test_before_0_18_the_last_term_of_the_series_counted_twice(judge: Judge, terms: int) -> None:
    config = peft.OFTConfig(oft_block_size=4, num_cayley_neumann_terms=terms, target_modules=["q_proj"])
    sound = spoiled(judge, "llama", config)
    tensors = adapter_tensors(sound.adapter)
    settings = {key: value for key, value in sound.config.items() if key != "peft_version"}
    adapter = write_adapter(sound.adapter.with_name(f"oft-{terms}"), tensors, settings)
    target = adapter.with_name(f"oft-{terms}-merged")
    merged(sound.base, adapter, target, Options(assume_peft_version="0.17.1"))
    before, after = on_disk(sound.base), on_disk(target)
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        blocks = []
        for packed in tensors[f"base_model.model.{name}.oft_R.weight"].double():
            q = torch.zeros(4, 4, dtype=torch.float64)
            q[torch.triu(torch.ones(4, 4), 1).bool()] = packed
            q = q - q.T
            blocks.append(torch.eye(4) + 2 * sum(torch.linalg.matrix_power(q, n) for n in range(1, terms)))
        expected = before[f"{name}.weight"].double() @ torch.block_diag(*blocks).T
        assert (after[f"{name}.weight"] - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_series_of_an_unknown_release_is_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", peft.OFTConfig(oft_block_size=4, target_modules=LAYERS))
    error = sound.refusal(settings={"peft_version": ...})
    assert "--assume-peft-version" in str(error.hint)


def test_adapters_of_before_0_16_are_refused(judge: Judge) -> None:
    sound = spoiled(judge, "llama", peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]))
    assert "0.15" in str(sound.refusal(settings={"oft_block_size": ...}))
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj.oft_" for layer in range(2)]
    tensors = {name + role: torch.zeros(4, 4, 4) for name in names for role in ("r", "s")}
    assert "0.15" in str(sound.refusal(tensors))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"])
    flags = dict.fromkeys(("coft", "block_share", "use_cayley_neumann"), FLAG)
    check_refusals(judge, "llama", config, {**flags, "eps": POSITIVE, "num_cayley_neumann_terms": INTEGER})
