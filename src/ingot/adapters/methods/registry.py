"""PEFT's methods by name: those of this folder, each in one file, which is imported when an adapter asks for it."""

from __future__ import annotations

from importlib import import_module

from ingot.adapters.methods.method import Method

#: peft_type -> the file of this folder.
_FILES = {
    "ADALORA": "adalora", "ADAMSS": "adamss", "BEFT": "beft", "BOFT": "boft", "C3A": "c3a", "DEFT": "deft",
    "DELORA": "delora", "FOURIERFT": "fourierft", "FROD": "frod", "GLORA": "glora", "GRALORA": "gralora",
    "HIRA": "hira", "HRA": "hra", "IA3": "ia3", "LN_TUNING": "ln_tuning", "LOHA": "loha", "LOKR": "lokr",
    "MISS": "miss", "OFT": "oft", "OSF": "osf", "PEANUT": "peanut", "PSOFT": "psoft", "PVERA": "pvera",
    "RANDLORA": "randlora", "ROAD": "road", "SHIRA": "shira", "SUPERTUNING": "supertuning", "TINYLORA": "tinylora",
    "TRAINABLE_TOKENS": "trainable_tokens", "UNILORA": "unilora", "VBLORA": "vblora", "VERA": "vera",
    "WAVEFT": "waveft",
}  # fmt: skip


def methods() -> tuple[str, ...]:
    """The `peft_type` of every method that can be merged, besides LORA."""
    return tuple(_FILES)


def find_method(peft_type: str) -> Method | None:
    """The method of this name in capitals."""
    file = _FILES.get(peft_type)
    if file is None:
        return None
    method: Method = import_module(f"ingot.adapters.methods.{file}").METHOD
    return method
