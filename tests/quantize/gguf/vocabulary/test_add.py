"""Tokenizers that GGUF cannot take, or that do not belong to the model, are refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from ingot.errors import BaseError, MismatchError
from ingot.quantize.gguf.vocabulary.add import add_vocabulary
from ingot.quantize.gguf.vocabulary.tokens import Kind
from tests.quantize.gguf.models import save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model("llama", tmp_path / "model", torch.bfloat16)


def add(model: Path, **changes: Any) -> dict[str, Any]:
    writer = gguf.GGUFWriter(None, "llama")
    config = {**json.loads((model / "config.json").read_text()), **changes}
    add_vocabulary(writer, model, config, pre=None)
    return {key: value.value for key, value in writer.kv_data[0].items()}


def change(directory: Path, file: str, **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_tokens_beyond_the_embedding_are_refused(model: Path) -> None:
    with pytest.raises(MismatchError, match="no row for") as caught:
        add(model, vocab_size=2000)
    assert "ids below 2000" in str(caught.value)


def test_rows_beyond_the_tokenizer_are_unused_tokens(model: Path) -> None:
    keys = add(model, vocab_size=2050)
    assert keys["tokenizer.ggml.tokens"][2048:] == ["[PAD2048]", "[PAD2049]"]
    assert keys["tokenizer.ggml.token_type"][2048:] == [Kind.UNUSED, Kind.UNUSED]


def test_a_model_without_a_tokenizer_is_refused(model: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model / name).unlink(missing_ok=True)
    with pytest.raises(BaseError, match="no tokenizer that GGUF can take"):
        add(model)


def test_another_kind_of_tokenizer_is_refused(model: Path) -> None:
    change(model, "tokenizer.json", model={"type": "WordPiece", "vocab": {"a": 0}})
    with pytest.raises(BaseError, match="of a kind"):
        add(model)


def test_a_file_that_is_no_sentencepiece_model_is_refused(model: Path) -> None:
    (model / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(BaseError, match="no SentencePiece model"):
        add(model)


def test_the_template_is_carried_from_its_own_file_too(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ 'mine' }}")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert add(model)["tokenizer.chat_template"] == "{{ 'mine' }}"


def test_added_tokens_that_are_special_are_control_tokens(model: Path) -> None:
    raw = json.loads((model / "tokenizer.json").read_text())
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": 2047, "content": "<tool>", "special": False})
    change(model, "tokenizer.json", added_tokens=raw["added_tokens"])
    keys = add(model)
    assert keys["tokenizer.ggml.token_type"][0] == Kind.CONTROL
    assert (keys["tokenizer.ggml.tokens"][2047], keys["tokenizer.ggml.token_type"][2047]) == (
        "<tool>", Kind.USER_DEFINED,
    )  # fmt: skip
