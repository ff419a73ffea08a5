"""A model that is streamed layer by layer gives the logits of the whole one, bit by bit, in memory that is bounded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.validate.model import Unsupported
from ingot.validate.models.layers import Streamed, compare_layers
from ingot.validate.models.whole import Whole
from ingot.validate.predictions import rows as row_room
from ingot.validate.predictions.logits import spooled
from ingot.validate.predictions.rows import Rows
from tests.validate.makers import ROWS, ignore, located, save_adapter, save_base

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
SAMPLES = Rows(tuple(range(len(ROWS))), tuple(tuple(row) for row in ROWS))

MODELS = (
    "llama", "llama_tied", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox", "mixtral", "qwen3_moe",
    "deepseek_v3", "gpt_oss", "llama4_text", "gemma3",
)  # fmt: skip
ADAPTERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], "use_dora": True}),
    ("llama", {"target_modules": ["q_proj"], "vocabulary": 70}),
    ("llama_tied", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5]}}),
    ("llama_bias", {"target_modules": ["q_proj"], "bias": "all"}),
    ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    ("gpt2", {"target_modules": ["c_attn", "c_fc"]}),
    ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj",
                                                                      "mlp.experts.down_proj"]}),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several batches go through each layer, one of them padded."""
    monkeypatch.setattr(row_room, "BATCH_TOKENS", 40)


def logits_of(kind: type[Whole] | type[Streamed], spec: object) -> list[torch.Tensor]:
    model = kind.open(located(spec))
    try:
        return list(model.logits(ROWS, ignore))
    finally:
        model.close()


def assert_same(spec: object) -> None:
    whole, streamed = logits_of(Whole, spec), logits_of(Streamed, spec)
    assert len({logits.shape for logits in whole}) > 1
    for one, other in zip(whole, streamed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("model", MODELS)
def test_the_logits_are_those_of_the_whole_model(tmp_path: Path, model: str) -> None:
    assert_same(save_base(tmp_path / "base", model))


@pytest.mark.parametrize("model", ["llama", "gemma3_text", "qwen3_moe", "deepseek_v3"])
def test_so_they_are_in_bfloat16(tmp_path: Path, model: str) -> None:
    assert_same(save_base(tmp_path / "base", model, torch.bfloat16))


@pytest.mark.parametrize(("model", "options"), ADAPTERS)
def test_so_they_are_with_an_adapter(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    save_base(tmp_path / "base", model, torch.bfloat16)
    save_adapter(tmp_path / "adapter", model, **options)
    assert_same(f"{tmp_path}/base+{tmp_path}/adapter")


def test_so_they_are_with_several_weighted_adapters(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    for seed, name in enumerate(("one", "two")):
        save_adapter(tmp_path / name, "llama", seed, target_modules=["q_proj", "down_proj"])
    assert_same(f"{tmp_path}/base+{tmp_path}/one=0.7+{tmp_path}/two=-0.2")


def test_the_depth_shows_the_layer_where_the_models_part(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    shutil.copytree(tmp_path / "base", tmp_path / "changed")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 3.0
    save_file(tensors, tmp_path / "changed" / "model.safetensors", {"format": "pt"})
    reference, candidate = (Streamed.open(located(tmp_path / name)) for name in ("base", "changed"))
    steps: list[int] = []
    found, depth = compare_layers(reference, candidate, SAMPLES, steps.append)
    again, _ = compare_layers(reference, candidate, SAMPLES, ignore)
    reference.close()
    candidate.close()
    assert [one.layer for one in depth] == [-1, 0, 1]
    assert [one.distance for one in depth[:2]] == [0.0, 0.0]
    assert depth[2].distance == pytest.approx(_distance(tmp_path), rel=1e-5)
    assert sum(steps) == 1 + reference.depth
    assert again == found
    whole = Whole.open(located(tmp_path / "base"))
    changed = Whole.open(located(tmp_path / "changed"))
    with spooled(whole, SAMPLES, vocabulary=67, directory=tmp_path, progress=ignore) as spool:
        assert spool.compare(changed, ignore) == found
    whole.close()
    changed.close()


def _distance(path: Path) -> float:
    """Of the hidden states after the last layer, by transformers, row by row in float64."""
    from transformers import AutoModelForCausalLM

    states = []
    for name in ("base", "changed"):
        model: Any = AutoModelForCausalLM.from_pretrained(path / name, dtype=torch.float64)
        kept: list[torch.Tensor] = []
        model.model.norm.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0][0]))
        for row in ROWS:
            with torch.no_grad():
                model(torch.tensor([row]))
        states.append(torch.cat(kept))
    return float((states[1] - states[0]).norm() / states[0].norm())


def test_no_thread_and_no_weight_is_left_when_it_is_given_up(tmp_path: Path) -> None:
    model = Streamed.open(located(save_base(tmp_path / "base", "llama")))
    before = threading.active_count()
    march = model.march([ROWS[:2], ROWS[2:]])
    march.next_layer()
    march.next_layer()
    assert threading.active_count() == before + 2
    march.close()
    assert threading.active_count() == before
    assert all(parameter.is_meta for parameter in model._model.parameters())
    model.close()


def test_answers_are_not_given(tmp_path: Path) -> None:
    model = Streamed.open(located(save_base(tmp_path / "base", "llama")))
    with pytest.raises(Unsupported, match="whole model in memory"):
        model.answers(["a"], chat=False, new_tokens=1)
    model.close()


def test_what_cannot_be_streamed_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="encoder-decoder"):
        Streamed.open(located(save_base(tmp_path / "t5", "t5")))
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "pissa", "llama", target_modules=["q_proj"], init_lora_weights="pissa")
    with pytest.raises(Unsupported, match="pissa changes the base weights"):
        Streamed.open(located(f"{tmp_path}/base+{tmp_path}/pissa"))


def test_models_of_other_depth_are_not_compared(tmp_path: Path) -> None:
    llama = Streamed.open(located(save_base(tmp_path / "llama", "llama")))
    other = Streamed.open(located(save_base(tmp_path / "other", "qwen2")))
    del other._model.model.layers[1]
    other._model.config.num_hidden_layers = 1
    with pytest.raises(Unsupported, match="2 layers, the candidate 1"):
        compare_layers(llama, other, SAMPLES, ignore)
    llama.close()
    other.close()


_SCRIPT = """
import re, sys, torch
torch.set_num_threads(2)
import transformers, accelerate, peft
from transformers import AutoTokenizer, LlamaForCausalLM
from tests.validate.makers import ignore, located
from ingot.validate.models.layers import Streamed, compare_layers
from ingot.validate.predictions.rows import Rows

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

models = [Streamed.open(located(sys.argv[1])) for _ in range(2)]
before = status("VmRSS")
ids = tuple(tuple((7 * at + row) % 2000 for at in range(64)) for row in range(16))
_, depth = compare_layers(*models, Rows(tuple(range(16)), ids), ignore)
assert all(one.distance == 0 for one in depth)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_hold_the_model(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.validate.makers import copy_tokenizer

    config = LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=2048, num_hidden_layers=24, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base", max_shard_size="100MB")
    copy_tokenizer(tmp_path / "base")
    size = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    run = subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path / "base")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    growth = int(re.findall(r"\d+", run.stdout)[-1])
    assert size > 400e6
    assert growth < size / 3, f"{growth:,} bytes for two models of {size:,} bytes each"
