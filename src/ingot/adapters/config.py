"""`adapter_config.json`, the part that all PEFT methods share: which modules were trained, and what was saved whole.

What changes the result is read strictly, everything else is only kept. Every PEFT release adds keys, so an absent key
means its default and an unknown one is no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ingot.adapters.fields import Fields
from ingot.adapters.patterns import compile_pattern, layer_index, matches_modules, matches_suffix
from ingot.adapters.versions import Release, release_of

#: Modules that PEFT adds to `modules_to_save` for a task, whether or not the file says so.
TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What every adapter's configuration says; names as in PEFT, sets as tuples, null lists as empty ones.

    Attributes:
        method: PEFT's name of the method in capitals, such as LORA.
        target_modules: None where the file does not say; a text is a regular expression or `all-linear`.
        trainable_token_indices: token rows for the input embedding, or by the end of the module's path.
        layer_replication: the base's layers [begin, end) that the trained model is put together from.
        raw: the whole file, for the record and for what only one method asks.
    """

    method: str = "LORA"
    bias: str = "none"
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    trainable_token_indices: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None
    layer_replication: tuple[tuple[int, int], ...] = ()
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    auto_mapping: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def release(self) -> Release | None:
        return release_of(self.peft_version)

    @property
    def title(self) -> str:
        """The method and its variants, for people."""
        return self.method

    @property
    def alphas(self) -> tuple[float, ...]:
        """The distinct values of alpha in use, where the method has one."""
        return ()

    @property
    def base_model_class(self) -> str | None:
        """The class that the model had in training, where the adapter was not trained for a task of PEFT's."""
        name = self.auto_mapping.get("base_model_class")
        return name if isinstance(name, str) else None

    def excludes(self, path: str) -> bool:
        """Whether PEFT leaves this module alone although `target_modules` may name it."""
        if self.exclude_modules and matches_modules(path, self.exclude_modules):
            return True
        return any(compile_pattern(name, r"(^|.*\.){}($|\..*)").match(path) for name in self.saved_names)

    def targets(self, path: str) -> bool | None:
        """Whether PEFT puts a LoRA layer on this module; None where that takes the module's class (`all-linear`)."""
        if self.excludes(path):
            return False
        if self.target_modules is None:
            return False if self.target_parameters else None
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == "all-linear":
                return None
            return matches_modules(path, self.target_modules)
        if path in self.target_modules:
            return True
        if not matches_suffix(path, self.target_modules):
            return False
        return not self.layers_to_transform or layer_index(path, self.layers_pattern) in self.layers_to_transform

    def targets_parameter(self, path: str, parameter: str) -> bool:
        """Whether `target_parameters` names this parameter."""
        return matches_suffix(f"{path}.{parameter}", self.target_parameters)

    def saves(self, path: str) -> bool:
        """Whether the module, or one that it stands in, is in `modules_to_save`.

        subtle: PEFT compares the end of the path without a dot, so "norm" also saves `post_attention_layernorm`.
        """
        names = self.saved_names
        parts = path.split(".")
        return any(".".join(parts[:n]).endswith(names) for n in range(1, len(parts) + 1)) if names else False

    def trains(self, parameter: str, *, wrapped: bool) -> bool:
        """Whether `bias` makes PEFT train a parameter itself, by its full name; `wrapped`: under a LoRA layer.

        subtle: "all" means every parameter with "bias" anywhere in its name: `in_proj_bias`, and T5's
        `relative_attention_bias.weight`. Releases up to 0.20 save them all, later ones those called `bias`.
        """
        if self.bias == "all":
            return "bias" in parameter
        return self.bias.endswith("_only") and wrapped and parameter.endswith(".bias")

    @property
    def saved_names(self) -> tuple[str, ...]:
        """`modules_to_save` and the heads that the task adds."""
        return (*self.modules_to_save, *TASK_HEADS.get(self.task_type or "", ()))

    def tokens(self, path: str) -> tuple[int, ...] | None:
        """The token rows trained in this module; None where none are."""
        if not isinstance(self.trainable_token_indices, Mapping):
            return self.trainable_token_indices
        found = [rows for name, rows in self.trainable_token_indices.items() if path.endswith(name)]
        return found[-1] if found else None


def common_settings(fields: Fields) -> dict[str, Any]:
    """The arguments of `AdapterConfig`, read from the file. Raises AdapterError for a value of a wrong type."""
    return {
        "method": str(fields.raw.get("peft_type") or "LORA").upper(),
        "target_modules": fields.texts_or_text("target_modules"),
        "exclude_modules": fields.texts_or_text("exclude_modules") or (),
        "layers_to_transform": fields.integers("layers_to_transform") or (),
        "layers_pattern": fields.texts("layers_pattern"),
        "target_parameters": fields.texts("target_parameters"),
        "modules_to_save": fields.texts("modules_to_save"),
        "trainable_token_indices": fields.tokens("trainable_token_indices"),
        "layer_replication": fields.ranges("layer_replication"),
        "peft_version": fields.text("peft_version"),
        "base_model_name_or_path": fields.text("base_model_name_or_path"),
        "revision": fields.text("revision"),
        "task_type": fields.text("task_type"),
        "auto_mapping": fields.mapping("auto_mapping"),
        "raw": fields.raw,
    }


def check_patterns(config: AdapterConfig, *more: str) -> None:
    """Compile every pattern now, so that a bad one is found with the config and not with the first module."""
    for modules in (config.target_modules, config.exclude_modules):
        if isinstance(modules, str):
            compile_pattern(modules)
    for pattern in (*more, *config.layers_pattern, *config.modules_to_save):
        compile_pattern(pattern)
