"""Adapters for llama.cpp's runtime: the products that stand in the file are those of a merge, each with its scaling.

Held against numpy, from the adapter's own tensors and config; and in llama.cpp, which runs the base with the adapter,
and the merged model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ingot.cli import main
from ingot.errors import AdapterError, IngotError, MismatchError, NonFiniteError, OutputError, UsageError
from ingot.export_lora import export_lora
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from tests.oracle.reference import unheard
from tests.quantize.gguf.models import change_config, save_model
from tests.quantize.gguf.runtime import Running

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LAYER = "base_model.model.model.layers.1."
#: Largest difference of log-probabilities between base with adapter and merged model, both in F32.
EXACT = 1e-4


def save_lora(name: str, tmp_path: Path, dtype: torch.dtype = torch.float32, **config: Any) -> tuple[Path, Path]:
    """A base and PEFT's random LoRA on it."""
    # llama.cpp goes by the name of the model where it sees "phi3" in it
    base = save_model(name, tmp_path / name.replace("phi3", "ph3"), dtype)
    with unheard():
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **config})
        )
        state = np.random.RandomState(11)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                values = state.standard_normal(tuple(parameter.shape)) * 0.05
                parameter.data.copy_(torch.from_numpy(values.astype(np.float32)))
        wrapped.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def factors(adapter: Path) -> dict[str, np.ndarray]:
    tensors = load_file(adapter / "adapter_model.safetensors").items()
    return {name: tensor.double().numpy() for name, tensor in tensors}


def products(path: Path) -> dict[str, np.ndarray]:
    """What llama.cpp adds to each tensor: lora_b @ lora_a, times alpha / rank, or times 1 where alpha is 0."""
    reader = gguf.GGUFReader(path)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {str(t.name): np.array(t.data, dtype=np.float64) for t in reader.tensors}
    found = {}
    for name, b in tensors.items():
        if name.endswith(".lora_b"):
            a = tensors[name.removesuffix("b") + "a"]
            # rows of an embedding are looked up, so its factors lie the other way
            product = a @ b.T if name.startswith("token_embd") else b @ a
            found[name.removesuffix(".lora_b")] = product * (alpha / a.shape[-2] if alpha else 1)
    return found


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Llama's rotary halves, pair by pair."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("rslora", [False, True])
def test_every_module_has_its_own_scaling_and_rank(rslora: bool, tmp_path: Path) -> None:
    base, adapter = save_lora(
        "llama", tmp_path, use_rslora=rslora, alpha_pattern={"v_proj": 3}, rank_pattern={"down_proj": 2}
    )
    found, tensors = export_lora(str(base), str(adapter), tmp_path / "lora.gguf"), factors(adapter)
    ours = products(found.path)
    assert len(ours) == found.modules == 2 * 7
    assert found.ranks == (2, 4)
    scalings = set()
    for path, name, alpha, rank, heads in (
        ("self_attn.q_proj", "attn_q", 8, 4, 4), ("self_attn.k_proj", "attn_k", 8, 4, 2),
        ("self_attn.v_proj", "attn_v", 3, 4, 0), ("mlp.down_proj", "ffn_down", 8, 2, 0),
    ):  # fmt: skip
        scaling = alpha / (math.sqrt(rank) if rslora else rank)
        expected = scaling * tensors[f"{LAYER}{path}.lora_B.weight"] @ tensors[f"{LAYER}{path}.lora_A.weight"]
        assert_equal(ours[f"blk.1.{name}.weight"], interleaved(expected, heads) if heads else expected)
        scalings.add(scaling)
    assert found.scalings == pytest.approx(sorted(scalings))


def test_the_rows_of_falcons_attention_are_all_queries_then_keys_then_values(tmp_path: Path) -> None:
    base, adapter = save_lora("falcon", tmp_path)
    path = "base_model.model.transformer.h.1.self_attention.query_key_value"
    tensors = factors(adapter)
    product = 2 * tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]
    heads = product.reshape(2, 4, 64, 256)  # two groups of two queries, a key and a value
    expected = np.concatenate([part.reshape(-1, 256) for part in (heads[:, :2], heads[:, 2], heads[:, 3])])
    found = export_lora(str(base), str(adapter), tmp_path / "lora.gguf")
    assert_equal(products(found.path)["blk.1.attn_qkv.weight"], expected)


def test_embedding_and_head_are_exported_although_peft_saves_the_bases_own_with_them(tmp_path: Path) -> None:
    base, adapter = save_lora("llama", tmp_path, target_modules=["embed_tokens", "lm_head"])
    tensors = factors(adapter)
    embedding, head = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
    assert f"{embedding}.base_layer.weight" in tensors
    ours = products(export_lora(str(base), str(adapter), tmp_path / "lora.gguf").path)
    expected = 2 * (tensors[f"{embedding}.lora_embedding_B"] @ tensors[f"{embedding}.lora_embedding_A"]).T
    assert_equal(ours["token_embd.weight"], expected)
    assert_equal(ours["output.weight"], 2 * tensors[f"{head}.lora_B.weight"] @ tensors[f"{head}.lora_A.weight"])
    saved = load_file(adapter / "adapter_model.safetensors")
    saved[f"{embedding}.base_layer.weight"][2047, 3] += 1  # trained, or of another base
    save_file(saved, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match=r"changed otherwise: 1 tensor - at model\.embed_tokens\.weight"):
        export_lora(str(base), str(adapter), tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {"use_rslora": True, "alpha_pattern": {"v_proj": 3}, "rank_pattern": {"down_proj": 2}}),
        ("llama", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
        ("mixtral", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        ("qwen2", {}), ("qwen3_moe", {}), ("gemma3", {}), ("phi3", {}), ("granite", {}), ("starcoder2", {}),
        ("falcon", {}),
    ],
)  # fmt: skip
def test_llama_cpp_with_the_adapter_computes_what_it_computes_with_the_merged_model(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    base, adapter = save_lora(name, tmp_path, **config)
    exported = export_lora(str(base), str(adapter), tmp_path / "lora.gguf").path
    bare, merged = to_gguf(base, [], tmp_path / "bare"), to_gguf(base, [adapter], tmp_path / "merged")
    ids = [int(token) for token in np.random.RandomState(3).randint(3, 1700, 20)]
    columns = 2304 if name == "qwen2" else 2048
    alone, with_adapter, expected = (
        running.log_probabilities(ids, columns)
        for running in (Running(bare), Running(bare, adapters=[exported]), Running(merged))
    )
    assert np.abs(with_adapter - expected).max() < EXACT
    assert np.abs(alone - expected).max() > 20 * EXACT


def to_gguf(base: Path, adapters: list[Path], target: Path) -> Path:
    options = Options(gguf=GgufOptions(("F32",)))
    with prepare(str(base), [(str(adapter), 1.0) for adapter in adapters], options, target=target) as job:
        job.run()
    return next(target.glob("*.gguf"))


@pytest.mark.parametrize(
    ("name", "config", "error", "words"),
    [
        ("llama", {"use_dora": True}, AdapterError, "products of two matrices; changed otherwise: 14 tensors"),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, AdapterError, "at lm_head.weight"),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}, AdapterError, "embed_tokens"),
        ("starcoder2", {"bias": "lora_only"}, AdapterError, "c_fc.bias"),
        ("starcoder2", {"lora_bias": True}, AdapterError, "c_fc.bias"),
        ("llama", {"lora_bias": True}, MismatchError, "without bias"),
        ("llama_tied", {"target_modules": ["lm_head"]}, AdapterError, "tie_word_embeddings"),
        ("llama_tied", {"target_modules": ["embed_tokens"]}, AdapterError, "tie_word_embeddings"),
    ],
)
def test_what_is_no_product_is_refused_and_nothing_is_written(
    name: str, config: dict[str, Any], error: type[IngotError], words: str, tmp_path: Path
) -> None:
    base, adapter = save_lora(name, tmp_path, **config)
    with pytest.raises(error) as refusal:
        export_lora(str(base), str(adapter), tmp_path / "lora.gguf")
    assert words in refusal.value.message
    assert refusal.value.hint
    assert not (tmp_path / "lora.gguf").exists()


def test_another_method_and_another_name_are_refused(tmp_path: Path) -> None:
    base, adapter = save_lora("llama", tmp_path)
    with pytest.raises(UsageError, match=r"ends in \.gguf"):
        export_lora(str(base), str(adapter), tmp_path / "lora.bin")
    (tmp_path / "there.gguf").touch()
    with pytest.raises(OutputError, match="exists"):
        export_lora(str(base), str(adapter), tmp_path / "there.gguf")
    config: Mapping[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(AdapterError):
        export_lora(str(base), str(adapter), tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()


def test_the_command_writes_half_the_bytes_in_float16_and_refuses_what_has_no_place_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = save_lora("llama", tmp_path, torch.bfloat16)
    whole, half = tmp_path / "whole.gguf", tmp_path / "half.gguf"
    assert main(["export-lora", str(base), str(adapter), "-o", str(whole), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["modules"], result["ranks"], result["scalings"]) == (14, [4], [2.0])
    assert main(["export-lora", str(base), str(adapter), "-o", str(half), "--dtype", "float16"]) == 0
    assert "Scaling    2" in capsys.readouterr().out
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for name, product in products(half).items():
        np.testing.assert_allclose(product, products(whole)[name], rtol=0.01, atol=1e-4)
    saved = load_file(adapter / "adapter_model.safetensors")
    saved[f"{LAYER}mlp.up_proj.lora_B.weight"][0, 0] = 40_000.0
    save_file(saved, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"no place in F16 - at blk\.1\.ffn_up\.weight"):
        export_lora(str(base), str(adapter), tmp_path / "over.gguf", dtype="F16")


def test_a_base_that_is_not_written_to_gguf_is_refused(tmp_path: Path) -> None:
    base, adapter = save_lora("llama", tmp_path)
    change_config(base, {"architectures": ["NobodyForCausalLM"]})
    with pytest.raises(IngotError, match="no GGUF architecture"):
        export_lora(str(base), str(adapter), tmp_path / "lora.gguf")
