"""Make the references of mlx-lm's form: `python -m tests.reference.make_mlx`.

Needs mlx[cpu] and mlx-lm, in a venv of their own. Made with mlx 0.32.4, mlx-lm 0.32.2.

A base in transformers' names goes through mlx-lm's own `sanitize` into its model, gets the layers that a training run
would give it, with drawn values, and is fused as `mlx_lm.fuse` does. Experts are taken apart into transformers' names.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import llama, mixtral, qwen3_moe
from mlx_lm.tuner.utils import linear_to_lora_layers

from tests.reference.drawn import draw, draw_adapter
from tests.reference.kept import Spec, keep
from tests.reference.names import OF_MIXTRAL, TEXT, decoder, dense, experts_of_mixtral, experts_of_qwen

BY = f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}"


def on_disk(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """mlx-lm's tensor in transformers' names."""
    if ".switch_mlp." not in name:
        return {name: value}
    block, _, rest = name.partition(".switch_mlp.")
    leaf = rest.removesuffix(".weight")
    leaf = OF_MIXTRAL[leaf] if block.endswith("block_sparse_moe") else leaf
    return {f"{block}.experts.{e}.{leaf}.weight": one for e, one in enumerate(value)}


def record(case: str, module: Any, config: dict[str, Any], base: dict[str, list[int]], kind: str,
           parameters: dict[str, Any], layers: int, config_class: str) -> None:  # fmt: skip
    """Train nothing, but draw what a training run would have trained; fuse; keep."""
    model = module.Model(module.ModelArgs(**config))
    weights = model.sanitize({name: mx.array(draw(name, shape)) for name, shape in base.items()})
    model.load_weights(list(weights.items()), strict=True)
    model.freeze()
    if kind == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
    trained = {name: list(value.shape) for name, value in tree_flatten(model.trainable_parameters())}
    model.load_weights([(name, mx.array(draw_adapter(name, shape))) for name, shape in trained.items()], strict=False)
    fused = [(name, one.fuse(dequantize=False)) for name, one in model.named_modules() if hasattr(one, "fuse")]
    model.update_modules(tree_unflatten(fused))
    merged: dict[str, np.ndarray] = {}
    for name, value in tree_flatten(model.parameters()):
        merged |= on_disk(name, np.array(value))
    settings = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters, "model": "acme/tiny",
                "adapter_path": "adapters"}  # fmt: skip
    spec = Spec(
        by=f"{BY}: fuse of a {kind} run", base=base, adapter=trained, adapter_name="adapters.safetensors",
        base_files={"config.json": {**config, "architectures": [config_class], "max_position_embeddings": 64}},
        adapter_files={"adapter_config.json": settings},
    )  # fmt: skip
    keep(case, spec, merged)


def main() -> None:
    mx.set_default_device(mx.cpu)
    llama_config = {**TEXT, "model_type": "llama", "tie_word_embeddings": False}
    lora = {"rank": 3, "scale": 2.5, "dropout": 0.0}
    record("mlx_lora", llama, llama_config, decoder(dense, tied=False), "lora", lora, 1, "LlamaForCausalLM")
    keys = {**lora, "keys": ["self_attn.q_proj", "mlp.down_proj", "model.embed_tokens", "lm_head"]}
    record("mlx_embeddings", llama, llama_config, decoder(dense, tied=False), "lora", keys, -1, "LlamaForCausalLM")
    tied = {**llama_config, "tie_word_embeddings": True}
    keys = {**lora, "keys": ["self_attn.v_proj", "model.embed_tokens"]}
    record("mlx_tied", llama, tied, decoder(dense, tied=True), "lora", keys, 2, "LlamaForCausalLM")
    record("mlx_dora", llama, llama_config, decoder(dense, tied=False), "dora", {**lora, "keys": [
        "self_attn.q_proj", "mlp.gate_proj", "model.embed_tokens"]}, 2, "LlamaForCausalLM")  # fmt: skip
    record("mlx_full", llama, llama_config, decoder(dense, tied=False), "full", lora, 1, "LlamaForCausalLM")
    config = {**TEXT, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2,
              "tie_word_embeddings": False}  # fmt: skip
    record("mlx_mixtral", mixtral, config, decoder(experts_of_mixtral, tied=False), "lora", lora, 2,
           "MixtralForCausalLM")  # fmt: skip
    config = {**TEXT, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 4,
              "moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
              "tie_word_embeddings": False, "max_position_embeddings": 64}  # fmt: skip
    record("mlx_qwen3_moe", qwen3_moe, config, decoder(experts_of_qwen, tied=False), "lora", lora, 2,
           "Qwen3MoeForCausalLM")  # fmt: skip


if __name__ == "__main__":
    main()
