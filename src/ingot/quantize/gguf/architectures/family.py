"""What most families share: names by the `gguf` library's map, experts in stacks, and the standard keys.

A family is a `Family` with what differs: a few flags, and functions for what no flag says. Keys and their meaning:
the GGUF specification of ggml-org/ggml and the constants of the `gguf` library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError
from ingot.quantize.gguf.architecture import Config, GgufTensor, Rows

if TYPE_CHECKING:
    from gguf import GGUFWriter

Shapes = Mapping[str, tuple[int, ...]]
Describe = Callable[[Config, "GGUFWriter"], None]
Computed = Callable[[Config], tuple[GgufTensor, ...]]

#: One expert's matrix: `model.layers.3.mlp.experts.7.gate_proj.weight`.
_EXPERT = re.compile(r"(?P<head>.+\.experts)\.(?P<number>\d+)\.(?P<tail>.+)")
#: Buffers that older checkpoints store and every runtime computes.
_BUFFERS = re.compile(r".*\.(rotary_emb\.inv_freq|(attn|attention|self_attn)\.(masked_)?bias)")


_COUNTS = (
    "hidden_size", "n_embd", "intermediate_size", "num_attention_heads", "n_head", "num_key_value_heads",
    "num_kv_heads", "head_dim", "vocab_size", "max_position_embeddings", "num_local_experts", "num_experts",
    "num_experts_per_tok",
)  # fmt: skip


def _nothing(_config: Config, _writer: GGUFWriter) -> None:
    return None


def _no_tensors(_config: Config) -> tuple[GgufTensor, ...]:
    return ()


@dataclass(frozen=True)
class Family:
    """An `Architecture` of the common kind.

    Attributes:
        name: GGUF's name, as in `gguf.MODEL_ARCH_NAMES`.
        classes: transformers' model classes.
        interleaves: rows of q_proj and k_proj go by rotary pairs (Llama's kind of rotary embedding in ggml).
        shifted: ends of the names of norms that are stored without their 1.
        describe_more: keys beyond the standard ones.
        computed: tensors that follow from the config.
        renamed: (pattern, replacement) for names that the library's map does not know.
        always_tied: llama.cpp's graph has no head of its own: a tied one is left out, an untied one refused.
        activation: llama.cpp's graph has this one, whatever the config says: "silu" or "gelu".
    """

    name: str
    classes: tuple[str, ...]
    interleaves: bool = False
    shifted: tuple[str, ...] = ()
    describe_more: Describe = _nothing
    computed: Computed = _no_tensors
    renamed: tuple[tuple[str, str], ...] = ()
    always_tied: bool = False
    activation: str = "silu"

    def describe(self, config: Config, writer: GGUFWriter) -> None:
        """See `Architecture.describe`."""
        check_activation(config, self.activation)
        standard_keys(config, writer)
        self.describe_more(config, writer)

    def tensors(self, config: Config, shapes: Shapes) -> tuple[GgufTensor, ...]:
        """See `Architecture.tensors`."""
        _check_numbers(config)
        named = _Names(self, block_count(config))
        found: dict[str, GgufTensor] = {}
        for name, shape in shapes.items():
            if _BUFFERS.fullmatch(name) or self._is_tied_head(name, config):
                continue
            expert = _EXPERT.fullmatch(name)
            if expert is None:
                self._put(found, self._one(named, config, name, shape))
            elif expert["number"] == "0":
                self._put(found, self._stack(named, expert["head"], expert["tail"], shapes))
        _check_used(shapes, found, lambda name: bool(_BUFFERS.fullmatch(name)) or self._is_tied_head(name, config))
        _check_complete(found, config)
        for tensor in self.computed(config):
            self._put(found, tensor)
        return tuple(found.values())

    def _is_tied_head(self, name: str, config: Config) -> bool:
        if not self.always_tied or name != "lm_head.weight":
            return False
        if not config.get("tie_word_embeddings", True):
            raise BaseError(
                f"llama.cpp's {self.name} has no output head of its own",
                where=name,
                found="tie_word_embeddings false in config.json: the adapter, or the base, untied it",
                hint="Serve the safetensors checkpoint, or train without a LoRA on lm_head or the embedding alone.",
            )
        return True

    def _put(self, found: dict[str, GgufTensor], tensor: GgufTensor) -> None:
        if tensor.name in found:
            names = ", ".join(sorted({rows.tensor for one in (tensor, found[tensor.name]) for rows in one.rows}))
            raise BaseError("two tensors of the base have one name in GGUF", where=tensor.name, found=names)
        found[tensor.name] = tensor

    def _one(self, named: _Names, config: Config, name: str, shape: tuple[int, ...]) -> GgufTensor:
        # subtle: llama.cpp wants a matrix of one row (the gate of a shared expert) as a vector
        squeezed = tuple(extent for extent in shape if extent != 1) or (1,)
        return GgufTensor(
            named(name),
            squeezed,
            (Rows(name, 0, math.prod(shape[:-1])),),
            heads=self._heads(config, name),
            add=1.0 if name.endswith(self.shifted) and self.shifted else 0.0,
        )

    def _stack(self, named: _Names, head: str, tail: str, shapes: Shapes) -> GgufTensor:
        """The matrices of all experts as one tensor [experts, out, in]."""
        members = [name for number in range(len(shapes)) if (name := f"{head}.{number}.{tail}") in shapes]
        shape = shapes[members[0]]
        odd = next((name for name in members if shapes[name] != shape), None)
        if odd is not None:
            raise BaseError("experts differ in shape", where=odd, expected=list(shape), found=list(shapes[odd]))
        rows = tuple(Rows(name, 0, math.prod(shape[:-1])) for name in members)
        return GgufTensor(named(f"{head}.{tail}"), (len(members), *shape), rows)

    def _heads(self, config: Config, name: str) -> int:
        """Of q_proj and k_proj, in the families whose rows are interleaved: how many heads the rows belong to."""
        if not self.interleaves:
            return 0
        count = int(config["num_attention_heads"])
        if re.search(r"q_proj\.(weight|bias)$", name):
            return count
        return int(config.get("num_key_value_heads") or count) if re.search(r"k_proj\.(weight|bias)$", name) else 0


class _Names:
    """The library's map from names of checkpoints to GGUF's."""

    def __init__(self, family: Family, blocks: int) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        by_name = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
        self._family = family
        self._map = get_tensor_name_map(by_name[family.name], blocks)

    def __call__(self, name: str) -> str:
        """GGUF's name of a tensor. Raises BaseError for a tensor that this architecture does not have."""
        renamed = name
        for pattern, replacement in self._family.renamed:
            renamed = re.sub(pattern, replacement, renamed)
        found = self._map.get_name(renamed, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise BaseError(
                f"GGUF's architecture {self._family.name} has no place for this tensor",
                where=name,
                hint="Is config.json that of this checkpoint? For an architecture that ingot does not write itself, "
                "give a checkout of llama.cpp with --llama-cpp DIR.",
            )
        return str(found)


def _check_used(shapes: Shapes, found: Mapping[str, GgufTensor], unused: Callable[[str], bool]) -> None:
    """Law: every tensor of the checkpoint is in the file, or of no use to it."""
    used = {rows.tensor for tensor in found.values() for rows in tensor.rows}
    left = [name for name in shapes if name not in used and not unused(name)]
    if left:
        shown = ", ".join(left[:10]) + (" …" if len(left) > 10 else "")
        raise BaseError(f"{len(left)} tensors of the base have no place in the GGUF", where=shown)


def _check_complete(found: Mapping[str, GgufTensor], config: Config) -> None:
    """Law: each layer has the weights of the first one, or llama.cpp does not load it. Biases may be in some alone.

    Of mixtures of experts, in which some layers may be dense, only the attention is compared.
    """
    missing = [name for name in ("token_embd.weight", "output_norm.weight") if name not in found]
    mixture = first(config, "num_local_experts", "num_experts") is not None
    kinds = [name.removeprefix("blk.0.") for name in found if name.startswith("blk.0.")]
    compared = [kind for kind in kinds if kind.endswith(".weight") and (kind.startswith("attn_") or not mixture)]
    for block in range(block_count(config)):
        missing += [name for kind in compared or ["attn_norm.weight"] if (name := f"blk.{block}.{kind}") not in found]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise BaseError(
            "the checkpoint lacks tensors of the model", found=f"nothing for {shown}",
            expected=f"{block_count(config)} layers, by num_hidden_layers in config.json",
            hint="Is config.json that of this checkpoint, and are all its files here?",
        )  # fmt: skip


def _check_numbers(config: Config) -> None:
    """Raises BaseError where config.json has no number of at least 1 where one belongs."""
    for key in _COUNTS:
        found = config.get(key)
        if found is not None and (not isinstance(found, int) or isinstance(found, bool) or not 0 < found < 1 << 31):
            raise BaseError("config.json has no sensible number there", where=key, found=repr(found),
                            hint="Get config.json again from where the model was published.")  # fmt: skip


def check_activation(config: Config, activation: str) -> None:
    """Raises BaseError where the config has another activation than llama.cpp's graph of the family."""
    found = first(config, "hidden_activation", "hidden_act", "activation")
    # "swish" is silu; of the kinds of gelu llama.cpp has one for all
    if found is not None and not str(found).replace("swish", "silu").startswith(activation):
        raise graph_differs("hidden_act", activation, found)


def graph_differs(key: str, expected: object, found: object) -> BaseError:
    """The error of a setting that GGUF has no key for, where llama.cpp computes with another value."""
    return BaseError(
        "llama.cpp would compute something else than this model", where=f"{key} in config.json",
        expected=f"{expected}, which its graph has built in", found=found, hint="Serve the safetensors checkpoint.",
    )  # fmt: skip


def block_count(config: Config) -> int:
    """Decoder layers. Raises BaseError where config.json does not tell."""
    count = first(config, "num_hidden_layers", "n_layers", "n_layer")
    if not isinstance(count, int) or count < 1:
        raise BaseError("config.json does not say how many layers there are", where="num_hidden_layers", found=count)
    return count


def first(config: Config, *keys: str) -> Any:
    """The value of the first key that is there and not null."""
    return next((config[key] for key in keys if config.get(key) is not None), None)


def rope_parameters(config: Config) -> Mapping[str, Any]:
    """Rotary settings: `rope_parameters` of transformers 5, or `rope_scaling` and `rope_theta` of earlier releases."""
    settings = dict(first(config, "rope_parameters", "rope_scaling") or {})
    full = settings.get("full_attention")
    settings = dict(full) if isinstance(full, Mapping) else settings
    settings.setdefault("rope_type", settings.get("type"))
    if settings.get("rope_theta") is None and config.get("rope_theta") is not None:
        settings["rope_theta"] = config["rope_theta"]
    return settings


def head_dim(config: Config) -> int:
    """Elements of an attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def standard_keys(config: Config, writer: GGUFWriter) -> None:
    """The keys that every decoder has where its config has the value."""
    writer.add_block_count(block_count(config))
    _add(writer.add_context_length, first(config, "max_position_embeddings", "n_ctx", "n_positions"))
    _add(writer.add_embedding_length, first(config, "hidden_size", "n_embd"))
    _add(writer.add_feed_forward_length, first(config, "intermediate_size", "n_inner", "ffn_hidden_size"))
    _add(writer.add_head_count, first(config, "num_attention_heads", "n_head"))
    _add(writer.add_head_count_kv, first(config, "num_key_value_heads", "n_head_kv"))
    _rope_keys(config, writer)
    _add(writer.add_layer_norm_rms_eps, first(config, "rms_norm_eps", "norm_eps"))
    _add(writer.add_layer_norm_eps, first(config, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"))
    _add(writer.add_expert_count, first(config, "num_local_experts", "num_experts"))
    _add(writer.add_expert_used_count, first(config, "num_experts_per_tok"))
    if config.get("head_dim") is not None:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def _rope_keys(config: Config, writer: GGUFWriter) -> None:
    from gguf import RopeScalingType

    rope = rope_parameters(config)
    kind, factor = str(rope.get("rope_type") or "").lower(), rope.get("factor")
    if kind == "linear" and factor is not None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(factor)
    elif kind == "yarn" and factor is not None:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        _add(writer.add_rope_scaling_yarn_ext_factor, rope.get("extrapolation_factor"))
        _add(writer.add_rope_scaling_yarn_attn_factor, first(rope, "attention_factor", "attn_factor"))
        _add(writer.add_rope_scaling_yarn_beta_fast, rope.get("beta_fast"))
        _add(writer.add_rope_scaling_yarn_beta_slow, rope.get("beta_slow"))
    elif kind in ("su", "longrope"):
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    elif kind not in ("", "default", "llama3"):
        raise BaseError(
            "GGUF has no key for this rotary scaling", where="rope_parameters in config.json", found=kind,
            expected="default, linear, yarn, longrope or llama3",
        )  # fmt: skip
    _add(writer.add_rope_freq_base, rope.get("rope_theta"))


def _add(add: Callable[[Any], None], value: object) -> None:
    if value is not None:
        add(value)
