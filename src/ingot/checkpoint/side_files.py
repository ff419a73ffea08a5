"""The files beside the weights: which belong to a model, and which go together.

A group is taken whole from one place, so that a tokenizer of the adapter is never mixed with one of the base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum


class Group(StrEnum):
    """Files that are only right together."""

    TOKENIZER = "tokenizer"
    CHAT_TEMPLATE = "chat template"
    PROCESSOR = "processor"
    GENERATION = "generation config"
    CODE = "modelling code"
    LICENSE = "licence"
    OTHER = "other"


_NAMES: Mapping[str, Group] = {
    **dict.fromkeys(
        (
            "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
            "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
            "normalizer.json", "tokenizer.tiktoken",
        ),
        Group.TOKENIZER,
    ),
    **dict.fromkeys(("chat_template.jinja", "chat_template.json"), Group.CHAT_TEMPLATE),
    **dict.fromkeys(
        ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "image_processor.json"),
        Group.PROCESSOR,
    ),
    "generation_config.json": Group.GENERATION,
}  # fmt: skip

#: Never carried over: weights in other formats, adapters, records and training state, other artifacts' cards.
_LEFT_BEHIND = re.compile(
    r"adapter_.*|.*\.(safetensors|bin|pt|pth|ckpt|gguf|onnx|h5|msgpack|lock)|.*\.index\.json|README.*|config\.json|ingot.*"
    r"|optimizer.*|scheduler.*|trainer_state\.json|training_args.*|rng_state.*|all_results\.json|train_results\.json"
    r"|recipe\.yaml|\..*",
    re.IGNORECASE,
)


def group_of(name: str) -> Group | None:
    """The group of a file at the top of a model directory, or None where it does not travel with the model."""
    if name in _NAMES:
        return _NAMES[name]
    if _LEFT_BEHIND.fullmatch(name):
        return None
    if name.endswith(".tiktoken") or re.fullmatch(r"vocab.*\.(json|txt)", name):
        return Group.TOKENIZER
    if re.fullmatch(r"(LICENSE|LICENCE|NOTICE|USE_POLICY|COPYING)[\w.-]*", name, re.IGNORECASE):
        return Group.LICENSE
    if name.endswith(".py"):
        return Group.CODE
    return Group.OTHER if name.endswith((".json", ".txt", ".jinja", ".model", ".yaml")) else None


def choose(base: Iterable[str], adapter: Iterable[str]) -> dict[str, str]:
    """Which side files the output gets, and from whom: file name -> "base" or "adapter".

    The adapter's tokenizer, processor and chat template win, each as a whole group; everything else is the base's.
    An adapter's other files (training logs and the like) are not carried over.

    Example: choose(["tokenizer.json", "merges.txt"], ["tokenizer.json"]) -> {"tokenizer.json": "adapter"}
    """
    base_files = {name: group for name in base if (group := group_of(name))}
    adapter_files = {
        name: group
        for name in adapter
        if (group := group_of(name)) in (Group.TOKENIZER, Group.CHAT_TEMPLATE, Group.PROCESSOR)
    }
    taken = set(adapter_files.values())
    # subtle: special_tokens_map.json alone is no tokenizer; only a file that can tokenize moves the whole group.
    if Group.TOKENIZER in taken and not adapter_files.keys() & _CAN_TOKENIZE:
        taken.discard(Group.TOKENIZER)
    chosen = {name: "base" for name, group in base_files.items() if group not in taken}
    chosen.update({name: "adapter" for name, group in adapter_files.items() if group in taken})
    return dict(sorted(chosen.items()))


_CAN_TOKENIZE = frozenset(
    {
        "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model",
        "tekken.json",
    }
)  # fmt: skip
