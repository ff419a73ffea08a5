"""One tensor of an adapter deleted, renamed, added or reshaped: refused, by name, with nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from ingot.errors import IngotError
from tests.oracle.cases import EVERYWHERE, EXPERT_CASES, VARIANTS, Case
from tests.oracle.reference import PREFIX, Workshop, adapter_tensors, plan_of, write_adapter

QUICK = {
    "llama: dora and a saved norm", "llama: rslora, rank and alpha patterns", "gpt2: dora and a saved norm",
    "mixtral: gate_up_proj and down_proj", "gpt_oss: gate_up_proj alone", "qwen3_moe: down_proj alone",
    "llama_bias: lora_bias, bias all", "llama: token rows of both embeddings", "llama_tied: token rows",
    "llama: resized", "llama: resized, token rows", "llama: resized, embeddings targeted", "llama_tied: resized",
    "llama: classifier", "whisper: convolutions", "llama: pissa", "llama: BD-LoRA", "llava: dora and a saved norm",
    "llama: lm_head and embed_tokens saved", "llama: resized, embeddings saved", "gpt_oss: bias all",
}  # fmt: skip
ALL = [*EVERYWHERE, *EXPERT_CASES, *VARIANTS]
CASES = [
    pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in ALL
]  # fmt: skip
Tensors = dict[str, torch.Tensor]


def mutations(tensors: Mapping[str, torch.Tensor], *, every: bool) -> Iterator[tuple[str, str, Tensors]]:
    """(what was done, the tensor, the file's tensors after it). `every` tensor, or one of each kind."""
    kinds: dict[str, str] = {}
    for name in tensors:
        kinds.setdefault("".join(c for c in name if not c.isdigit()), name)
    for name in tensors if every else kinds.values():
        tensor, rest = tensors[name], {key: value for key, value in tensors.items() if key != name}
        yield "deleted", name, dict(rest)
        path, _, leaf = name.rpartition(".")
        yield "its module renamed", name, {**rest, f"{path}x.{leaf}": tensor}
        yield "its leaf renamed", name, {**rest, f"{name}x": tensor}
        yield "added under another name", f"{PREFIX}another.module.{leaf}", {
            **tensors, f"{PREFIX}another.module.{leaf}": tensor
        }  # fmt: skip
        yield "a row more", name, {**rest, name: torch.cat([tensor, tensor[:1]])}
        if tensor.ndim > 1:
            yield "a column less", name, {**rest, name: tensor[:, :-1]}
            yield "flattened", name, {**rest, name: tensor.flatten()}


def parts(name: str) -> set[str]:
    """What a message may call a tensor: its own name, or its module's path."""
    short = name.removeprefix(PREFIX)
    path = short
    for marker in (".lora_", ".token_adapter", ".base_layer", ".modules_to_save", ".original_module"):
        path = path.partition(marker)[0]
    return {short, path, short.rpartition(".")[0]}


@pytest.mark.parametrize("case", CASES)
def test_one_wrong_tensor_is_refused_by_its_name(
    case: Case, workshop: Workshop, tmp_path: Path, target: Path, subtests: pytest.Subtests
) -> None:
    base, trained = workshop.base(case.model), workshop.adapter(case)
    config = json.loads((trained / "adapter_config.json").read_text())
    unused = {key.partition(":")[2] for key in plan_of(base, trained, target).explained}
    for number, (what, name, tensors) in enumerate(mutations(adapter_tensors(trained), every=case.name not in QUICK)):
        if name in unused and what == "deleted":
            continue  # a copy that nothing reads: without it the merge is the same
        with subtests.test(f"{name} {what}"):
            adapter = write_adapter(tmp_path / str(number), tensors, config)
            with pytest.raises(IngotError) as caught:
                plan_of(base, adapter, target)
            assert caught.value.exit_code in (11, 12)
            said = f"{caught.value.message} {caught.value.hint}"
            assert any(part in said for part in parts(name)), said
            assert list(target.parent.iterdir()) == []
