"""A tiny Llama, quantized in one format after another, with what the owner's library dequantizes each weight to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoint.quantized import test_compressed_tensors as by_compressed
from tests.checkpoint.quantized import test_gptq as by_gptq
from tests.checkpoint.quantized.test_bitsandbytes import EIGHT, FOUR, four_bit, functional
from tests.oracle.reference import unheard
from tests.tiny_models import TEXT, build

#: Parts of a module's weight by what follows the module's path, the dense weight, and what the config says of it all.
Quantized = tuple[dict[str, torch.Tensor], torch.Tensor]
SHAPE: dict[str, Any] = {**TEXT, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


def model() -> Any:
    return build("LlamaForCausalLM", "LlamaConfig", **SHAPE).bfloat16()


def _bits(weight: torch.Tensor, kind: str, nested: bool) -> Quantized:
    parts, dense = four_bit("weight", weight, quant_type=kind, compress_statistics=nested)
    return {f".{name}": part for name, part in parts.items()}, dense


def _int8(weight: torch.Tensor) -> Quantized:
    rows, scale, _ = functional.int8_vectorwise_quant(weight.half())
    dense = functional.int8_vectorwise_dequant(rows, scale).to(torch.bfloat16)
    return {".weight": rows, ".SCB": scale}, dense


def _made(weight: torch.Tensor, awq: bool) -> Quantized:
    made = by_gptq.Made(*weight.shape, 4, 32)
    made.s = made.s * 0.02
    exact = (made.q - made.z[made.g]) * made.s.double().numpy()[made.g]
    parts = made.awq() if awq else made.gptq()
    return {name.removeprefix("a"): part for name, part in parts.items()}, torch.tensor(exact.T.copy()).half()


def _fp8(weight: torch.Tensor) -> Quantized:
    scale = torch.rand(-(-weight.shape[0] // 48), -(-weight.shape[1] // 40)) * 0.001 + 0.0001
    spread = scale.repeat_interleave(48, 0).repeat_interleave(40, 1)[: weight.shape[0], : weight.shape[1]]
    stored = (weight.float() / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {".weight": stored, ".weight_scale_inv": scale}, (stored.float() * spread).to(torch.bfloat16)


def _compressed(weight: torch.Tensor, name: str) -> Quantized:
    form, settings = by_compressed.SCHEMES[name]
    parts, dense = by_compressed.compressed(weight, form, by_compressed.scheme_of(form, **settings))
    return {part.removeprefix("a"): tensor for part, tensor in parts.items()}, dense


def _said(name: str) -> dict[str, object]:
    form, settings = by_compressed.SCHEMES[name]
    return by_compressed.config(form, by_compressed.scheme_of(form, **settings))


FORMATS: dict[str, tuple[Callable[[torch.Tensor], Quantized], dict[str, object]]] = {
    "nf4": (lambda w: _bits(w, "nf4", False), FOUR),
    "nf4 nested": (lambda w: _bits(w, "nf4", True), FOUR),
    "fp4": (lambda w: _bits(w, "fp4", False), FOUR),
    "int8": (_int8, EIGHT),
    "gptq": (lambda w: _made(w, False), {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    "awq": (lambda w: _made(w, True), by_gptq.awq_settings()),
    "fp8": (_fp8, {"quant_method": "fp8", "weight_block_size": [48, 40]}),
    **{
        f"compressed {name}": (lambda w, name=name: _compressed(w, name), _said(name))
        for name in ("int4, groups, zero points", "int8, rows, plain", "fp8, rows", "nvfp4", "mxfp4")
    },
}


def write(target: Path, form: str, *, shards: int = 1) -> dict[str, torch.Tensor]:
    """The model with every linear layer but the head quantized; returns its dense tensors by the library's decoding."""
    quantize, said = FORMATS[form]
    made = model()
    with unheard():
        made.save_pretrained(target)
    dense = load_file(target / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in list(dense.items()):
        if "_proj." in name:
            parts, dense[name] = quantize(tensor)
            stored |= {name.removesuffix(".weight") + end: part for end, part in parts.items()}
        else:
            stored[name] = tensor
    stored = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in stored.items()}
    config = json.loads((target / "config.json").read_text()) | {"quantization_config": said, "dtype": "bfloat16"}
    (target / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(stored, target / "model.safetensors", {"format": "pt"})
    else:
        (target / "model.safetensors").unlink()
        names = {f"model-{n + 1:05d}-of-{shards:05d}.safetensors": list(stored)[n::shards] for n in range(shards)}
        for file, own in names.items():
            save_file({name: stored[name] for name in own}, target / file, {"format": "pt"})
        weight_map = {name: file for file, own in names.items() for name in own}
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return {name: tensor.to(torch.bfloat16) for name, tensor in dense.items()}


def adapter(target: Path, modules: list[str]) -> Path:
    """A LoRA on these modules, as PEFT saves it, with random values."""
    with unheard():
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(model(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        wrapped.float().save_pretrained(target)
    return target


def by_peft(dense: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's merge in float32 of the adapter into these dense weights."""
    with unheard():
        whole = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
        whole.load_state_dict({name: tensor.float() for name, tensor in dense.items()})
        merged = peft.PeftModel.from_pretrained(whole.float(), adapter).merge_and_unload()
    return {name: tensor.detach().clone() for name, tensor in merged.state_dict().items()}
