"""A tiny Llama-like checkpoint and LoRA adapters for it, written by the safetensors library."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ingot.cli import main

SOURCE = Path(__file__).resolve().parents[2] / "src"
HIDDEN, KEYS, INNER, WORDS, LAYERS = 16, 8, 24, 37, 2
#: Module -> weight[out, in].
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
NORMS = ("input_layernorm", "post_attention_layernorm")
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS, "hidden_size": HIDDEN,
    "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "torch_dtype": "float16", "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip


def make_base(path: Path, *, shards: int = 2, config: Mapping[str, object] | None = None) -> dict[str, np.ndarray]:
    """A whole model directory; returns its tensors."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.1).astype(np.float16)

    tensors = {"model.embed_tokens.weight": weight(WORDS, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{module}.weight": weight(*shape) for module, shape in MODULES.items()}
        tensors |= {f"{prefix}.{norm}.weight": weight(HIDDEN) for norm in NORMS}
    tensors |= {"model.norm.weight": weight(HIDDEN), "lm_head.weight": weight(WORDS, HIDDEN)}
    path.mkdir(parents=True)
    _save_sharded(path, tensors, shards)
    (path / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    (path / "generation_config.json").write_text("{}")
    (path / "tokenizer.json").write_text('{"of": "the base"}')
    return tensors


def _save_sharded(path: Path, tensors: Mapping[str, np.ndarray], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), path / "model.safetensors", {"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, path / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter_tensors(
    modules: Sequence[str] = ("q_proj", "v_proj"), rank: int = 4, seed: int = 1
) -> dict[str, np.ndarray]:
    """A[r, in] and B[out, r] of these modules in every layer."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for path, (rows, columns) in MODULES.items():
            if path.rpartition(".")[2] in modules:
                prefix = f"base_model.model.model.layers.{layer}.{path}"
                tensors[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, columns)).astype(np.float32)
                tensors[f"{prefix}.lora_B.weight"] = random.standard_normal((rows, rank)).astype(np.float32)
    return tensors


def make_adapter(
    path: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    rank: int = 4,
    **config: Any,
) -> dict[str, np.ndarray]:
    """An adapter directory as PEFT writes it; returns its tensors."""
    path.mkdir(parents=True)
    tensors = dict(tensors if tensors is not None else adapter_tensors(modules, rank))
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    whole = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules), "bias": "none",
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "acme/tiny", "peft_version": "0.18.1", **config,
    }  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(whole))
    return tensors


def environment(**more: str) -> dict[str, str]:
    """What a command runs in: no network, no colours of the caller, its own cache."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LC_ALL", "LANG")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", "TERM": "xterm", **more}


def ingot(
    *arguments: str | bytes, cwd: Path, script: str | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own; `script` stands in for `python -m ingot`."""
    start = ["-c", script] if script else ["-m", "ingot"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=cwd, env=environment(**{"INGOT_CACHE": str(cwd / ".cache"), **env}), capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip


def run_here(line: str, directory: Path) -> int:
    """The command in this process, whose torch is loaded already; the exit code."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        return main(shlex.split(line))
    finally:
        os.chdir(before)


def json_lines(output: bytes) -> list[dict[str, Any]]:
    """Every line of stdout, parsed."""
    return [json.loads(line) for line in output.decode("ascii").splitlines()]


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything under a directory, but the digest cache."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if ".cache" not in path.parts and path.is_file()
    }
