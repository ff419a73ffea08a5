"""The table of cases: which adapter is trained on which tiny model. Names are `model: what`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One adapter.

    Attributes:
        model: the base, by its name in `tests.tiny_models`.
        what: the variant; with the model it is the case's name.
        options: of peft.LoraConfig; rank 4 and alpha 6 where they say nothing.
        vocab: the model is resized to this many tokens before training.
        labels, train_as: the model class and the number of labels, where the adapter makes a classifier of the base.
    """

    model: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    vocab: int | None = None
    labels: int | None = None
    train_as: str | None = None

    @property
    def name(self) -> str:
        return f"{self.model}: {self.what}"

    @property
    def task(self) -> str | None:
        """PEFT's task type."""
        if self.labels is not None:
            return "SEQ_CLS"
        return "CAUSAL_LM" if self.model in CAUSAL else TASKS.get(self.model)


CAUSAL = frozenset(
    {
        "llama",
        "llama_tied",
        "llama_bias",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "granite",
        "olmo2",
        "starcoder2",
        "smollm3",
        "gpt2",
        "opt",
        "gptj",
        "gpt_neox",
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "olmoe",
        "deepseek_v3",
        "phimoe",
        "granitemoe",
        "gpt_oss",
        "llama4_text",
        "gemma3",
        "llava",
        "qwen2_5_vl",
    }
)
TASKS = {"t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM", "bert_classifier": "SEQ_CLS"}

#: Names of the linear layers of an attention and of a feedforward block, for target lists.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

#: model -> (one attention projection and one other layer, a norm that can be saved whole)
LAYERS: dict[str, tuple[list[str], str]] = {
    "llama": (["q_proj", "down_proj"], "model.norm"),
    "llama_bias": (["q_proj", "down_proj"], "model.norm"),
    "mistral": (["v_proj", "gate_proj"], "model.norm"),
    "qwen2": (["k_proj", "up_proj"], "model.norm"),
    "qwen3": (["q_proj", "up_proj"], "q_norm"),
    "gemma": (["q_proj", "up_proj"], "input_layernorm"),
    "gemma2": (["q_proj", "up_proj"], "pre_feedforward_layernorm"),
    "gemma3_text": (["o_proj", "up_proj"], "post_feedforward_layernorm"),
    "phi3": (["qkv_proj", "gate_up_proj"], "model.norm"),
    "granite": (["q_proj", "down_proj"], "model.norm"),
    "olmo2": (["q_proj", "down_proj"], "k_norm"),
    "starcoder2": (["q_proj", "c_fc"], "model.norm"),
    "smollm3": (["q_proj", "down_proj"], "model.norm"),
    "gpt2": (["c_attn", "c_fc"], "ln_f"),
    "opt": (["q_proj", "fc1"], "final_layer_norm"),
    "gptj": (["q_proj", "fc_in"], "ln_f"),
    "gpt_neox": (["query_key_value", "dense_h_to_4h"], "final_layer_norm"),
    "t5": (["q", "wi"], "final_layer_norm"),
    "bart": (["q_proj", "fc2"], "final_layer_norm"),
    "bert": (["query", "dense"], "attention.output.LayerNorm"),
    "roberta": (["query", "value"], "attention.output.LayerNorm"),
    "bert_classifier": (["query", "key"], "attention.output.LayerNorm"),
    "whisper": (["q_proj", "fc1"], "self_attn_layer_norm"),
    "vit": (["q_proj", "fc1"], "layernorm_before"),
    "mixtral": (["q_proj", "o_proj"], "model.norm"),
    "qwen2_moe": (["q_proj", "shared_expert.up_proj"], "model.norm"),
    "qwen3_moe": (["q_proj", "o_proj"], "k_norm"),
    "olmoe": (["q_proj", "o_proj"], "model.norm"),
    "deepseek_v3": (["q_a_proj", "o_proj"], "kv_a_layernorm"),
    "phimoe": (["q_proj", "o_proj"], "model.norm"),
    "granitemoe": (["q_proj", "o_proj"], "model.norm"),
    "gpt_oss": (["q_proj", "o_proj"], "model.norm"),
    "llama4_text": (["q_proj", "shared_expert.up_proj"], "model.norm"),
    "gemma3": (["language_model.layers.0.self_attn.q_proj", "up_proj"], "language_model.norm"),
    "llava": (["q_proj", "up_proj"], "language_model.norm"),
    "qwen2_vl": (["q_proj", "up_proj"], "language_model.norm"),
    "qwen2_5_vl": (["q_proj", "up_proj"], "language_model.norm"),
}

#: model -> the last part of its expert module's path.
EXPERTS = {
    "mixtral": "mlp.experts",
    "qwen2_moe": "mlp.experts",
    "qwen3_moe": "mlp.experts",
    "olmoe": "mlp.experts",
    "deepseek_v3": "mlp.experts",
    "phimoe": "mlp.experts",
    "granitemoe": "block_sparse_moe.experts",
    "gpt_oss": "mlp.experts",
    "llama4_text": "feed_forward.experts",
    "qwen3_vl_moe": "mlp.experts",
}

ARCHITECTURES = [
    *LAYERS,
    "llama_tied",
    "siglip_vision",
    "qwen3_vl_moe",
]

#: Every architecture once, with each of its linear layers.
ALL_LINEAR = [Case(model, "all-linear", {"target_modules": "all-linear"}) for model in ARCHITECTURES]


def _patterned(targets: list[str]) -> dict[str, Any]:
    return {
        "target_modules": targets,
        "use_rslora": True,
        "rank_pattern": {targets[0]: 2},
        "alpha_pattern": {targets[1]: 9},
    }


#: What is tried on every architecture.
EVERYWHERE = [
    case
    for model, (targets, norm) in LAYERS.items()
    for case in (
        Case(model, "rslora, rank and alpha patterns", _patterned(targets)),
        Case(model, "dora and a saved norm", {"target_modules": targets, "use_dora": True, "modules_to_save": [norm]}),
    )
]

EXPERT_CASES = [
    Case(model, what, {"target_modules": modules, "target_parameters": [f"{path}.{name}" for name in names], **more})
    for model, path in EXPERTS.items()
    for what, modules, names, more in (
        ("gate_up_proj and down_proj", ["q_proj"], ("gate_up_proj", "down_proj"), {}),
        ("gate_up_proj alone", [], ("gate_up_proj",), {}),
        ("down_proj alone", [], ("down_proj",), {"use_rslora": True}),
        (
            "down_proj and gate_up_proj, patterns",
            [],
            ("down_proj", "gate_up_proj"),
            {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"gate_up_proj": 5}},
        ),
    )
]

_BLOCKS = {"target_modules_bd_a": ["o_proj", "down_proj"], "target_modules_bd_b": ["q_proj", "up_proj"], "nblocks": 2}

VARIANTS = [
    # biases
    Case("llama_bias", "lora_bias", {"target_modules": ["q_proj", "down_proj"], "lora_bias": True}),
    Case("llama_bias", "bias all", {"target_modules": ["q_proj"], "bias": "all"}),
    Case("llama_bias", "bias lora_only", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    Case("llama_bias", "lora_bias, bias all", {"target_modules": ["q_proj"], "bias": "all", "lora_bias": True}),
    Case("gpt2", "lora_bias", {"target_modules": ["c_attn", "c_proj"], "lora_bias": True}),
    Case("gpt2", "bias all", {"target_modules": ["c_attn"], "bias": "all"}),
    Case("opt", "bias all", {"target_modules": ["q_proj"], "bias": "all"}),
    Case("bart", "bias lora_only", {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
    Case("bert", "bias all", {"target_modules": ["query"], "bias": "all"}),
    Case("gpt_neox", "bias all", {"target_modules": ["query_key_value"], "bias": "all"}),
    Case("gptj", "bias all", {"target_modules": ["q_proj", "fc_in"], "bias": "all"}),
    Case("whisper", "bias all, lora_bias", {"target_modules": ["q_proj", "fc1"], "bias": "all", "lora_bias": True}),
    Case("qwen2_moe", "bias all", {"target_modules": ["q_proj"], "bias": "all"}),
    Case("gpt_oss", "bias all", {"target_modules": ["q_proj"], "bias": "all"}),
    Case("vit", "bias all", {"target_modules": ["q_proj"], "bias": "all"}),
    # modules saved whole
    Case(
        "llama",
        "lm_head and embed_tokens saved",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    Case("llama", "'norm' saves every norm", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    Case(
        "gpt_neox",
        "embed_out saved under its new name",
        {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]},
    ),
    Case("llava", "lm_head saved", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    Case("mixtral", "router saved", {"target_modules": ["q_proj"], "modules_to_save": ["mlp.gate"]}),
    Case("mixtral", "experts saved", {"target_modules": ["q_proj"], "modules_to_save": ["mlp.experts"]}),
    Case("gpt_oss", "experts saved", {"target_modules": ["q_proj"], "modules_to_save": ["mlp.experts"]}),
    Case("llama_tied", "embed_tokens saved", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    Case("llama_tied", "lm_head saved", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    Case("bert_classifier", "classifier saved", {"target_modules": ["query"]}),
    # token rows
    Case("llama", "token rows", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 0, 66]}),
    Case(
        "llama",
        "token rows of both embeddings",
        {
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [5, 1], "lm_head": [2]},
        },
    ),
    Case("llama_tied", "token rows", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 0, 66]}),
    Case("gpt2", "token rows", {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [9, 3]}}),
    Case("gemma3_text", "token rows", {"target_modules": ["q_proj"], "trainable_token_indices": [9, 3]}),
    # vocabulary
    Case("llama", "resized", {"target_modules": ["q_proj"]}, vocab=70),
    Case("llama", "resized, embeddings targeted", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, vocab=70),
    Case(
        "llama",
        "resized, embeddings saved",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        vocab=70,
    ),
    Case(
        "llama",
        "resized, token rows",
        {"target_modules": ["q_proj"], "trainable_token_indices": [67, 68, 69]},
        vocab=70,
    ),
    Case("llama", "shrunk", {"target_modules": ["q_proj"]}, vocab=60),
    Case("llama_tied", "resized", {"target_modules": ["q_proj"]}, vocab=70),
    Case(
        "llama_tied",
        "resized, token rows",
        {"target_modules": ["q_proj"], "trainable_token_indices": [67, 69]},
        vocab=70,
    ),
    Case(
        "llama_tied",
        "resized, embed_tokens saved",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        vocab=70,
    ),
    Case("gemma3_text", "resized", {"target_modules": ["q_proj"]}, vocab=72),
    Case("gpt_neox", "resized", {"target_modules": ["query_key_value"]}, vocab=72),
    Case("gpt2", "resized", {"target_modules": ["c_attn"]}, vocab=72),
    # embeddings as targets
    Case("llama", "embeddings targeted", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    Case("llama", "dora on embeddings", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    Case("opt", "embed_tokens and embed_positions", {"target_modules": ["q_proj", "project_in"]}),
    Case("gpt2", "wpe targeted", {"target_modules": ["c_attn", "wpe"]}),
    Case("bert", "word embeddings", {"target_modules": ["query", "position_embeddings", "token_type_embeddings"]}),
    # Conv1D and convolutions
    Case("gpt2", "dora on Conv1D", {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True}),
    Case("vit", "patch embedding", {"target_modules": ["projection", "q_proj"]}),
    Case("vit", "dora on the patch embedding", {"target_modules": ["projection"], "use_dora": True}),
    Case("whisper", "convolutions", {"target_modules": ["conv1", "conv2", "q_proj"]}),
    Case("whisper", "dora on convolutions", {"target_modules": ["conv1", "conv2"], "use_dora": True}),
    Case("whisper", "lora_bias on convolutions", {"target_modules": ["conv1", "conv2"], "lora_bias": True}),
    Case("siglip_vision", "patch embedding", {"target_modules": ["patch_embedding", "q_proj"]}),
    Case("llava", "patch embedding", {"target_modules": ["patch_embedding"]}),
    Case("qwen2_5_vl", "patch embedding (Conv3d)", {"target_modules": ["patch_embed.proj"]}),
    # initializations
    Case("llama", "pissa", {"target_modules": [*GATED], "init_lora_weights": "pissa"}),
    Case(
        "gpt2",
        "pissa on Conv1D",
        {"target_modules": ["c_attn", "c_proj"], "init_lora_weights": "pissa"},
    ),
    Case(
        "phi3",
        "pissa on fused layers",
        {"target_modules": ["qkv_proj", "gate_up_proj"], "init_lora_weights": "pissa"},
    ),
    Case("llama", "olora", {"target_modules": [*GATED], "init_lora_weights": "olora"}),
    Case(
        "llama",
        "olora, rslora",
        {"target_modules": ["q_proj"], "init_lora_weights": "olora", "use_rslora": True},
    ),
    Case("llama", "gaussian", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    Case("llama", "orthogonal", {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    Case("llama", "BD-LoRA", {"target_modules": ["q_proj", "o_proj", "up_proj", "down_proj"], "use_bdlora": _BLOCKS}),
    # selections
    Case("llama", "regex", {"target_modules": r".*layers\.1\..*(q|v)_proj"}),
    Case("llama", "one layer", {"target_modules": [*ATTENTION], "layers_to_transform": [1]}),
    Case("llama", "excluded", {"target_modules": [*ATTENTION], "exclude_modules": ["layers.0.self_attn.q_proj"]}),
    Case("gemma3", "language model by regex", {"target_modules": r".*language_model.*(q|down)_proj"}),
    Case(
        "mixtral",
        "router by target_parameters",
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]},
    ),
    # heads
    Case("llama", "classifier", {"target_modules": ["q_proj"]}, labels=3, train_as="LlamaForSequenceClassification"),
    Case(
        "llama_tied", "classifier", {"target_modules": ["q_proj"]}, labels=3, train_as="LlamaForSequenceClassification"
    ),
    Case(
        "qwen3",
        "classifier of two",
        {"target_modules": ["q_proj"]},
        labels=2,
        train_as="Qwen3ForSequenceClassification",
    ),
    Case("gpt2", "classifier", {"target_modules": ["c_attn"]}, labels=4, train_as="GPT2ForSequenceClassification"),
    Case(
        "bert",
        "classifier with its pooler",
        {"target_modules": ["query"], "modules_to_save": ["pooler"]},
        labels=5,
        train_as="BertForSequenceClassification",
    ),
    Case("roberta", "classifier", {"target_modules": ["query"]}, labels=3, train_as="RobertaForSequenceClassification"),
    Case(
        "mixtral", "classifier", {"target_modules": ["q_proj"]}, labels=3, train_as="MixtralForSequenceClassification"
    ),
]

#: Cases in which PEFT's merge is right, so that it decides.
PEFT_DECIDES = [*ALL_LINEAR, *EVERYWHERE, *EXPERT_CASES, *VARIANTS]
