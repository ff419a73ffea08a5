"""The bridge to llama.cpp's converter against that converter, run by hand on PEFT's merge.

`make reference` runs the real one; a small stand-in of a checkout, written here, shows what happens where it fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import BaseError, IngotError, MissingComponent, UsageError
from ingot.merge import Wanted, prepare, prepare_formats, run_together
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.record import verify
from tests.battery.workshop import content_of
from tests.quantize.gguf import models
from tests.quantize.gguf.reference import files, llama_cpp
from tests.quantize.gguf.reference.files import digests

#: Models that no file of `architectures` knows.
UNKNOWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", {**models.SIZES, "partial_rotary_factor": 0.25}),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 2048, "n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 1,
         "eos_token_id": 2},
    ),
}  # fmt: skip
TYPES = ("Q4_K_M", "Q8_0")
#: transformers 5 no longer writes it, and the converter wants it.
LOST = {"gpt2": {"n_ctx": 512}}


@pytest.fixture(autouse=True)
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in UNKNOWN.items():
        monkeypatch.setitem(models.MODELS, name, model)
    for name, settings in LOST.items():
        monkeypatch.setitem(models.CHANGED, name, settings)


def make(base: Path, adapter: Path | None, target: Path, checkout: Path, types: tuple[str, ...] = TYPES) -> None:
    gguf = GgufOptions(types, pre="starcoder", llama_cpp_sha256=Checkout.open(checkout).digest)
    adapters = [] if adapter is None else [(str(adapter), 1.0)]
    with prepare(str(base), adapters, Options(gguf=gguf), target=target, llama_cpp=checkout) as job:
        job.run()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", *UNKNOWN])
def test_a_model_goes_through_the_users_converter_as_through_its_command(name: str, tmp_path: Path) -> None:
    base = models.save_model(name, tmp_path / "base", torch.bfloat16)
    adapter = models.save_adapter(name, base, tmp_path / "adapter")
    make(base, adapter, tmp_path / "made", llama_cpp.source())
    whole = tmp_path / "whole.gguf"
    files.convert(files._merged(base, adapter, tmp_path / "merged"), whole)
    for file_type in TYPES:
        (file,) = (tmp_path / "made").glob(f"*-{file_type}.gguf")
        theirs = digests(files._quantized(whole, tmp_path / f"{file_type}.gguf", file_type, None))
        ours = digests(file)
        assert ours["keys"] == theirs["keys"]
        assert list(ours["tensors"].items()) == list(theirs["tensors"].items())
    told: dict[str, Any] = {"base": str(base), "adapters": [str(adapter)], "depth": "against-inputs"}
    found = verify(tmp_path / "made", **told, llama_cpp=llama_cpp.source())
    assert found.ok, found.verdict
    with pytest.raises(UsageError, match="needs the checkout"):
        verify(tmp_path / "made", **told)


@pytest.mark.slow
def test_the_bridge_gives_what_we_give_without_it(tmp_path: Path) -> None:
    base = models.save_model("llama", tmp_path / "base", torch.bfloat16)
    make(base, None, tmp_path / "theirs", llama_cpp.source())
    with prepare(str(base), [], Options(gguf=GgufOptions(TYPES)), target=tmp_path / "ours") as job:
        job.run()
    for file in (tmp_path / "ours").glob("*.gguf"):
        ours, theirs = digests(file), digests(tmp_path / "theirs" / file.name)
        assert ours["tensors"] == theirs["tensors"]
        assert {**ours["keys"], "tokenizer.ggml.pre": "starcoder"} == theirs["keys"]


@pytest.mark.slow
def test_artifacts_of_one_pass_through_the_converter_are_those_of_each_ones_own(tmp_path: Path) -> None:
    base = models.save_model("stablelm", tmp_path / "base", torch.bfloat16)
    checkout = llama_cpp.source()
    digest = Checkout.open(checkout).digest
    asked = [GgufOptions((of,), pre=pre, llama_cpp_sha256=digest)
             for of, pre in (("Q4_K_M", "starcoder"), ("Q8_0", "gpt-2"))]  # fmt: skip
    wanted = [Wanted(tmp_path / f"{number}", gguf, llama_cpp=checkout) for number, gguf in enumerate(asked)]
    jobs = prepare_formats(str(base), [], None, wanted)
    assert not any(isinstance(done, IngotError) for done in run_together(jobs))
    jobs[0].close()
    for number, gguf in enumerate(asked):
        alone = tmp_path / f"{number} alone"
        with prepare(str(base), [], Options(gguf=gguf), target=alone, llama_cpp=checkout) as job:
            job.run()
        assert content_of(tmp_path / f"{number}") == content_of(alone)


#: A converter of one architecture, which behaves as its checkout's file `mood` says.
CONVERTER = """
import sys
from pathlib import Path
import gguf

mood = (Path(__file__).parent / "mood").read_text()

class TextModel:
    pass

def main():
    if mood == "refuses":
        print("ERROR: Model FooForCausalLM is not supported", file=sys.stderr)
        sys.exit(1)
    if mood == "lacks":
        import a_library_that_is_not_there
    if mood == "ends":
        return
    if mood == "quantized":
        writer = gguf.GGUFWriter([("a.weight", gguf.Tensor([4, 32], "Q8_0"))])
    else:
        writer = gguf.GGUFWriter([("a.weight", gguf.Tensor([4, 32], "F32"))])
    if mood == "crashes":
        raise ValueError("expected a thing, got another")
    writer.write_tensors_to_file(progress=True)
"""
GGUF = """
import enum
from . import utility
Type = enum.Enum("Type", "F32 Q8_0")
class Tensor:
    def __init__(self, shape, of):
        self.shape, self.dtype, self.tensor, self.nbytes = shape, Type[of], self, 4 * 4 * 32
    def tofile(self, file):
        raise RuntimeError("a shape does not fit")
class GGUFWriter:
    arch = "foo"
    kv_data = [{}]
    def __init__(self, tensors):
        self.tensors = [dict(tensors)]
"""


def pretend_checkout(path: Path, mood: str) -> Path:
    package = path / "gguf-py" / "gguf"
    package.mkdir(parents=True)
    (path / "convert_hf_to_gguf.py").write_text(CONVERTER)
    (path / "mood").write_text(mood)
    (package / "__init__.py").write_text(GGUF)
    (package / "gguf_writer.py").write_text("")
    reader = "" if mood == "old" else "class LocalTensor:\n    def mmap_bytes(self): ...\n"
    (package / "utility.py").write_text(reader)
    return path


@pytest.mark.parametrize(
    ("mood", "error", "said"),
    [
        ("refuses", BaseError, "ERROR: Model FooForCausalLM is not supported"),
        ("crashes", BaseError, "ValueError: expected a thing, got another"),
        ("ends", BaseError, "the converter ended without writing tensors"),
        ("old", BaseError, "no utility.LocalTensor.mmap_bytes"),
        ("lacks", MissingComponent, "No module named 'a_library_that_is_not_there'"),
        ("quantized", BaseError, r"Q8_0\[4, 32\]"),
        ("fails late", BaseError, "RuntimeError: a shape does not fit"),
    ],
)
def test_what_goes_wrong_in_the_converter_is_said_and_leaves_nothing(
    mood: str, error: type[IngotError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = models.save_model("llama", tmp_path / "base", torch.bfloat16)
    checkout = pretend_checkout(tmp_path / "llama.cpp", mood)
    before = sorted(checkout.rglob("*"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(error, match=said):
        make(base, None, tmp_path / "made", checkout, ("F32",))
    assert list(temporary.iterdir()) == []
    assert sorted(checkout.rglob("*")) == before
    assert not (tmp_path / "made").exists()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(("name", "said"), [("none", "no such directory"), ("empty", "no convert_hf_to_gguf.py")])
def test_a_folder_that_is_no_checkout_is_refused(name: str, said: str, folders: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Checkout.open(folders / name)
    assert caught.value.exit_code == 2


def test_the_digest_of_a_checkout_is_of_its_code(tmp_path: Path) -> None:
    one, two = pretend_checkout(tmp_path / "1", "a"), pretend_checkout(tmp_path / "2", "b")
    assert Checkout.open(one).digest == Checkout.open(two).digest
    (two / "gguf-py" / "gguf" / "utility.py").write_text("# other")
    assert Checkout.open(one).digest != Checkout.open(two).digest
