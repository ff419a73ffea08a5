"""Decoder families whose names and shapes are the same in memory and on disk, answered without importing transformers.

Importing transformers and building a class takes seconds, which a merge need not pay for the models that are merged
most. What stands here is proven against the classes of the installed transformers by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ingot.adapters.module import Module, ModuleKind
from ingot.naming.layout import Layout
from ingot.naming.names_only import modules_from
from ingot.naming.table import Table, stored_twice, tied_aliases

LAYER = re.compile(r"model\.layers\.\d+\.(.+)")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_ATTENTION = (*_QKV, "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_ATTENTION_BIAS = {"attention_bias": _ATTENTION}


@dataclass(frozen=True)
class Family:
    """A causal language model.

    Attributes:
        model_class: its transformers class.
        linears: the nn.Linear modules of a layer, in the order in which the class makes them.
        norms: the norms of a layer.
        biases: which linears have a bias where a key of the configuration is true; key "" stands for always.
        norm_bias: norms have a bias.
        tied: the head is the embedding unless the configuration says otherwise.
    """

    model_class: str
    linears: tuple[str, ...] = (*_ATTENTION, *_MLP)
    norms: tuple[str, ...] = _NORMS
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_bias: bool = False
    tied: bool = False

    def parameters(self, config: Mapping[str, object], layers: int) -> dict[str, int]:
        """Rank of every parameter of a model with this many layers, by name; linears in the model's own order."""
        biased = {name for key, names in self.biases.items() if key == "" or config.get(key) is True for name in names}
        of_layer = {f"{name}.weight": 2 for name in self.linears} | {f"{name}.weight": 1 for name in self.norms}
        of_layer |= {f"{name}.bias": 1 for name in (*biased, *(self.norms if self.norm_bias else ()))}
        in_layers = {f"model.layers.{at}.{name}": ndim for at in range(layers) for name, ndim in of_layer.items()}
        norm = {"model.norm.weight": 1} | ({"model.norm.bias": 1} if self.norm_bias else {})
        return {EMBEDDING: 2} | in_layers | norm | {HEAD: 2}


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", biases={**_ATTENTION_BIAS, "mlp_bias": _MLP}),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", biases={"": _QKV}),
    "qwen3": Family("Qwen3ForCausalLM", norms=(*_NORMS, *_QK_NORMS), biases=_ATTENTION_BIAS),
    "gemma": Family("GemmaForCausalLM", biases=_ATTENTION_BIAS, tied=True),
    "gemma2": Family("Gemma2ForCausalLM", norms=(*_NORMS, *_FEEDFORWARD_NORMS), biases=_ATTENTION_BIAS, tied=True),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", norms=(*_NORMS, *_FEEDFORWARD_NORMS, *_QK_NORMS), biases=_ATTENTION_BIAS, tied=True
    ),
    "phi3": Family(
        "Phi3ForCausalLM", linears=("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ),
    "granite": Family("GraniteForCausalLM", biases={**_ATTENTION_BIAS, "mlp_bias": _MLP}),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        norms=("post_attention_layernorm", "post_feedforward_layernorm", *_QK_NORMS),
        biases=_ATTENTION_BIAS,
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM",
        linears=(*_ATTENTION, "mlp.c_fc", "mlp.c_proj"),
        biases={"use_bias": (*_ATTENTION, "mlp.c_fc", "mlp.c_proj")},
        norm_bias=True,
        tied=True,
    ),
    "smollm3": Family("SmolLM3ForCausalLM", biases={**_ATTENTION_BIAS, "mlp_bias": _MLP}, tied=True),
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
    if not isinstance(layers, int) or layers > len(shapes) or not isinstance(tied, bool):
        return None
    expected = family.parameters(config, layers)
    pairs = {HEAD: EMBEDDING} if tied else {}
    aliases = tied_aliases(pairs, shapes.__contains__)
    if {name: len(shape) for name, shape in shapes.items()} != {n: d for n, d in expected.items() if n not in aliases}:
        return None
    ordered = {name: shapes[name] for name in expected if name in shapes}
    return _table(ordered, family, aliases, stored_twice(pairs, shapes.__contains__))


def _table(
    shapes: Mapping[str, tuple[int, ...]], family: Family, aliases: Mapping[str, str], twice: Mapping[str, str]
) -> Table:
    """`shapes` in the order in which the class makes its modules."""
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
        stored_twice=twice,
        prefix="model",
        dense=("lm_head",),
    )


def _kind(path: str, family: Family) -> ModuleKind:
    in_layer = LAYER.fullmatch(path)
    if path == "lm_head" or (in_layer is not None and in_layer[1] in family.linears):
        return ModuleKind.LINEAR
    return ModuleKind.EMBEDDING if path == "model.embed_tokens" else ModuleKind.OTHER
