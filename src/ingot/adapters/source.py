"""Which files of a folder are an adapter, whichever tool wrote them: the weights, and the config beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.errors import AdapterError, UsageError

CONFIG_NAME = "adapter_config.json"
SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
#: Weights of other tools by the names that those give them, in the order in which they are looked for.
_FOREIGN_NAMES = ("adapters.safetensors", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_TORCHTUNE = re.compile(r"adapter_(?:model|\d+)\.pt")
#: What nobody but a base has: a folder with it is no adapter of a single nameless file.
_OF_A_BASE = ("config.json", "model.safetensors.index.json", "model_index.json")


def find_root(path: Path, *, file: str | None, subfolder: str | None) -> tuple[Path, list[str]]:
    """The folder that holds the adapter, and its names.

    Raises:
        AdapterError: there is no folder or no adapter in it; the message says what is there instead.
        UsageError: the subfolder would leave the folder.
    """
    if subfolder is not None:
        if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts:
            raise UsageError("subfolder leaves the adapter's directory", found=subfolder)
        path = path / subfolder
    names = _listing(path)
    if file is not None or CONFIG_NAME in names or candidates(names):
        return path, names
    inner = [name for name in names if _holds_adapter(path / name)]
    if inner:
        shown = ", ".join(inner[:10]) + (", ..." if len(inner) > 10 else "")
        hint = f"Name one of them: `{path / inner[0]}`."
        raise AdapterError("the adapters lie in folders of this directory", where=path, found=shown, hint=hint)
    adapterhub = "It holds `pytorch_adapter.bin` of AdapterHub: its bottleneck layers have no merged form."
    tool = adapterhub if "pytorch_adapter.bin" in names else None
    what = f"no {CONFIG_NAME}, and no weights of another tool, so this is no adapter"
    raise AdapterError(what, where=path, hint=tool)


def candidates(names: list[str]) -> list[str]:
    """The files of a folder without adapter_config.json that may be an adapter's weights."""
    known = [name for name in (SAFETENSORS_NAME, PICKLE_NAME, *_FOREIGN_NAMES) if name in names]
    if known:
        return known[:1]
    tuned = [name for name in names if _TORCHTUNE.fullmatch(name)]
    if tuned or any(name in names for name in _OF_A_BASE):
        return tuned
    return [name for name in names if name.endswith(".safetensors")]


def weights_name(root: Path, names: list[str], raw: Mapping[str, Any] | None) -> str:
    """The file that holds the weights; `raw` is the config.

    Raises AdapterError: there is none, or there are several and nothing tells which.
    """
    if raw is None:
        found = candidates(names)
    else:
        own = [SAFETENSORS_NAME, PICKLE_NAME, "adapters.safetensors"]
        order = own if "peft_type" in raw else [*own[2:], *own[:2]]
        found = [name for name in order if name in names][:1] or [n for n in names if _TORCHTUNE.fullmatch(n)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        hint = f"Name one of them: `{root / found[0]}`."
        raise AdapterError("several files of this directory may be the adapter", where=root, found=shown, hint=hint)
    for name in (SAFETENSORS_NAME, PICKLE_NAME):
        if f"{name}.index.json" in names:
            hint = f"Load it once with PEFT and save it as one {SAFETENSORS_NAME}."
            raise AdapterError("adapter is cut into shards, which is not supported", where=root, hint=hint)
    expected = f"{SAFETENSORS_NAME} or {PICKLE_NAME}"
    raise AdapterError("adapter has no weights", where=root, expected=expected, found="a config alone")


def _listing(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError as cause:
        what = f"cannot open the adapter ({(cause.strerror or str(cause)).lower()})"
        raise AdapterError(what, where=path, hint="Give the directory that holds adapter_config.json.") from cause


def _holds_adapter(path: Path) -> bool:
    return (path / CONFIG_NAME).is_file() or any((path / name).is_file() for name in _FOREIGN_NAMES)
