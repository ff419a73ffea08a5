"""What users get wrong around GGUF: one sentence, a hint, the right exit code, and nothing is written."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.cli import main
from tests.cli.toys import snapshot
from tests.quantize.gguf import models

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


def _json(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        content = json.loads((path / file).read_text())
        change(content)
        (path / file).write_text(json.dumps(content))

    return spoil


def _nan(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


BAD: dict[str, Callable[[Path], object]] = {
    "no-tokenizer": lambda path: (path / "tokenizer.json").unlink(),
    "word-pieces": _json("tokenizer.json", lambda raw: raw["model"].update(type="WordPiece")),
    "odd-merges": _json("tokenizer.json", lambda raw: raw["model"].update(merges=[["a"]])),
    "odd-tokens": _json("tokenizer.json", lambda raw: raw["model"].update(vocab={"a": "x"})),
    "odd-added": _json("tokenizer.json", lambda raw: raw.update(added_tokens=[{"content": "x"}])),
    "few-rows": _json("config.json", lambda raw: raw.update(vocab_size=100)),
    "more-layers": _json("config.json", lambda raw: raw.update(num_hidden_layers=9)),
    "fewer-layers": _json("config.json", lambda raw: raw.update(num_hidden_layers=1)),
    "no-heads": _json("config.json", lambda raw: raw.update(num_attention_heads=0)),
    "heads-in-words": _json("config.json", lambda raw: raw.update(num_attention_heads="four")),
    "odd-norm": _json("config.json", lambda raw: raw.update(rms_norm_eps="small")),
    "no-vocabulary-size": _json("config.json", lambda raw: raw.pop("vocab_size")),
    "unknown": _json("config.json", lambda raw: raw.update(architectures=["FooForCausalLM"])),
    "nan": _nan,
}

#: (command line, exit code, a word of the message)
WRONG = [
    ("merge base lora -o out --to ''", 2, "no format is named"),
    ("merge base lora -o out --to gguf:Q4_K_X", 2, "no such GGUF type"),
    ("merge base lora -o out --to gguf:IQ2_XXS --accept-quality-loss", 2, "needs an importance matrix"),
    ("merge base lora -o out --to gguf:Q8_0 --pre strange", 2, "no such pre-tokenizer"),
    ("merge base lora -o out --to gguf:Q8_0 --imatrix nowhere", 2, "no such importance matrix"),
    ("merge base lora -o out --to gguf:Q8_0 --imatrix base", 2, "no such importance matrix"),
    ("merge base lora -o out --to gguf:Q8_0 --imatrix samples.jsonl", 2, "importance matrix"),
    ("merge base lora -o out --to gguf:Q8_0 --llama-cpp base", 2, "names no checkout"),
    (f"merge base lora -o out --to gguf:Q8_0 --split-size {'9' * 400}", 2, "is no size"),
    ("merge base lora -o lora --to gguf:Q8_0", 15, "exists"),
    ("merge more-layers lora -o out --to gguf:Q8_0", 10, "lacks tensors of the model"),
    ("quantize no-tokenizer -o out --to gguf:Q8_0", 10, "no tokenizer"),
    ("quantize word-pieces -o out --to gguf:Q8_0", 10, "WordPiece"),
    ("quantize odd-merges -o out --to gguf:Q8_0", 10, "the tokenizer cannot be read"),
    ("quantize odd-tokens -o out --to gguf:Q8_0", 10, "the tokenizer cannot be read"),
    ("quantize odd-added -o out --to gguf:Q8_0", 10, "the tokenizer cannot be read"),
    ("quantize few-rows -o out --to gguf:Q8_0", 12, "no row for"),
    ("quantize more-layers -o out --to gguf:Q8_0", 10, "nothing for blk.2.attn_norm.weight"),
    ("quantize fewer-layers -o out --to gguf:Q8_0", 10, "model.layers.1."),
    ("quantize no-heads -o out --to gguf:Q8_0", 10, "num_attention_heads"),
    ("quantize heads-in-words -o out --to gguf:Q8_0", 10, "'four'"),
    ("quantize odd-norm -o out --to gguf:Q8_0", 10, "config.json"),
    ("quantize no-vocabulary-size -o out --to gguf:Q8_0", 10, "vocab_size"),
    ("quantize unknown -o out --to gguf:Q8_0", 10, "FooForCausalLM"),
    ("quantize base -o out --to safetensors", 2, "no GGUF type was named"),
    ("quantize samples.jsonl -o out --to gguf:Q8_0", 10, "a file, not a directory"),
    ("imatrix base --samples nowhere -o out", 2, "nowhere"),
    ("imatrix base --samples base/config.json -o out", 2, "config.json"),
    ("imatrix base --samples samples.jsonl -o no/such/file", 15, "no/such"),
    ("imatrix base --samples samples.jsonl -o samples.jsonl", 15, "exists"),
    ("imatrix base+lora --samples samples.jsonl -o out", 10, "merged weights"),
    ("imatrix lora --samples samples.jsonl -o out", 10, "adapter"),
    ("imatrix no-tokenizer --samples samples.jsonl -o out", 10, "tokenizer"),
    ("imatrix nan --samples samples.jsonl -o out", 13, "a NaN or an infinity"),
    ("imatrix base --samples samples.jsonl -o out --dtype int8", 2, "int8"),
    ("export-lora base lora -o out.bin", 2, "ends in .gguf"),
    ("export-lora base lora -o no/such/out.gguf", 15, "no/such"),
    ("export-lora base base -o out.gguf", 11, "no adapter"),
    ("export-lora lora base -o out.gguf", 10, "this is an adapter"),
    ("export-lora unknown lora -o out.gguf", 10, "FooForCausalLM"),
    ("export-lora no-heads lora -o out.gguf", 10, "num_attention_heads"),
    ("export-lora more-layers lora -o out.gguf", 10, "lacks tensors of the model"),
]  # fmt: skip


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a good base, a good adapter, and one of each bad kind."""
    root = tmp_path_factory.mktemp("wrong")
    base = models.save_model("llama", root / "base", torch.bfloat16)
    models.save_adapter("llama", base, root / "lora")
    for name, spoil in BAD.items():
        shutil.copytree(base, root / name)
        spoil(root / name)
    (root / "samples.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    return root


@pytest.mark.parametrize(("line", "code", "word"), WRONG, ids=[line[:70] for line, _, _ in WRONG])
def test_it_is_refused_in_a_sentence_with_a_hint_and_nothing_is_written(
    wrong: Path, line: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(wrong)
    before = snapshot(wrong)
    returned = main([*shlex.split(line), "--quiet"])
    err = capfd.readouterr().err
    assert (returned, word in err) == (code, True), err
    assert [text.partition(":")[0] for text in err.splitlines()] == ["error", "hint"]
    assert snapshot(wrong) == before
