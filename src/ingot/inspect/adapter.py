"""An adapter directory: what it says, what it holds, and what stands in the way of merging it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.adapters.adapter import Adapter
from ingot.errors import AdapterError, IngotError
from ingot.formats import TensorRef, read_header, read_torch_zip
from ingot.formats.strict_json import loads
from ingot.inspect.report import Report, by_pattern, dtypes, dtypes_text
from ingot.plan.figures import counted, nbytes_text
from ingot.storage.inputs import InputFile

_CONFIG = "adapter_config.json"
_SAFETENSORS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
#: What of the config a person asks first, if it is set.
_SHOWN = (
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out",
    "init_lora_weights", "modules_to_save", "target_parameters", "trainable_token_indices", "layers_to_transform",
    "layer_replication", "exclude_modules", "ensure_weight_tying", "task_type",
)  # fmt: skip
_UNREMARKABLE: tuple[object, ...] = (None, False, True, "none", [], {}, "")


def inspect_adapter(path: Path) -> Report:
    """The report of an adapter directory; one that cannot be merged is reported too, with the reason.

    Raises:
        AdapterError: the config or the weights' header cannot be read at all.
        UnsafeInputError: a file is not what an honest writer makes.
    """
    with InputFile.open(path, _CONFIG, error=AdapterError) as file:
        config = loads(file.read(0, file.nbytes), where=_CONFIG, error=AdapterError)
    if not isinstance(config, dict):
        raise AdapterError("config is no JSON object", where=_CONFIG, found=type(config).__name__)
    weights, tensors = _read_weights(path)
    refusal, explained = _refusal(path)
    patterns, rows = by_pattern(tensors)
    settings = {key: config[key] for key in _SHOWN if key in config and config[key] not in _UNREMARKABLE}
    facts: dict[str, object] = {
        "name": path.resolve().name,
        "method": config.get("peft_type"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": config.get("target_modules"),
        "settings": settings,
        "base": config.get("base_model_name_or_path"),
        "base_revision": config.get("revision"),
        "peft_version": config.get("peft_version"),
        "file": weights,
        "tensors": len(tensors),
        "parameters": sum(ref.numel for ref in tensors),
        "nbytes": sum(ref.nbytes for ref in tensors),
        "dtypes": dtypes(tensors),
        "groups": patterns,
        "explained": dict(explained),
        "refused": refusal.as_json() if refusal else None,
    }
    return Report("adapter", facts, _pairs(facts, settings, refusal), (("Groups", rows),))


def _read_weights(path: Path) -> tuple[str, Sequence[TensorRef]]:
    """Name and tensors of the weights file. Raises AdapterError when there is none."""
    for name in (_SAFETENSORS, _PICKLE):
        if (path / name).exists():
            with InputFile.open(path, name, error=AdapterError) as file:
                if name == _PICKLE:
                    return name, read_torch_zip(file.fd, file=name, incomplete=AdapterError)
                return name, read_header(file.fd, file=name, incomplete=AdapterError).tensors
    raise AdapterError("adapter has no weights", where=path, expected=f"{_SAFETENSORS} or {_PICKLE}")


def _refusal(path: Path) -> tuple[IngotError | None, Mapping[str, str]]:
    """What a merge would refuse this adapter for, whatever the base; and the tensors that it would leave aside."""
    try:
        adapter = Adapter.open(path, adapter_index=0)
    except IngotError as refusal:
        return refusal, {}
    adapter.close()
    return None, adapter.explained


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
    return (
        ("Adapter", f"{facts['name']}: {facts['method'] or 'no method named'}{trained}"),
        ("Rank", f"{facts['rank']}, alpha {facts['alpha']}"),
        ("Targets", ", ".join(sorted(map(str, targets))) if isinstance(targets, list) else str(targets)),
        ("Settings", ", ".join(f"{key} = {value}" for key, value in settings.items()) or "defaults"),
        ("Base", f"{base}{at}, by its own account"),
        ("Size", f"{size}, {dtypes_text(facts['dtypes'])}, in {facts['file']}"),
        ("Explained", [f"{name}: {reason}" for name, reason in list(facts["explained"].items())[:8]]),
        ("Mergeable", verdict),
    )
