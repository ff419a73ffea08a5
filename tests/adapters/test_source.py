"""Which files of a folder are the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingot.adapters.source import candidates, find_root, weights_name
from ingot.errors import AdapterError

PEFT: dict[str, Any] = {"peft_type": "LORA"}
MLX: dict[str, Any] = {"fine_tune_type": "lora"}


@pytest.mark.parametrize(
    ("names", "raw", "found"),
    [
        (["adapter_model.bin", "adapter_model.safetensors"], PEFT, "adapter_model.safetensors"),
        (["adapter_model.bin"], PEFT, "adapter_model.bin"),
        (["adapter_model.pt", "adapter_model.safetensors"], PEFT, "adapter_model.safetensors"),
        (["adapter_model.pt"], PEFT, "adapter_model.pt"),
        (["adapter_0.pt"], {"r": 8}, "adapter_0.pt"),
        (["0000100_adapters.safetensors", "adapters.safetensors"], MLX, "adapters.safetensors"),
        (["adapter_model.safetensors", "adapters.safetensors"], MLX, "adapters.safetensors"),
        (["adapter_model.safetensors", "adapters.safetensors"], PEFT, "adapter_model.safetensors"),
        (["README.md", "style.safetensors"], None, "style.safetensors"),
        (["pytorch_lora_weights.safetensors", "style.safetensors"], None, "pytorch_lora_weights.safetensors"),
        (["adapter_model.pt", "config.json", "model.safetensors"], None, "adapter_model.pt"),
    ],
)
def test_the_weights_are_the_file_that_the_config_means(names: list[str], raw: Any, found: str) -> None:
    assert weights_name(Path("x"), sorted(names), raw) == found


@pytest.mark.parametrize(
    ("names", "raw", "text"),
    [
        (["adapter_0.pt", "adapter_1.pt"], {"r": 8}, r"several files.*adapter_0\.pt, adapter_1\.pt"),
        (["a.safetensors", "b.safetensors"], None, r"several files.*a\.safetensors, b\.safetensors"),
        (["adapter_config.json"], PEFT, "no weights"),
        (["adapter_model.bin.index.json"], PEFT, "shards"),
    ],
)
def test_none_or_several_are_refused(names: list[str], raw: Any, text: str) -> None:
    with pytest.raises(AdapterError, match=text):
        weights_name(Path("x"), names, raw)


def test_a_base_is_no_folder_of_one_nameless_file() -> None:
    assert candidates(["config.json", "model.safetensors"]) == []


def test_folders_of_adapters_of_any_tool_are_listed(tmp_path: Path) -> None:
    for name in ("adapters.safetensors", "pytorch_lora_weights.safetensors", "adapter_config.json"):
        (tmp_path / name.partition(".")[0]).mkdir()
        (tmp_path / name.partition(".")[0] / name).touch()
    with pytest.raises(AdapterError, match="adapter_config, adapters, pytorch_lora_weights"):
        find_root(tmp_path, file=None, subfolder=None)
