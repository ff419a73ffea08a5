"""Decoder families whose names and shapes are the same in memory and on disk, answered without importing transformers.

Importing transformers and building a class takes seconds, which a merge need not pay for the models that are merged
most. What stands here is proven against the classes of the installed transformers by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingot.adapters.module import Module, ModuleKind
from ingot.naming.layout import Layout
from ingot.naming.names_only import modules_from
from ingot.naming.table import Table, tied_aliases

LAYER = re.compile(r"model\.layers\.(0|[1-9]\d*)\.(.+)")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = (*_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """A causal language model: its class, the modules of a layer, and whether its head is tied unless config says."""

    model_class: str
    linears: tuple[str, ...] = _GATED
    norms: tuple[str, ...] = _NORMS
    tied: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM", norms=(*_NORMS, *_QK_NORMS)),
    "gemma": Family("GemmaForCausalLM", tied=True),
    "gemma2": Family("Gemma2ForCausalLM", norms=(*_NORMS, *_FEEDFORWARD_NORMS), tied=True),
    "gemma3_text": Family("Gemma3ForCausalLM", norms=(*_NORMS, *_FEEDFORWARD_NORMS, *_QK_NORMS), tied=True),
    "phi3": Family(
        "Phi3ForCausalLM", linears=("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ),
    "granite": Family("GraniteForCausalLM"),
    "olmo2": Family("Olmo2ForCausalLM", norms=("post_attention_layernorm", "post_feedforward_layernorm", *_QK_NORMS)),
    "starcoder2": Family("Starcoder2ForCausalLM", linears=(*_ATTENTION, "mlp.c_fc", "mlp.c_proj"), tied=True),
    "smollm3": Family("SmolLM3ForCausalLM", tied=True),
}


def table(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object], *, task: str | None, auto_class: str | None
) -> Table | None:
    """The table of a known family; None where anything about the checkpoint or the adapter is unusual."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or config.get("architectures") != [family.model_class] or task not in (None, "CAUSAL_LM"):
        return None
    if auto_class not in (None, family.model_class):
        return None
    layers, tied = config.get("num_hidden_layers"), config.get("tie_word_embeddings", family.tied)
    if not isinstance(layers, int) or not isinstance(tied, bool):
        return None
    if not all(_belongs(name, len(shape), family, layers) for name, shape in shapes.items()):
        return None
    return _table(shapes, family, tied=tied)


def _table(shapes: Mapping[str, tuple[int, ...]], family: Family, *, tied: bool) -> Table:
    pairs = {HEAD: EMBEDDING} if tied else {}
    aliases = tied_aliases(pairs, shapes.__contains__)
    modules = modules_from(shapes, lambda path: _kind(path, family))
    for alias, source in aliases.items():
        path = alias.removesuffix(".weight")
        modules[path] = Module(path, _kind(path, family), {"weight": shapes[source]})
    return Table(
        model_class=family.model_class,
        modules=modules,
        shapes=shapes,
        layouts={name: Layout.whole(name, shape) for name, shape in shapes.items()},
        owners={name: name for name in shapes},
        tied=aliases,
        prefix="model",
    )


def _belongs(name: str, ndim: int, family: Family, layers: int) -> bool:
    """Whether a tensor of this name and rank is a parameter of the family with this many layers."""
    path, _, leaf = name.rpartition(".")
    in_layer = LAYER.fullmatch(path)
    if in_layer is not None and int(in_layer[1]) < layers and leaf in ("weight", "bias"):
        linear, norm = in_layer[2] in family.linears, in_layer[2] in family.norms
        return (linear and ndim == (2 if leaf == "weight" else 1)) or (norm and ndim == 1)
    if name in (HEAD, EMBEDDING):
        return ndim == 2
    return name in ("model.norm.weight", "model.norm.bias") and ndim == 1


def _kind(path: str, family: Family) -> ModuleKind:
    in_layer = LAYER.fullmatch(path)
    if path == "lm_head" or (in_layer is not None and in_layer[2] in family.linears):
        return ModuleKind.LINEAR
    return ModuleKind.EMBEDDING if path == "model.embed_tokens" else ModuleKind.OTHER
