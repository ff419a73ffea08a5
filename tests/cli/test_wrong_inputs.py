"""Whatever a user gets wrong: the right exit code, a word that helps, no traceback, and nothing written."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.cli import main
from tests.cli.toys import adapter_tensors, ingot, make_adapter, make_base, run_here, snapshot

FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a good base, a good adapter, and one of each bad kind."""
    root = tmp_path_factory.mktemp("wrong")
    make_base(root / "base")
    make_adapter(root / "lora")
    for name, spoil in {**BAD_BASES, **BAD_ADAPTERS}.items():
        shutil.copytree(root / ("base" if name in BAD_BASES else "lora"), root / name)
        spoil(root / name)
    (root / "notes.txt").write_text("hello")
    (root / "empty").mkdir()
    return root


def _change_json(file: str, **values: object) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        value = json.loads((path / file).read_text()) | values
        (path / file).write_text(json.dumps(value))

    return spoil


def _cut(file: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        data = (path / file).read_bytes()
        (path / file).write_bytes(data[:-5])

    return spoil


def _with_tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        tensors = adapter_tensors()
        change(tensors)
        shutil.rmtree(path)
        make_adapter(path, tensors)

    return spoil


def _only_pickles(path: Path) -> None:
    for file in path.glob("model*"):
        file.unlink()
    (path / "pytorch_model.bin").write_bytes(b"")


def _escape_the_directory(path: Path) -> None:
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../lora/adapter_model.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _evil_pickle(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("owned",)

    (path / "adapter_model.safetensors").unlink()
    torch.save({"a": Evil()}, path / "adapter_model.bin")


SHARD = "model-00001-of-00002.safetensors"
BAD_BASES: dict[str, Callable[[Path], object]] = {
    "base-without-config": lambda path: (path / "config.json").unlink(),
    "base-bad-json": lambda path: (path / "config.json").write_text("{"),
    "base-cut": _cut(SHARD),
    "base-without-shard": lambda path: (path / SHARD).unlink(),
    "base-quantized": _change_json("config.json", quantization_config={"quant_method": "bitsandbytes"}),
    "base-pickled": _only_pickles,
    "base-escaping": _escape_the_directory,
    "base-lying": lambda path: (path / SHARD).write_bytes(b"\xff" * 64),
}
BAD_ADAPTERS: dict[str, Callable[[Path], object]] = {
    "lora-bad-json": lambda path: (path / "adapter_config.json").write_text("[]"),
    "lora-without-weights": lambda path: (path / "adapter_model.safetensors").unlink(),
    "lora-cut": _cut("adapter_model.safetensors"),
    "lora-poly": _change_json("adapter_config.json", peft_type="POLY"),
    "lora-prompt": _change_json("adapter_config.json", peft_type="PROMPT_TUNING"),
    "lora-rank": _change_json("adapter_config.json", r=8),
    "lora-extra": _with_tensors(lambda t: t.update({"base_model.model.lm_head.strange": t[FIRST]})),
    "lora-half": _with_tensors(lambda t: t.pop(FIRST)),
    "lora-wide": _with_tensors(lambda t: t.update({FIRST: np.zeros((4, 99), np.float32)})),
    "lora-elsewhere": _with_tensors(lambda t: t.update({k.replace("layers.1", "layers.9"): t.pop(k) for k in list(t)})),
    "lora-evil": _evil_pickle,
}

#: (command line, exit code, a word of the message)
WRONG = [
    ("mrege base lora -o out", 2, "`merge`"),
    ("frobnicate", 2, "no such verb"),
    ("merge base lora -o out --dtpye bf16", 2, "`--dtype`"),
    ("plan base lora --zzz", 2, "no such option: --zzz"),
    ("plan base", 2, "ADAPTER"),
    ("merge base lora", 2, "-o OUT is missing"),
    ("merge base lora -o", 2, "requires an argument"),
    ("inspect base lora", 2, "unexpected"),
    ("plan base lora --dtype int3", 2, "bfloat16"),
    ("plan base lora --rounding up", 2, "preserve"),
    ("plan base lora --seed -1", 2, "--seed"),
    ("plan base lora --seed first", 2, "--seed"),
    ("plan base lora --jobs 0", 2, "--jobs"),
    ("plan base lora --jobs many", 2, "many"),
    ("merge base lora -o out --device tpu", 2, "cuda:N"),
    ("plan base lora --assume-peft-version soon", 2, "0.18.1"),
    ("plan base lora=0", 2, "zero"),
    ("plan base lora=nan", 2, "finite"),
    ("plan base lora=1e999", 2, "finite"),
    ("plan base lora=half", 2, "number"),
    ("plan '' lora", 2, "BASE is empty"),
    ("plan base ''", 2, "ADAPTER is empty"),
    ("merge base lora -o ''", 2, "OUT is empty"),
    ("verify nowhere", 2, "nowhere"),
    ("verify base --read --against-inputs", 2, "exclude"),
    ("verify base --base base", 2, "--against-inputs"),
    ("inspect nowhere", 2, "does not exist"),
    ("inspect empty", 2, "an empty directory"),
    ("inspect notes.txt", 2, ".safetensors"),
    ("doctor --path nowhere", 2, "nowhere"),
    ("verify base", 1, "record"),
    ("plan nowhere lora", 10, "does not exist"),
    ("plan notes.txt lora", 10, "not a directory"),
    ("plan empty lora", 10, "no weights are here"),
    ("plan base-without-config lora", 10, "config.json"),
    ("plan base-bad-json lora", 10, "JSON"),
    ("plan base-cut lora", 10, "cut off"),
    ("plan base-without-shard lora", 10, "missing"),
    ("plan base-pickled lora", 10, "pickle"),
    ("merge base-quantized lora -o out", 10, "bitsandbytes"),
    ("inspect base-cut", 10, "cut off"),
    ("plan base nowhere", 11, "does not exist"),
    ("plan base base", 11, "adapter_config.json"),
    ("plan base lora-bad-json", 11, "config"),
    ("plan base lora-without-weights", 11, "no weights"),
    ("plan base lora-cut", 11, "cut off"),
    ("plan base lora-poly", 11, "POLY"),
    ("plan base lora-prompt", 11, "no merged form"),
    ("merge base lora-half -o out", 11, "counterpart"),
    ("plan base lora-extra", 11, "strange"),
    ("plan base lora=0.5 lora-poly=0.5", 11, "POLY"),
    ("inspect lora-cut", 11, "cut off"),
    ("plan base lora-rank", 12, "rank 8"),
    ("merge base lora-wide -o out", 12, "[16, 16]"),
    ("plan base lora-elsewhere", 12, "layers.9"),
    ("merge base lora -o empty/../lora", 15, "exists"),
    ("merge base lora -o notes.txt", 15, "notes.txt"),
    ("plan base-escaping lora", 16, "path"),
    ("plan base-lying lora", 16, "header"),
    ("plan base lora-evil", 16, "print"),
    ("plan s3://bucket/base lora", 18, "S3"),
    ("merge base lora -o out --to gguf:Q9_X", 2, "no such GGUF type"),
    ("merge base lora -o out --to awq", 2, "later version"),
    ("merge base lora -o out --to safetensors,gguf:Q8_0", 2, "two artifacts"),
    ("merge base lora -o out --to gguf:Q3_K_M", 2, "--accept-quality-loss"),
    ("merge base lora -o out --to gguf:IQ2_M", 2, "--accept-quality-loss"),
    ("merge base lora -o out --to gguf:Q8_0 --split-size much", 2, "4G or 500M"),
    ("merge base lora -o out --to gguf:Q8_0 --llama-cpp nowhere", 2, "names no checkout of llama.cpp"),
    ("merge base lora -o out --llama-cpp .", 2, "--llama-cpp belongs to a GGUF"),
    ("merge base lora -o out --to gguf:Q8_0 --pre strange", 10, "tokenizer"),
    ("merge base lora -o out --to gguf:IQ4_XS --imatrix nowhere", 2, "importance matrix"),
    ("merge base lora -o out --imatrix notes.txt", 2, "belongs to a GGUF"),
    ("merge base lora -o out --pre llama-bpe", 2, "belongs to a GGUF"),
    ("quantize base -o out", 2, "no GGUF type was named"),
    ("quantize lora -o out --to gguf:Q8_0", 10, "adapter"),
    ("quantize nowhere -o out --to gguf:Q8_0", 10, "does not exist"),
    ("export-lora base lora -o out", 2, ".gguf"),
    ("export-lora base nowhere -o out.gguf", 11, "does not exist"),
    ("imatrix base -o out", 2, "--samples"),
    ("imatrix base --samples nowhere -o out", 2, "nowhere"),
    ("verify base --imatrix notes.txt", 2, "--against-inputs"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "word"), WRONG, ids=[line for line, _, _ in WRONG])
def test_a_wrong_input_is_refused_with_its_exit_code_and_nothing_is_written(
    wrong: Path, line: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(wrong)
    before = snapshot(wrong)
    returned = main(shlex.split(line))
    out, err = capfd.readouterr()
    _check(returned, out, err, code, word)
    assert snapshot(wrong) == before
    assert not (wrong / "out").exists()


#: One of each class, in a process of its own.
EACH = list({code: (line, code, word) for line, code, word in reversed(WRONG)}.values())


@pytest.mark.parametrize(("line", "code", "word"), EACH, ids=[str(code) for _, code, _ in EACH])
def test_the_exit_code_is_that_of_the_process(wrong: Path, line: str, code: int, word: str) -> None:
    done = ingot(*shlex.split(line), cwd=wrong)
    _check(done.returncode, done.stdout.decode(), done.stderr.decode(), code, word)


def _check(returned: int, out: str, err: str, code: int, word: str) -> None:
    assert (returned, word in err) == (code, True), err
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "owned" not in out + err


def test_a_device_that_is_not_there_is_a_missing_component(wrong: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run_here("merge base lora -o out --device cuda", wrong) == 18
    assert not (wrong / "out").exists()


def test_a_value_that_is_not_finite_leaves_no_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_base(tmp_path / "base")
    tensors = adapter_tensors()
    tensors[FIRST][1, 2] = np.inf
    make_adapter(tmp_path / "lora", tensors)
    assert run_here("merge base lora -o out --json", tmp_path) == 13
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["error"] == "NonFiniteError"
    assert not (tmp_path / "out").exists()
