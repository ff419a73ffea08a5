"""What travels beside the weights, and what an adapter cannot carry."""

from __future__ import annotations

import shutil
from pathlib import Path

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import BaseError
from ingot.extract.side_files import changed_settings, travelling

LLAMA = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 67}


def opened(path: Path) -> Checkpoint:
    return Checkpoint.open(locate(str(path), what="model", error=BaseError))


def test_a_tokenizer_travels_whole_where_one_file_of_it_differs(llama: tuple[Path, Path], tmp_path: Path) -> None:
    for source in llama:
        directory = shutil.copytree(source, tmp_path / source.name)
        (directory / "tokenizer.json").write_text("{}")
        (directory / "tokenizer_config.json").write_text(f'{{"of": "{source.name}"}}')
        (directory / "chat_template.jinja").write_text("the same")
        (directory / "notes.txt").write_text(source.name)
    found = travelling(opened(tmp_path / "base"), opened(tmp_path / "tuned"))
    assert found == ("tokenizer.json", "tokenizer_config.json")


def test_the_same_files_stay_where_they_are(llama: tuple[Path, Path]) -> None:
    assert travelling(opened(llama[0]), opened(llama[1])) == ()


def test_settings_are_compared_as_transformers_reads_them() -> None:
    older = {**LLAMA, "rope_theta": 500000.0, "torch_dtype": "float16", "transformers_version": "4.40.0"}
    newer = {
        **LLAMA, "dtype": "bfloat16", "transformers_version": "5.23.0", "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }  # fmt: skip
    assert changed_settings(older, newer) == ()
    assert changed_settings(older, {**newer, "rms_norm_eps": 1e-3}) == ("rms_norm_eps",)
    longer = {**newer, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}}
    assert changed_settings(older, longer) == ("rope_parameters.factor", "rope_parameters.rope_type")


def test_settings_of_an_unknown_model_are_compared_as_they_are() -> None:
    assert changed_settings({"model_type": "toy", "a": 1}, {"model_type": "toy", "a": 2, "b": None}) == ("a",)


def test_a_resized_vocabulary_and_parted_embeddings_are_no_settings() -> None:
    assert changed_settings(LLAMA, {**LLAMA, "vocab_size": 71, "tie_word_embeddings": True}) == ()
