"""An adapter: what it says, what it holds, and what stands in the way of merging it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.adapters.adapter import Adapter, read_config, read_tensors
from ingot.adapters.dialects import Content, dialect_of
from ingot.adapters.dialects.dialect import DialectConfig
from ingot.adapters.source import CONFIG_NAME, find_root, weights_name
from ingot.errors import AdapterError, IngotError
from ingot.inspect.report import Report, by_pattern, dtypes, dtypes_text
from ingot.plan.figures import counted, nbytes_text
from ingot.storage.inputs import InputFile

#: What of the config a person asks first, if it is set.
_SHOWN = (
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out",
    "init_lora_weights", "modules_to_save", "target_parameters", "trainable_token_indices", "layers_to_transform",
    "layer_replication", "exclude_modules", "ensure_weight_tying", "task_type",
    "fine_tune_type", "num_layers", "lora_parameters",
)  # fmt: skip
_UNREMARKABLE: tuple[object, ...] = (None, False, True, "none", [], {}, "")


def is_adapter_file(path: Path) -> bool:
    """Whether a file of tensors is an adapter of a dialect that is written in one file."""
    try:
        with InputFile.open(path.parent, path.name, error=AdapterError) as file:
            return dialect_of(_content(file, None)) is not None
    except IngotError:
        return False


def inspect_adapter(path: Path, file: str | None = None) -> Report:
    """The report of an adapter; one that cannot be merged is reported too, with the reason.

    Args:
        path: its directory.
        file: the weights file in it, where one was named.

    Raises:
        AdapterError: the config or the weights' header cannot be read at all.
        UnsafeInputError: a file is not what an honest writer makes.
    """
    _, names = find_root(path, file=file, subfolder=None)
    raw: Mapping[str, Any] | None = None
    if CONFIG_NAME in names:
        with InputFile.open(path, CONFIG_NAME, error=AdapterError) as config_file:
            raw = read_config(config_file)
    weights = file or weights_name(path, names, raw)
    with InputFile.open(path, weights, error=AdapterError) as opened:
        content = _content(opened, raw)
        dialect = dialect_of(content)
    adapter, refusal = _understood(path, file)
    config = raw or {}
    patterns, rows = by_pattern(content.tensors)
    settings = {key: config[key] for key in _SHOWN if key in config and config[key] not in _UNREMARKABLE}
    facts: dict[str, object] = {
        "name": path.resolve().name if file is None else Path(file).stem,
        "method": config.get("peft_type") if dialect is None else dialect.title,
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": config.get("target_modules"),
        "settings": settings,
        "base": config.get("base_model_name_or_path"),
        "base_revision": config.get("revision"),
        "peft_version": config.get("peft_version"),
        "components": {},
        "file": weights,
        "tensors": len(content.tensors),
        "parameters": sum(ref.numel for ref in content.tensors),
        "nbytes": sum(ref.nbytes for ref in content.tensors),
        "dtypes": dtypes(content.tensors),
        "groups": patterns,
        "explained": {} if adapter is None else dict(adapter.explained),
        "refused": refusal.as_json() if refusal else None,
    }
    if adapter is not None and isinstance(adapter.config, DialectConfig):
        facts |= _of_dialect(adapter, adapter.config)
    return Report("adapter", facts, _pairs(facts, settings, refusal), (("Groups", rows),))


def _of_dialect(adapter: Adapter, config: DialectConfig) -> dict[str, object]:
    """What stands in no config of PEFT's form."""
    return {
        "method": config.title,
        "rank": list(adapter.ranks),
        "alpha": list(config.alphas),
        "base": config.base_model_name_or_path,
        "components": dict(adapter.components),
    }


def _content(file: InputFile, raw: Mapping[str, Any] | None) -> Content:
    tensors, metadata = read_tensors(file)
    return Content(file, tensors, metadata, raw, 0)


def _understood(path: Path, file: str | None) -> tuple[Adapter | None, IngotError | None]:
    """The adapter, its files closed; or what a merge would refuse it for, whatever the base."""
    try:
        with Adapter.open(path, adapter_index=0, file=file) as adapter:
            return adapter, None
    except IngotError as refusal:
        return None, refusal


def _pairs(
    facts: Mapping[str, Any], settings: Mapping[str, object], refusal: IngotError | None
) -> tuple[tuple[str, str | list[str]], ...]:
    targets = facts["target_modules"]
    base, at = facts["base"] or "none", f" at {facts['base_revision']}" if facts["base_revision"] else ""
    trained = f", trained with PEFT {facts['peft_version']}" if facts["peft_version"] else ""
    size = f"{counted(facts['tensors'], 'tensor')}, {facts['parameters']:,} parameters, {nbytes_text(facts['nbytes'])}"
    verdict = ["yes, into a base that it fits"]
    if refusal is not None:
        verdict = [f"no: {refusal.message}"] + ([refusal.hint] if refusal.hint else [])
    shown = ", ".join(sorted(map(str, targets))) if isinstance(targets, list) else str(targets)
    return (
        ("Adapter", f"{facts['name']}: {facts['method'] or 'no method named'}{trained}"),
        ("Rank", f"{_numbers(facts['rank'])}, alpha {_numbers(facts['alpha'])}"),
        ("Targets", shown if targets is not None else "what the file holds"),
        ("Components", [f"{name}: {counted(n, 'tensor')}" for name, n in facts["components"].items()]),
        ("Settings", ", ".join(f"{key} = {value}" for key, value in settings.items()) or "defaults"),
        ("Base", f"{base}{at}, by its own account"),
        ("Size", f"{size}, {dtypes_text(facts['dtypes'])}, in {facts['file']}"),
        ("Explained", [f"{name}: {reason}" for name, reason in list(facts["explained"].items())[:8]]),
        ("Mergeable", verdict),
    )


def _numbers(value: object) -> str:
    return ("/".join(f"{one:g}" for one in value) or "none") if isinstance(value, list) else str(value)
