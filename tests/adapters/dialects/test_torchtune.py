"""torchtune's files: its pickles, its names, and its copies in PEFT's format. Values: `test_against_libraries`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.adapters import Adapter, load_tensor
from ingot.errors import AdapterError, MismatchError, UnsafeInputError
from tests.adapters.dialects.files import drawn, on, opened, write

CONFIG = {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "target_modules": ["q_proj", "o_proj"]}
LLAMA: dict[str, Any] = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1}
Q, PATH = "layers.0.attn.q_proj", "model.layers.0.self_attn.q_proj"


def pair(path: str = Q, out: int = 8) -> dict[str, Any]:
    name = path.replace(".", "__")
    return drawn(**{f"{name}__lora_a__weight": (2, 8), f"{name}__lora_b__weight": (out, 2)})


def saved(root: Path, tensors: dict[str, Any], config: Any = CONFIG, name: str = "adapter_model.pt") -> Path:
    root.mkdir(exist_ok=True)
    torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, root / name)
    if config is not None:
        (root / "adapter_config.json").write_text(json.dumps(config))
    return root


@pytest.mark.parametrize("name", ["adapter_model.pt", "adapter_0.pt"])
def test_its_pickle_is_read_without_running_it(name: str, tmp_path: Path) -> None:
    tensors = pair()
    root = saved(tmp_path / "run", tensors, name=name)
    with Adapter.open(root, adapter_index=0) as adapter:
        assert adapter.config.title == "torchtune LoRA"
        (update,) = on(adapter, **LLAMA).updates
        assert (update.path, update.scaling) == (PATH, 2.0)
        b = update.b.of(load_tensor(adapter.weights, update.b.ref)).numpy()
    rows = tensors[f"{Q}.lora_b.weight"]
    head = [0, 2, 1, 3]  # two heads of four: pairs of neighbours become halves
    assert np.array_equal(b, rows[[*head, *(4 + at for at in head)]])
    assert opened(root / name).config.title == "torchtune LoRA"


def test_qwens_rows_stay_as_they_are(tmp_path: Path) -> None:
    adapter = opened(saved(tmp_path / "run", pair()))
    (update,) = on(adapter, **{**LLAMA, "model_type": "qwen2"}).updates
    assert update.b.steps == ()


@pytest.mark.parametrize(
    ("tensors", "config", "facts", "text"),
    [
        (pair(), None, LLAMA, r"no adapter_config\.json with r and lora_alpha"),
        (pair(), {"r": 2}, LLAMA, r"no adapter_config\.json with r and lora_alpha"),
        (pair(), {"r": 3, "lora_alpha": 4}, LLAMA, "rank of a tensor is not that of the config"),
        (pair(), {"r": 2, "lora_alpha": 0}, LLAMA, "lora_alpha"),
        ({f"{Q}.lora_a.weight": np.zeros((2, 8), np.float32)}, CONFIG, LLAMA, r"counterpart.*lora_b\.weight"),
        ({**pair(), "layers.0.attn.qkv.lora_a.weight": np.zeros((2, 8), np.float32)}, CONFIG, LLAMA, "qkv"),
        ({**pair(), "decoder.x": np.zeros(3, np.float32)}, CONFIG, LLAMA, r"decoder\.x"),
        ({**pair(), f"{Q}.magnitude": np.zeros(5, np.float32)}, CONFIG, LLAMA, "magnitude has the wrong shape"),
        (pair(), CONFIG, {"model_type": "gemma"}, "model_type gemma"),
        (pair(), CONFIG, {**LLAMA, "num_attention_heads": 3}, "no whole heads"),
        (pair(), CONFIG, {"model_type": "llama"}, "no whole heads"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(
    tensors: dict[str, Any], config: Any, facts: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises((AdapterError, MismatchError), match=text) as caught:
        on(opened(saved(tmp_path / "run", tensors, config)), **facts)
    assert caught.value.hint


def test_the_readers_refusal_of_a_pickle_that_would_run_stands(tmp_path: Path) -> None:
    saved(tmp_path / "run", pair())
    torch.save({"x": Path("/")}, tmp_path / "run" / "adapter_model.pt")
    with pytest.raises(UnsafeInputError):
        opened(tmp_path / "run")


@pytest.mark.parametrize(
    ("model_type", "magnitude", "refused"), [("llama", False, False), ("qwen2", False, True), ("llama", True, True)]
)
def test_its_copy_in_pefts_format_is_refused_where_its_rows_stand_wrong(
    model_type: str, magnitude: bool, refused: bool, tmp_path: Path
) -> None:
    root = saved(tmp_path / "run", pair(), {**CONFIG, "use_dora": magnitude})
    name = f"base_model__model__{PATH.replace('.', '__')}"
    tensors = drawn(**{f"{name}__lora_A__weight": (2, 8), f"{name}__lora_B__weight": (8, 2)})
    if magnitude:
        tensors |= drawn(**{f"{name}__lora_magnitude_vector": (8,)})
    write(root / "adapter_model.safetensors", tensors)
    adapter = opened(root)
    assert adapter.config.title in ("LoRA", "DoRA")
    if refused:
        with pytest.raises(MismatchError) as caught:
            on(adapter, model_type=model_type)
        assert "adapter_model.pt" in str(caught.value.hint)
    else:
        assert on(adapter, model_type=model_type).updates
