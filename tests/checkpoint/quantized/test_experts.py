"""gpt-oss: experts in MXFP4 on disk, transposed in memory, and a LoRA on them."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ingot.errors import BaseError
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.storage.digest_memory import DigestMemory
from tests.checkpoint.quantized.folders import shown
from tests.oracle.reference import unheard
from tests.tiny_models import MOE, build

SHAPE = {**MOE, "hidden_size": 64, "intermediate_size": 96, "head_dim": 4, "num_local_experts": 3, "sliding_window": 8}
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def write(target: Path) -> dict[str, torch.Tensor]:
    """A tiny gpt-oss as it is published; returns its tensors as transformers dequantizes them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    with unheard():
        build("GptOssForCausalLM", "GptOssConfig", **SHAPE).bfloat16().save_pretrained(target)
    stored = load_file(target / "model.safetensors")
    dense, generator = dict(stored), torch.Generator().manual_seed(0)
    for name in list(stored):
        if name.endswith(EXPERTS):
            experts, inputs, out = stored.pop(name).shape
            blocks = torch.randint(0, 256, (experts, out, inputs // 32, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(120, 124, (experts, out, inputs // 32), generator=generator, dtype=torch.uint8)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            dense[name] = convert_moe_packed_tensors(blocks, scales)
    save_file(stored, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": said, "dtype": "bfloat16"}))
    return dense


def test_a_merge_into_mxfp4_experts_is_what_peft_merges_into_their_dequantized_weights(tmp_path: Path) -> None:
    dense = write(tmp_path / "base")
    with unheard():
        whole = transformers.GptOssForCausalLM(transformers.GptOssConfig(**SHAPE)).float()
        whole.load_state_dict({name: tensor.float() for name, tensor in dense.items()})
        parameters = [f"model.layers.1.{name}" for name in EXPERTS]
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], target_parameters=parameters)
        wrapped = peft.get_peft_model(whole, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        wrapped.save_pretrained(tmp_path / "adapter")
        expected = wrapped.merge_and_unload().state_dict()
    with prepare(
        str(tmp_path / "base"),
        [(str(tmp_path / "adapter"), 1.0)],
        Options(dtype="F32"),
        target=tmp_path / "out",
        jobs=2,
    ) as job:
        job.run(memory=DigestMemory(tmp_path / "memory"))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == dense.keys()
    for name, tensor in found.items():
        assert (tensor - expected[name]).abs().max() <= 1e-6 * expected[name].abs().max(), name
    with unheard():
        _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.parametrize("which", EXPERTS)
def test_experts_without_their_scales_are_refused(tmp_path: Path, which: str) -> None:
    write(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    del stored[f"model.layers.0.{which}_scales"]
    save_file(stored, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match=f"{which}_scales"):
        shown(tmp_path / "base")
