"""llama.cpp runs a GGUF file as transformers runs the checkpoint, and leaves nothing behind, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import util
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from ingot.demo import assets
from ingot.errors import BaseError, MissingComponent
from ingot.validate.gguf_files import locate_gguf
from ingot.validate.model import Unsupported
from ingot.validate.models.llama_cpp import LlamaCpp
from ingot.validate.models.llama_process import LlamaProcess
from ingot.validate.predictions.tokens import compare_tokens
from tests.validate.makers import gguf_of, ignore, save_ggufs
from tests.validate.predictions.test_tokens import opened
from tests.validate.stand_in import Demo

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
PROMPTS = [sample.prompt for sample in assets.tasks()[1].samples[:6]]
TEXTS = [
    *PROMPTS, "", "  two  spaces ", "tabs\tand\nlines\r\n\n", "12345 + 67.89 = 1,234", "na\u00efve caf\u00e9",
    "\u4f60\u597d \U0001f642", "<|user|>a<|end|><|bos|>", "I'll don't WE'RE", "\u00a0nbsp\u200bzero",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ggufs(tmp_path_factory.mktemp("gguf") / "made", "F32", "Q4_K_M")


def opened_gguf(path: Path, **options: Any) -> LlamaCpp:
    return LlamaCpp.open(locate_gguf(path), **{"context": 512, "threads": 1, **options})


@pytest.fixture(scope="module")
def model(made: Path) -> Iterator[LlamaCpp]:
    with closing(opened_gguf(gguf_of(made, "F32"))) as model:
        yield model


@pytest.fixture(scope="module")
def merged() -> Demo:
    """The demo's merged model, by PEFT, rounded to bf16 as the file's weights are, in float32."""
    demo = Demo("dates")
    demo.model.to(torch.bfloat16).to(torch.float32)
    return demo


def test_its_probabilities_are_those_of_transformers(model: LlamaCpp, merged: Demo) -> None:
    rows = [merged.encode(merged.render(prompt, chat=True), special=False) for prompt in PROMPTS[:2]]
    rows.append([1, 132, 107, 0, 2, 2047])  # half a character, special tokens, the last of the vocabulary
    for row, found in zip(rows, model.logits(rows, ignore), strict=True):
        with torch.inference_mode():
            expected = merged.model(torch.tensor([row])).logits[0].log_softmax(-1)
        assert found.shape == (len(row), 2048)
        assert float((found - expected).abs().max()) < 0.05, "the cache of keys and values is in 16 bits"
        assert float((found.exp() * (found - expected)).sum(-1).abs().max()) < 1e-4


@pytest.mark.parametrize("chat", [True, False])
def test_its_greedy_answers_are_those_of_transformers(model: LlamaCpp, merged: Demo, chat: bool) -> None:
    expected = [text.strip() for text in merged.answers(PROMPTS, chat=chat, new_tokens=12)]
    assert [text.strip() for text in model.answers(PROMPTS, chat=chat, new_tokens=12)] == expected


def test_it_reads_the_tokens_that_the_tokenizer_makes(model: LlamaCpp, merged: Demo) -> None:
    for text in TEXTS:
        assert model.ids(text, chat=True) == merged.encode(merged.render(text, chat=True), special=False), text
        assert model.ids(text, chat=False) == merged.encode(text, special=True), text
        assert model.render(text, chat=True) == merged.render(text, chat=True)
    assert compare_tokens(opened(assets.base()), model, PROMPTS, chat=True).same == len(PROMPTS)
    assert model.prefix == merged.prefix
    assert model.columns == model.vocabulary == 2048
    assert (model.decode(69), model.decode(1), model.context) == ("a", "<|bos|>", 512)


def test_what_does_not_fit_into_the_context_is_said(made: Path) -> None:
    with closing(opened_gguf(gguf_of(made, "Q4_K_M"), context=256)) as model:
        with pytest.raises(Unsupported, match="a prompt has 501 tokens, and the model reads 256"):
            model.answers(["a" + " b" * 500], chat=False, new_tokens=4)
        with pytest.raises(Unsupported, match="a row has 300 tokens"):
            list(model.logits([[5] * 300], ignore))
    with closing(opened_gguf(gguf_of(made, "Q4_K_M"), context=100_000)) as model:
        assert model.context == 512, "what the model was made for"


def test_a_file_without_a_chat_template_is_not_given_one(made: Path, tmp_path: Path) -> None:
    data = gguf_of(made, "Q4_K_M").read_bytes()
    (tmp_path / "lost.gguf").write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_"))
    with closing(opened_gguf(tmp_path / "lost.gguf")) as model:
        with pytest.raises(Unsupported, match=r"lost.gguf has no chat template"):
            model.answers(["a"], chat=True, new_tokens=4)
        found = compare_tokens(opened(assets.base()), model, PROMPTS[:1], chat=True)
        assert found.first_difference == "sample 0: the candidate has lost the chat template"


def test_a_file_that_llama_cpp_does_not_load_is_refused_with_its_reason(made: Path, tmp_path: Path) -> None:
    data = gguf_of(made, "Q4_K_M").read_bytes()
    for name, bad, words in (
        ("tensor", data.replace(b"blk.2.ffn_up.weight", b"blk.2.ffn_UP.weight"), "'blk.2.ffn_up.weight' not found"),
        ("family", data.replace(b"\0llama", b"\0lxama", 1), "unknown model architecture"),
    ):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(bad)
        with pytest.raises(BaseError, match=words) as refusal:
            opened_gguf(path)
        assert refusal.value.exit_code == 10
        assert str(tmp_path) not in refusal.value.message


def test_a_process_that_dies_is_an_error_and_not_a_hang(made: Path) -> None:
    with closing(opened_gguf(gguf_of(made, "Q4_K_M"))) as model:
        os.kill(model._process._process.pid, signal.SIGABRT)
        assert model._process.ended()
        began = time.monotonic()
        with pytest.raises(BaseError, match="stopped while it ran the file: found it was ended by signal 6"):
            model.encode("a", special=False)
        with pytest.raises(BaseError, match="stopped while it ran the file"):
            model.answers(["a"], chat=False, new_tokens=2)
        assert time.monotonic() - began < 5


def test_it_is_asked_with_a_key_on_this_machine_alone(made: Path) -> None:
    process = LlamaProcess.start(gguf_of(made, "Q4_K_M"), context=256, threads=1)
    try:
        assert process.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{process.url}/props", trust_env=False).status_code == 401
        assert process.key not in Path(f"/proc/{process._process.pid}/cmdline").read_text()
    finally:
        process.close()
    assert process.ended()
    process.close()


_OPENS_AND_WAITS = """
import sys, time
from pathlib import Path
from ingot.validate.models.llama_process import LlamaProcess
process = LlamaProcess.start(Path(sys.argv[1]), context=256, threads=1)
print(process._process.pid, flush=True)
time.sleep(60)
"""


def test_it_does_not_outlive_a_parent_that_is_killed(made: Path) -> None:
    command = [sys.executable, "-c", _OPENS_AND_WAITS, str(gguf_of(made, "Q4_K_M"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _runs(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return "llama_child" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_nothing_is_written_to_the_terminal(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(opened_gguf(gguf_of(made, "Q4_K_M"))) as model:
        model.answers(["a"], chat=True, new_tokens=2)
    assert capfd.readouterr() == ("", "")


def test_without_the_library_the_command_that_installs_it_is_told(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match="xllamacpp") as refusal:
        opened_gguf(gguf_of(made, "Q4_K_M"))
    assert "pip install 'ingot-merge[gguf]'" in (refusal.value.hint or "")


def test_a_probability_of_zero_and_a_nan_are_what_they_are(model: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(values: list[float | None]) -> Any:
        likely = [{"id": number, "logprob": value} for number, value in enumerate(values)]
        body = {"completion_probabilities": [{"top_logprobs": likely}]}
        return lambda *args, **more: httpx.Response(200, json=body)

    monkeypatch.setattr(model._client, "post", answer([-3.4e38, None, *[-8.0] * 2046]))
    (found,) = model.logits([[1]], ignore)
    assert float(found[0, 0]) == pytest.approx(float(np.log(np.float64(2) ** -149)), rel=1e-6)
    assert bool(found[0, 1].isnan())
    monkeypatch.setattr(model._client, "post", answer([-1.0, -2.0]))
    with pytest.raises(Unsupported, match="gave 2 probabilities for 2048 tokens"):
        list(model.logits([[1]], ignore))
