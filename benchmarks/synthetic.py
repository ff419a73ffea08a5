"""Llama-shaped checkpoints and adapters of random numbers, written as a stream: an 8B needs no 16 GB of memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

SHARD_NBYTES = 1_200_000_000
_BLOCK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Shape:
    """The dimensions of a Llama."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """[out, in] of the seven projections of a layer, by their path in it."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's name and shape, as transformers saves them."""
        yield "model.embed_tokens.weight", (self.vocab_size, self.hidden_size)
        for layer in range(self.num_hidden_layers):
            at = f"model.layers.{layer}"
            for path, shape in self.projections.items():
                yield f"{at}.{path}.weight", shape
            yield f"{at}.input_layernorm.weight", (self.hidden_size,)
            yield f"{at}.post_attention_layernorm.weight", (self.hidden_size,)
        yield "model.norm.weight", (self.hidden_size,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, self.hidden_size)


#: The dimensions of Llama 3.2 1B and 3B and of Llama 3.1 8B.
SHAPES = {
    "1B": Shape(2048, 8192, 16, 32, 8, 64, 128256, tie_word_embeddings=True),
    "3B": Shape(3072, 8192, 28, 24, 8, 128, 128256, tie_word_embeddings=True),
    "8B": Shape(4096, 14336, 32, 32, 8, 128, 128256, tie_word_embeddings=False),
}


def make_base(shape: Shape, target: Path, *, seed: int = 0) -> None:
    """A bf16 checkpoint of weights ~ N(0, 0.036): one random block, repeated from a shifting start."""
    target.mkdir(parents=True)
    block = (torch.randn(_BLOCK_ELEMENTS, generator=torch.Generator().manual_seed(seed)) * 0.036).to(torch.bfloat16)
    data = memoryview(block.view(torch.uint8).numpy().tobytes())
    shards = _shards(shape)
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update({tensor: name for tensor, _ in tensors})
        _write_shard(target / name, tensors, data)
    total = sum(2 * _numel(s) for shard in shards for _, s in shard)
    _write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "rms_norm_eps": 1e-5}
    _write_json(target / "config.json", config | asdict(shape) | {"max_position_embeddings": 8192})
    _write_json(target / "generation_config.json", {"do_sample": False})


def make_adapter(shape: Shape, target: Path, rank: int, *, seed: int = 1) -> None:
    """A LoRA of `rank` on all seven projections, in bf16, with deltas of rms 1e-3 or so."""
    from safetensors.torch import save_file

    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.num_hidden_layers):
        for path, (out, inner) in shape.projections.items():
            at = f"base_model.model.model.layers.{layer}.{path}"
            tensors[f"{at}.lora_A.weight"] = (torch.randn(rank, inner, generator=generator) * 0.02).to(torch.bfloat16)
            tensors[f"{at}.lora_B.weight"] = (torch.randn(out, rank, generator=generator) * 0.01).to(torch.bfloat16)
    save_file(tensors, target / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": [path.rpartition(".")[2] for path in shape.projections], "peft_version": "0.21.2",
        "base_model_name_or_path": "synthetic",
    }  # fmt: skip
    _write_json(target / "adapter_config.json", config)


def _shards(shape: Shape) -> list[list[tuple[str, tuple[int, ...]]]]:
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    nbytes = 0
    for name, dims in shape.tensors():
        size = 2 * _numel(dims)
        if nbytes and nbytes + size > SHARD_NBYTES:
            shards.append([])
            nbytes = 0
        shards[-1].append((name, dims))
        nbytes += size
    return shards


def _write_shard(path: Path, tensors: list[tuple[str, tuple[int, ...]]], data: memoryview) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dims in tensors:
        size = 2 * _numel(dims)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for number, (_, dims) in enumerate(tensors):
            left, start = 2 * _numel(dims), (number * 4099 * 2) % len(data)
            while left:
                piece = data[start : start + left]
                file.write(piece)
                left -= len(piece)
                start = 0


def _numel(dims: tuple[int, ...]) -> int:
    return int(torch.Size(dims).numel())


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
