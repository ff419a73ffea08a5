"""`adapter_config.json`, whichever method it is of: its configuration, and its tensors as updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Update
from ingot.adapters.fields import Fields
from ingot.adapters.grouping import group_tensors
from ingot.adapters.lora_config import LoraConfig, parse_lora
from ingot.adapters.methods.method import Method, MethodConfig
from ingot.adapters.methods.reading import group_layers, implied_layers, parse_method
from ingot.adapters.methods.registry import find_method
from ingot.adapters.refusals import refuse_other_dialect, refuse_unknown_method
from ingot.formats.tensor_ref import TensorRef


def parse_config(raw: Mapping[str, Any], *, where: str = "adapter_config.json") -> AdapterConfig:
    """The config of an adapter that can be merged.

    Raises:
        AdapterError: it is not PEFT's, a value has the wrong type, or the result has no merged form; the hint says the
            way out.
    """
    refuse_other_dialect(raw, where)
    kind = str(raw.get("peft_type") or "LORA").upper()
    fields = Fields(raw, where)
    if kind == "LORA":
        return parse_lora(fields)
    method = find_method(kind)
    if method is None:
        refuse_unknown_method(kind, where)
    return parse_method(method, fields)


def method_of(config: AdapterConfig) -> Method | None:
    """The method of a config; None for LoRA."""
    return None if isinstance(config, LoraConfig) else find_method(config.method)


def group(
    config: AdapterConfig, tensors: Sequence[TensorRef], adapter: int
) -> tuple[tuple[Update, ...], dict[str, str]]:
    """The updates of an adapter, and the reason for every tensor that is in none; see `grouping.group_tensors`."""
    if isinstance(config, LoraConfig):
        return group_tensors(config, tensors, adapter)
    method = find_method(config.method)
    assert method is not None
    assert isinstance(config, MethodConfig)
    return group_layers(method, config, tensors, adapter)


def is_implicit(config: AdapterConfig) -> bool:
    """Whether layers have no tensors of their own, so that the config alone says which modules have one."""
    method = method_of(config)
    return method is not None and isinstance(config, MethodConfig) and method.implicit(config.fields)


def implied(
    config: AdapterConfig, tensors: Sequence[TensorRef], adapter: int, paths: Iterable[str]
) -> tuple[Update, ...]:
    """The updates that no tensor names: those of an implicit method on the modules of these paths."""
    if not is_implicit(config):
        return ()
    method = method_of(config)
    assert method is not None
    assert isinstance(config, MethodConfig)
    return implied_layers(method, config, tensors, adapter, paths)
