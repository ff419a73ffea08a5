"""Adapters refused by their config alone: tools that are not read, other PEFT methods, LoRA without a merged form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ingot.errors import AdapterError

#: PEFT methods that work on the input or the activations: no weight says the same.
NEVER = frozenset({
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING",
    "PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA",
})  # fmt: skip
#: Methods of earlier PEFT releases, and what became of their files.
RENAMED = {"BONE": "Convert it to MiSS, which is the same, with PEFT's `scripts/convert-bone-to-miss.py`."}
#: Initializations of A and B that leave the base weight as it is.
PLAIN_INITIALIZATIONS = frozenset({"gaussian", "eva", "orthogonal", "mica"})

_CONVERT = (
    "At the end of training save it with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=...)`: "
    "that makes a plain LoRA adapter."
)


def refuse_other_dialect(raw: Mapping[str, Any], where: str) -> None:
    """Raise AdapterError unless the file is PEFT's."""
    kind = raw.get("peft_type")
    if isinstance(kind, str):
        return
    if kind is not None:
        raise AdapterError("`peft_type` is no text", where=where, found=repr(kind)[:80])
    if not _is_early_lora(raw):
        raise AdapterError(f"not a PEFT adapter: {_dialect(raw)}", where=where, hint=_DIALECT_HINT)


_DIALECT_HINT = "Convert it to PEFT's format with the tool that made it: adapter_config.json then has a `peft_type`."


def _is_early_lora(raw: Mapping[str, Any]) -> bool:
    # Hand-written files and those cut down by other tools keep what names a LoRA layer, and lose its type.
    return {"r", "lora_alpha", "target_modules"} <= raw.keys()


def _dialect(raw: Mapping[str, Any]) -> str:
    if isinstance(raw.get("config"), dict) and ("model_class" in raw or "version" in raw or "name" in raw):
        return "this is a file of AdapterHub's `adapters` library"
    if isinstance(raw.get("format"), str):
        return f"its format is called {raw['format']!r}"
    if raw.keys() <= {"base_model", "base_model_name_or_path"}:
        return "it says nothing but the name of a base model"
    return "it has no `peft_type`"


def refuse_unknown_method(name: str, where: str) -> NoReturn:
    """Raise AdapterError for a PEFT method that has no merged form, or that nobody knows."""
    if name in NEVER:
        raise AdapterError(
            f"{name} has no merged form, it works on inputs or activations", where=where, hint="Serve it unmerged."
        )
    if name in RENAMED:
        raise AdapterError(f"PEFT gave {name} up in release 0.19, so nothing reads it", where=where, hint=RENAMED[name])
    raise AdapterError("unknown PEFT method", where=where, found=repr(name)[:80], hint="PEFT itself may not know it.")


def _enabled_parts(value: object) -> bool:
    return isinstance(value, list) and any(value)


#: (key, whether its value matters, what is wrong, the way out)
_FEATURES: tuple[tuple[str, Callable[[object], bool], str, str], ...] = (
    (
        "alora_invocation_tokens",
        lambda value: value is not None,
        "an activated LoRA (aLoRA) acts only after its invocation tokens, so it has no merged form",
        "Serve it unmerged.",
    ),
    ("arrow_config", bool, "an Arrow router chooses among adapters by the input, so it has no merged form",
     "Merge one of the adapters that it routes to."),
    ("use_qalora", bool, "QALoRA pools the inputs of a quantized base and cannot be merged into weights",
     "Serve it on the quantized base that it was trained on."),
    ("enable_lora", _enabled_parts, "`enable_lora` of PEFT 0.2 (LoRA on parts of a fused projection) is not supported",
     "Convert the adapter with PEFT 0.2, or train it again."),
)  # fmt: skip


def refuse_unmergeable(raw: Mapping[str, Any], initialization: bool | str, where: str) -> None:
    """Raise AdapterError for a LoRA adapter that cannot be merged into an unchanged base model."""
    for key, matters, what, hint in _FEATURES:
        if matters(raw.get(key)):
            raise AdapterError(what, where=f"`{key}` in {where}", hint=hint)
    if isinstance(initialization, str):
        _refuse_initialization(initialization, f"`init_lora_weights` in {where}")


def _refuse_initialization(name: str, where: str) -> None:
    # subtle: PEFT compares "pissa" and "loftq" as they are, and "olora", "mica" and "gaussian" in lower case.
    if name == "pissa" or name.lower() == "olora" or name.lower() in PLAIN_INITIALIZATIONS:
        return
    if name.startswith("pissa_niter_"):
        what = "the randomized SVD of pissa_niter cannot be repeated, so the base that was trained on is lost"
        raise AdapterError(what, where=where, found=name, hint=_CONVERT)
    if name.startswith("corda"):
        raise AdapterError("CorDA changed the base by data that is not here", where=where, hint=_CONVERT)
    if name == "lora_ga":
        raise AdapterError("LoRA-GA changed the base by gradients that are not here", where=where, hint=_CONVERT)
    if name == "loftq":
        hint = "Merge it with PEFT into the quantized base that it was trained on."
        raise AdapterError("LoftQ trained on a quantized base that differs from the original", where=where, hint=hint)
    raise AdapterError("unknown initialization of the factors", where=where, found=name[:80])
