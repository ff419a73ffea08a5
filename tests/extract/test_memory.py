"""Peak memory of real processes: the largest matrix and a constant, whatever the size of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.toys import environment

HIDDEN, INNER, WORDS = 1088, 5440, 64
#: Of a layer: MB of bfloat16.
LAYER_NBYTES = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
#: subtle: a process begins with the peak of the one that started it; a small one in between reports its child's.
LAUNCHER = (
    sys.executable, "-c",
    "import resource, subprocess, sys\n"
    "subprocess.run(sys.argv[1:], check=True)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
)  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    idle = _peak(tmp_path, "-c", "import torch")
    small = _extracted(tmp_path / "small", 2)
    large = _extracted(tmp_path / "large", 8)
    assert 8 * LAYER_NBYTES > 350e6
    assert large - small < 10e6
    assert large - idle < 4 * HIDDEN * INNER + 64e6


def _extracted(root: Path, layers: int) -> int:
    """Peak resident bytes of an extraction from a llama with this many layers, the parameters of each changed."""
    for directory in ("base", "tuned"):
        _write(root / directory, layers, directory == "tuned")
    return _peak(root, "-m", "ingot", "extract", "base", "tuned", "-o", "out", "--rank", "16")


def _peak(directory: Path, *arguments: str) -> int:
    done = subprocess.run(
        [*LAUNCHER, sys.executable, *arguments], cwd=directory, capture_output=True, text=True, check=True,
        env=environment(INGOT_CACHE=str(directory / "cache"), OMP_NUM_THREADS="1"),
    )  # fmt: skip
    return int(done.stdout.splitlines()[-1]) * 1024


def _write(directory: Path, layers: int, tuned: bool) -> None:
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {f"mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")} | {"mlp.down_proj": (HIDDEN, INNER)}
    tensors = {name: torch.ones(WORDS, HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors["model.norm.weight"] = torch.ones(HIDDEN)
    for layer in range(layers):
        generator = torch.Generator().manual_seed(layer)
        for name, shape in shapes.items():
            weight = torch.randn(*shape, generator=generator)
            left, right = (torch.randn(side, 8, generator=generator) for side in shape)
            tensors[f"model.layers.{layer}.{name}.weight"] = weight + 0.1 * left @ right.T if tuned else weight
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(HIDDEN)
    directory.mkdir(parents=True)
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halves, directory / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": WORDS,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": 8, "tie_word_embeddings": False,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
