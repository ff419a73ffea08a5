"""Adapters for llama.cpp's runtime: the products that stand in the file are those of a merge, each with its scaling."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ingot.errors import AdapterError, OutputError
from ingot.export_lora import export_lora
from tests.quantize.gguf.models import save_adapter, save_model

LAYERS = "base_model.model.model.layers"


def change(adapter: Path, **config: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def products(path: Path) -> dict[str, np.ndarray]:
    """What llama.cpp adds to each tensor: lora_b @ lora_a, times alpha / rank, or times 1 where alpha is 0."""
    reader = gguf.GGUFReader(path)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {str(t.name): np.array(t.data, dtype=np.float64) for t in reader.tensors}
    found = {}
    for name, b in tensors.items():
        if name.endswith(".lora_b"):
            a = tensors[name.removesuffix("b") + "a"]
            found[name.removesuffix(".lora_b")] = b @ a * (alpha / a.shape[-2] if alpha else 1)
    return found


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Llama's rotary halves, pair by pair."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("rslora", [False, True])
def test_every_module_has_its_own_scaling(rslora: bool, tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, tmp_path / "adapter")
    change(adapter, use_rslora=rslora, alpha_pattern={"v_proj": 3})
    found = export_lora(str(base), str(adapter), tmp_path / "lora.gguf")
    tensors = {name: t.double().numpy() for name, t in load_file(adapter / "adapter_model.safetensors").items()}
    divisor = math.sqrt(4) if rslora else 4
    ours = products(found.path)
    assert len(ours) == found.modules == 2 * 7
    for path, name, alpha, heads in (
        ("self_attn.q_proj", "attn_q", 8, 4), ("self_attn.k_proj", "attn_k", 8, 2),
        ("self_attn.v_proj", "attn_v", 3, 0), ("mlp.down_proj", "ffn_down", 8, 0),
    ):  # fmt: skip
        at = f"{LAYERS}.1.{path}"
        expected = alpha / divisor * tensors[f"{at}.lora_B.weight"] @ tensors[f"{at}.lora_A.weight"]
        expected = interleaved(expected, heads) if heads else expected
        np.testing.assert_allclose(ours[f"blk.1.{name}.weight"], expected, rtol=1e-6, atol=1e-9)


def test_what_is_no_product_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, tmp_path / "adapter")
    target = tmp_path / "lora.gguf"
    change(adapter, peft_type="IA3")
    with pytest.raises(AdapterError):
        export_lora(str(base), str(adapter), target)
    assert not target.exists()
    with pytest.raises(OutputError, match="gguf"):
        export_lora(str(base), str(adapter), tmp_path / "lora.bin")
