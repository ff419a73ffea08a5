"""Importance matrices: sums of squared inputs, against the hidden states that the model itself gives out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ingot.errors import BaseError, OutputError, UsageError
from ingot.imatrix import compute_imatrix
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.imatrix import ImportanceMatrix, read_imatrix
from ingot.quantize.gguf.run import digest_of
from ingot.record import verify
from tests.quantize.gguf.models import save_adapter, save_model

TEXTS = [("open the door", "now"), ("close all windows", "later"), ("12 May 1999", "1999-05-12")]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "expected": e}) + "\n" for p, e in TEXTS))
    return path


def computed(name: str, samples: Path, tmp_path: Path) -> tuple[Path, ImportanceMatrix]:
    model = save_model(name, tmp_path / name, torch.float32)
    found = compute_imatrix(str(model), [str(samples)], tmp_path / "imatrix.gguf", chat=False)
    assert found.samples == len(TEXTS)
    return model, read_imatrix(found.path)


def rows_of(model: Path) -> tuple[transformers.PreTrainedModel, list[torch.Tensor]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return loaded, [tokenizer(f"{p} {e}", return_tensors="pt")["input_ids"] for p, e in TEXTS]


def test_what_a_projection_sees_is_what_its_norm_gives_out(samples: Path, tmp_path: Path) -> None:
    model, found = computed("llama", samples, tmp_path)
    loaded, rows = rows_of(model)
    total, tokens = np.zeros(256), 0
    with torch.inference_mode():
        for row in rows:
            states = loaded(input_ids=row, output_hidden_states=True).hidden_states[1]
            seen = loaded.model.layers[1].input_layernorm(states)[0].double().numpy()
            total, tokens = total + (seen**2).sum(axis=0), tokens + len(seen)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found.values[f"blk.1.{name}.weight"], total / tokens, rtol=1e-5)
    assert len(found.values) == 2 * 7
    assert found.datasets == ("samples.jsonl",)


def test_every_expert_has_its_own_sums(samples: Path, tmp_path: Path) -> None:
    model, found = computed("mixtral", samples, tmp_path)
    loaded, rows = rows_of(model)
    squares, counts = np.zeros((4, 256)), np.zeros(4)
    inner = np.zeros((4, 512))
    with torch.inference_mode():
        for row in rows:
            seen: list[torch.Tensor] = []
            experts = loaded.model.layers[0].mlp.experts
            handle = experts.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.extend(inputs))
            loaded(input_ids=row)
            handle.remove()
            states, chosen = seen[0].reshape(-1, 256), seen[1]
            for token, experts_of in zip(states, chosen, strict=True):
                for expert in experts_of.tolist():
                    squares[expert] += token.double().numpy() ** 2
                    counts[expert] += 1
                    gate, up = (token @ experts.gate_up_proj[expert].T).chunk(2)
                    inner[expert] += (torch.nn.functional.silu(gate) * up).double().numpy() ** 2
    assert counts.min() > 0
    ours = found.of("blk.0.ffn_gate_exps.weight", 4, 256)
    np.testing.assert_allclose(ours, squares / counts[:, None], rtol=1e-5)
    np.testing.assert_allclose(found.of("blk.0.ffn_down_exps.weight", 4, 512), inner / counts[:, None], rtol=1e-4)


def test_a_file_made_with_it_says_so_and_can_be_computed_anew(samples: Path, tmp_path: Path) -> None:
    model, _ = computed("llama", samples, tmp_path)
    imatrix, target = tmp_path / "imatrix.gguf", tmp_path / "made"
    options = Options(gguf=GgufOptions(("IQ4_XS",), imatrix_sha256=digest_of(imatrix)))
    with prepare(str(model), [], options, target=target, imatrix=imatrix) as job:
        job.run()
    assert verify(target, depth="against-inputs", base=str(model), imatrix=imatrix).ok
    with pytest.raises(UsageError, match="needs the importance matrix"):
        verify(target, depth="against-inputs", base=str(model))


def test_what_cannot_be_computed_is_refused(samples: Path, tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "base", torch.float32)
    adapter = save_adapter("llama", model, tmp_path / "adapter")
    target = tmp_path / "out.gguf"
    with pytest.raises(BaseError, match="merged weights"):
        compute_imatrix(f"{model}+{adapter}", [str(samples)], target)
    with pytest.raises(UsageError):
        compute_imatrix(str(model), [str(tmp_path / "none.jsonl")], target)
    target.write_bytes(b"")
    with pytest.raises(OutputError, match="exists"):
        compute_imatrix(str(model), [str(samples)], target)
