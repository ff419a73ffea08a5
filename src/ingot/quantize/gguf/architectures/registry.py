"""The architectures that ingot writes itself, by transformers' model class."""

from __future__ import annotations

from importlib import import_module

from ingot.errors import BaseError
from ingot.quantize.gguf.architecture import Architecture

#: The files of this folder that hold `ARCHITECTURES`.
_FILES = ("llama", "qwen", "gemma", "phi3", "granite", "falcon", "others")


def architectures() -> tuple[Architecture, ...]:
    """All of them."""
    modules = (import_module(f"ingot.quantize.gguf.architectures.{file}") for file in _FILES)
    return tuple(architecture for module in modules for architecture in module.ARCHITECTURES)


def find_architecture(model_class: str | None) -> Architecture:
    """The one of a model class. Raises BaseError, naming the known ones, where there is none."""
    known = {name: one for one in architectures() for name in one.classes}
    if model_class not in known:
        raise BaseError(
            "ingot has no GGUF architecture for this model",
            where="architectures in config.json",
            expected=", ".join(sorted(known)),
            found=model_class,
            hint="Give a checkout of llama.cpp that knows it: --llama-cpp DIR.",
        )
    return known[model_class]
