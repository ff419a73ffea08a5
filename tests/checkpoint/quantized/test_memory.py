"""Peak memory of a merge onto a quantized base: under what the plan says, whatever the base's size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ingot.kernels.codes import NF4
from ingot.kernels.nf4 import dynamic_map
from tests import toy
from tests.checkpoint.quantized.folders import write

HIDDEN, INNER, LAYERS, WORDS = 2048, 8192, 6, 1000
#: Weights [out, in] of a layer.
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (512, HIDDEN), "self_attn.v_proj": (512, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": WORDS,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip

_RUN = """
import sys
from pathlib import Path
from ingot.merge import prepare
base, adapter, out = sys.argv[1:]
with prepare(base, [(adapter, 1.0)], target=Path(out), jobs=2) as job:
    print(job.plan.budget.peak_memory_nbytes, flush=True)
    job.run()
"""
#: subtle: a process begins with the peak of the one that started it; a small one in between tells that of its child.
_LAUNCHER = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def _words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def nf4(name: str, out: int, inputs: int) -> dict[str, torch.Tensor]:
    blocks = out * inputs // 64
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [out, inputs],
             "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05}  # fmt: skip
    return {
        f"{name}.weight": _words(out * inputs // 8).view(torch.uint8).view(-1, 1),
        f"{name}.weight.absmax": torch.randint(0, 255, (blocks,), dtype=torch.uint8),
        f"{name}.weight.quant_map": torch.tensor(NF4),
        f"{name}.weight.nested_absmax": torch.full((-(-blocks // 256),), 0.01),
        f"{name}.weight.nested_quant_map": dynamic_map().clone(),
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }


def gptq(name: str, out: int, inputs: int) -> dict[str, torch.Tensor]:
    groups = inputs // 128
    return {
        f"{name}.qweight": _words(inputs // 8, out),
        f"{name}.qzeros": torch.full((groups, out // 8), 0x77777777, dtype=torch.int32),
        f"{name}.scales": torch.full((groups, out), 0.01, dtype=torch.float16),
        f"{name}.g_idx": torch.arange(inputs, dtype=torch.int32) // 128,
    }


def fp8(name: str, out: int, inputs: int) -> dict[str, torch.Tensor]:
    grid = torch.full((-(-out // 128), inputs // 128), 0.01)
    return {f"{name}.weight": torch.ones(out, inputs).to(torch.float8_e4m3fn), f"{name}.weight_scale_inv": grid}


FORMATS: dict[str, tuple[Callable[[str, int, int], dict[str, torch.Tensor]], dict[str, object]]] = {
    "nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 128}),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_the_peak_is_what_the_plan_says_and_does_not_grow_with_the_base(tmp_path: Path, form: str) -> None:
    make, said = FORMATS[form]
    linears = {f"model.layers.{at}.{name}": shape for at in range(LAYERS) for name, shape in SHAPES.items()}
    tensors = {name: part for path, shape in linears.items() for name, part in make(path, *shape).items()}
    norms = [f"model.layers.{at}.{name}" for at in range(LAYERS)
             for name in ("input_layernorm", "post_attention_layernorm")]  # fmt: skip
    tensors |= {f"{name}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16) for name in (*norms, "model.norm")}
    tensors |= dict.fromkeys(
        ("model.embed_tokens.weight", "lm_head.weight"), torch.ones(WORDS, HIDDEN, dtype=torch.bfloat16)
    )
    base = write(tmp_path / "base", tensors, said, shards=2)
    (base / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": said}))
    adapted = {
        f"base_model.model.{path}.lora_{side}.weight": torch.full(size, 0.01)
        for path, (out, inputs) in linears.items()
        if path.endswith("up_proj")
        for side, size in (("A", (8, inputs)), ("B", (out, 8)))
    }
    toy.write_adapter(tmp_path / "adapter", adapted, {"r": 8, "lora_alpha": 8, "target_modules": ["up_proj"]})
    del tensors
    command = [sys.executable, "-c", _LAUNCHER, _RUN, str(base), str(tmp_path / "adapter"), str(tmp_path / "out")]
    began = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    budget, peak = map(int, result.stdout.split())
    dense = 2 * LAYERS * sum(out * inputs for out, inputs in SHAPES.values())
    print(f"{form}: peak {peak / 2**20:.0f} MiB, plan {budget / 2**20:.0f} MiB, output {dense / 2**20:.0f} MiB, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip
    assert peak <= budget
    assert peak < dense
