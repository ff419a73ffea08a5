"""Make the references of torchtune's form: `python -m tests.reference.make_torchtune TORCHTUNE`.

TORCHTUNE is the folder of an installed torchtune; two of its files are run, which need torch alone. Made with
torchtune 0.6.1, torch 2.13.0. A base goes into torchtune's names, an update is added there, and the sum comes back.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch

from tests.reference.drawn import draw, draw_adapter
from tests.reference.kept import Spec, keep
from tests.reference.names import TEXT, decoder, dense

CONFIG = {"r": 3, "lora_alpha": 5, "peft_type": "LORA", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
PARTS = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "mlp.w1", "mlp.w2", "mlp.w3")


def converters(root: Path) -> tuple[Any, Any]:
    """torchtune's general conversion, and Qwen2's."""
    for package in ("torchtune", "torchtune.models"):
        sys.modules[package] = types.ModuleType(package)
    general = _run(root / "models" / "convert_weights.py", "torchtune.models.convert_weights")
    return general, _run(root / "models" / "qwen2" / "_convert_weights.py", "torchtune.models.qwen2")


def _run(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(case: str, model_type: str, config_class: str, to_tune: Any, to_hf: Any, *, dora: bool = False) -> None:
    base = decoder(dense, tied=False)
    heads = {"num_heads": 4, "num_kv_heads": 2, "dim": 16}
    tune = to_tune({name: torch.from_numpy(draw(name, shape)).double() for name, shape in base.items()}, **heads)
    adapter: dict[str, list[int]] = {}
    for path in (*(f"layers.{n}.{part}" for n in range(2) for part in PARTS), "output"):
        out, inner = tune[f"{path}.weight"].shape
        adapter |= {f"{path}.lora_a.weight": [3, inner], f"{path}.lora_b.weight": [out, 3]}
        a, b = (torch.from_numpy(draw_adapter(n, adapter[n])).double() for n in list(adapter)[-2:])
        tune[f"{path}.weight"] += 5 / 3 * b @ a
        if dora:
            adapter[f"{path}.magnitude"] = [out]
            magnitude = torch.from_numpy(draw_adapter(f"{path}.magnitude", [out])).double()
            tune[f"{path}.weight"] *= (magnitude / tune[f"{path}.weight"].norm(dim=1))[:, None]
    merged = {name: value.numpy() for name, value in to_hf(tune, **heads).items()}
    spec = Spec(
        by=f"torchtune 0.6.1, torch {torch.__version__}: hf_to_tune, W + alpha / r * B @ A, tune_to_hf", base=base,
        adapter=adapter, adapter_name="adapter_model.safetensors", adapter_files={"adapter_config.json": CONFIG},
        base_files={"config.json": {**TEXT, "model_type": model_type, "architectures": [config_class],
                                    "tie_word_embeddings": False, "max_position_embeddings": 64}},
    )  # fmt: skip
    keep(case, spec, merged)


def main() -> None:
    general, qwen2 = converters(Path(sys.argv[1]))
    llama = ("llama", "LlamaForCausalLM", general.hf_to_tune, general.tune_to_hf)
    record("torchtune_llama", *llama)
    record("torchtune_dora", *llama, dora=True)
    # qwen2_hf_to_tune of 0.6.1 has its test for tied embeddings the wrong way round; without them it is right
    record("torchtune_qwen2", "qwen2", "Qwen2ForCausalLM", qwen2.qwen2_hf_to_tune, qwen2.qwen2_tune_to_hf)


if __name__ == "__main__":
    main()
