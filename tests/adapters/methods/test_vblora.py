"""VB-LoRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest
import torch

from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, INTEGER, check_refusals
from tests.oracle.reference import adapter_tensors, merged, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("topk", [1, 2, 3])
@pytest.mark.parametrize("only_topk", [False, True])
def test_linear_layers_are_pefts(judge: Judge, only_topk: bool, topk: int) -> None:
    config = peft.VBLoRAConfig(
        r=4, num_vectors=9, vector_length=8, topk=topk, save_only_topk_weights=only_topk, target_modules=LAYERS
    )
    judge.check("llama", config)


@pytest.mark.parametrize("vectors", [9, 300])
def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, vectors: int) -> None:
    """PEFT saves the numbers of up to 255 vectors as uint8, of more as int16."""
    config = peft.VBLoRAConfig(
        r=3, num_vectors=vectors, vector_length=4, save_only_topk_weights=True, target_modules=["c_attn", "c_proj"]
    )
    judge.check("gpt2", config)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.VBLoRAConfig(r=4, num_vectors=9, vector_length=4, target_modules=LAYERS))


@pytest.mark.parametrize("only_topk", [False, True])
def test_wrong_adapters_are_refused(judge: Judge, only_topk: bool) -> None:
    config = peft.VBLoRAConfig(
        r=4, num_vectors=9, vector_length=8, save_only_topk_weights=only_topk, target_modules=["k_proj"]
    )
    wrong = {
        "r": INTEGER, "num_vectors": INTEGER, "vector_length": INTEGER, "topk": (*INTEGER, 10), "fan_in_fan_out": FLAG,
        "save_only_topk_weights": FLAG,
    }  # fmt: skip
    sound = check_refusals(judge, "llama", config, wrong)
    assert "`vector_length`" in str(sound.refusal(settings={"vector_length": 7}))
    sound.refusal(settings={"save_only_topk_weights": not only_topk})
    if only_topk:
        sound.refusal(settings={"topk": 3})


@pytest.mark.parametrize("number", [9, 255])
def test_a_vector_that_the_bank_does_not_have_is_refused(judge: Judge, number: int) -> None:
    config = peft.VBLoRAConfig(
        r=4, num_vectors=9, vector_length=8, save_only_topk_weights=True, target_modules=["k_proj"]
    )
    adapter = judge.adapter("llama", config, f"vblora-{number}")
    tensors = adapter_tensors(adapter)
    name = next(name for name in tensors if name.endswith("logits_B_topk_indices"))
    assert tensors[name].dtype is torch.uint8
    tensors[name][0, 0, 0] = number
    directory = write_adapter(adapter.with_name(f"vblora-{number}-wrong"), tensors, config.to_dict() | {
        "peft_type": "VBLORA", "target_modules": ["k_proj"], "task_type": None})  # fmt: skip
    with pytest.raises(AdapterError, match=rf"out of range: expected 0 to 8, found {number}.*logits_B_topk_indices"):
        merged(judge.base("llama"), directory, directory / "never")
