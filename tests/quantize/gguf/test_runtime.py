"""llama.cpp loads the files, and computes with them what transformers computes with the checkpoint.

Logits are compared at each of the positions of transformers' own greedy text, so that one near tie does not hide what
comes after it. Greedy tokens are the same in F32 files always, and in BF16 files wherever transformers' first choice is
ahead of its second by a tenth of the logits' standard deviation: llama.cpp rounds activations to bfloat16 there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ingot.errors import BaseError
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from tests.oracle.reference import unheard
from tests.quantize.gguf import models
from tests.quantize.gguf.models import MODELS, VARIANTS, save_model
from tests.quantize.gguf.runtime import Running

NEW_TOKENS = 12
PROMPT = 24
#: Of the logits' standard deviation: what F32 files may differ by. A gelu is taken from a table in float16.
EXACT, WITH_TABLE = 1e-4, 5e-3
TABLES = ("gemma", "starcoder2", "falcon")
#: The same of BF16 files, and how far ahead the first choice must be to be compared.
ROUNDED, CLEAR = 0.05, 0.1


def to_gguf(base: Path, target: Path, *file_types: str) -> list[Path]:
    with prepare(str(base), [], Options(gguf=GgufOptions(file_types)), target=target) as job:
        job.run()
    return [next(target.glob(f"*-{name}.gguf")) for name in file_types]


def expected(base: Path, prompt: list[int]) -> tuple[list[int], np.ndarray]:
    """Transformers' greedy tokens, in float32, and its log-probabilities [NEW_TOKENS, vocabulary] at each of them."""
    with unheard():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    row, found = list(prompt), []
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            found.append(model(torch.tensor([row]), use_cache=False).logits[0, -1].log_softmax(-1))
            row.append(int(found[-1].argmax()))
    return row[len(prompt) :], torch.stack(found).numpy()


def assert_same(file: Path, prompt: list[int], tokens: list[int], logs: np.ndarray, *, context: int = 512) -> None:
    running = Running(file, context=context)
    rows = [prompt + tokens[:count] for count in range(NEW_TOKENS)]
    found = np.stack([running.log_probabilities(row, logs.shape[1]) for row in rows])
    spread = logs.std()
    apart = float(np.abs(found - logs).max() / spread)
    chosen = found.argmax(-1).tolist()
    if file.stem.endswith("-F32"):
        assert apart < (WITH_TABLE if file.stem.startswith(TABLES) else EXACT)
        assert chosen == tokens
        written = running.greedy(prompt, NEW_TOKENS)
        assert written == tokens[: len(written)]
        assert written
        return
    assert apart < ROUNDED
    second, first = np.sort(logs, axis=-1)[:, -2:].T
    clear = first - second > CLEAR * spread
    assert clear.sum() >= NEW_TOKENS // 3, "too few to compare"
    assert np.asarray(chosen)[clear].tolist() == np.asarray(tokens)[clear].tolist()


def save(name: str, tmp_path: Path) -> Path:
    # llama.cpp goes by the name of the model where it sees "phi3" in it, and expects a token that ours has not
    return save_model(name, tmp_path / name.replace("phi3", "ph3"), torch.bfloat16)


def prompt_of(length: int) -> list[int]:
    return [int(token) for token in np.random.RandomState(3).randint(3, 1700, length)]


@pytest.mark.parametrize("name", [*MODELS, *VARIANTS])
def test_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    base, prompt = save(name, tmp_path), prompt_of(PROMPT)
    tokens, logs = expected(base, prompt)
    # the long factors hold from the first token on where the context is longer than the original one
    context = models.LONG_ROPE["original_max_position_embeddings"] if name == "phi3_long" else 512
    for file in to_gguf(base, tmp_path / "made", "F32", "BF16"):
        assert_same(file, prompt, tokens, logs, context=context)


@pytest.mark.parametrize("name", ["llama3", "llama_yarn", "phi3_long"])
def test_a_text_longer_than_the_original_context_is_read_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    base, prompt = save(name, tmp_path), prompt_of(140)
    tokens, logs = expected(base, prompt)
    (file,) = to_gguf(base, tmp_path / "made", "F32")
    assert_same(file, prompt, tokens, logs)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ("gemma3", {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar"),
        ("llama", {"hidden_act": "relu"}, "hidden_act"),
        ("falcon_multi_query", {"alibi": True}, "alibi"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_without_a_word_is_refused(
    name: str, changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    base = save(name, tmp_path)
    models.change_config(base, changes)
    with pytest.raises(BaseError, match=r"llama\.cpp would compute something else") as refusal:
        prepare(str(base), [], Options(gguf=GgufOptions(("F32",))), target=tmp_path / "made")
    assert words in refusal.value.message
