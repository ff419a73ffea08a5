"""One tensor of an adapter deleted, renamed, added or reshaped: refused, by name, with nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from ingot.errors import IngotError
from tests.oracle.cases import EVERYWHERE, EXPERT_CASES, VARIANTS, Case
from tests.oracle.reference import PREFIX, Workshop, adapter_tensors, merged, plan_of, write_adapter

QUICK = {
    "llama: dora and a saved norm",
    "llama: rslora, rank and alpha patterns",
    "gpt2: dora and a saved norm",
    "mixtral: gate_up_proj and down_proj",
    "gpt_oss: gate_up_proj alone",
    "qwen3_moe: down_proj alone",
    "llama_bias: lora_bias, bias all",
    "llama: token rows of both embeddings",
    "llama_tied: token rows",
    "llama: resized",
    "llama: resized, token rows",
    "llama: resized, embeddings targeted",
    "llama_tied: resized",
    "llama: classifier",
    "whisper: convolutions",
    "llama: pissa",
    "llama: BD-LoRA",
    "llava: dora and a saved norm",
    "llama: lm_head and embed_tokens saved",
    "llama: resized, embeddings saved",
    "gpt_oss: bias all",
}
ALL = [*EVERYWHERE, *EXPERT_CASES, *VARIANTS]
CASES = [pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in ALL]
Tensors = dict[str, torch.Tensor]
#: Copies of what is known without them: a tied head beside its resized embedding, an embedding of the base beside its
#: LoRA layer (PEFT's `save_embedding_layers=False` leaves them out). Without one the merge is the same; see below.
_HEAD, _EMBEDDING = f"{PREFIX}lm_head.base_layer.weight", f"{PREFIX}model.embed_tokens.base_layer.weight"
COPIES = {
    "llama_tied: resized": {f"{PREFIX}lm_head.weight"},
    "gemma3_text: resized": {f"{PREFIX}lm_head.weight"},
    "gpt2: resized": {f"{PREFIX}lm_head.weight"},
    "llama: embeddings targeted": {_HEAD, _EMBEDDING},
    "llama: dora on embeddings": {_HEAD, _EMBEDDING},
}
#: Nothing but this tensor tells how many labels a new head has.
NEW_HEAD = re.compile(r"\.score\.(original_module\.)?weight$")


def mutations(tensors: Mapping[str, torch.Tensor], *, every: bool) -> Iterator[tuple[str, str, Tensors]]:
    """(what was done, the tensor, the file's tensors after it). `every` tensor, or one of each kind."""
    kinds: dict[str, str] = {}
    for name in tensors:
        kinds.setdefault("".join(c for c in name if not c.isdigit()), name)
    for name in tensors if every else kinds.values():
        tensor, rest = tensors[name], {key: value for key, value in tensors.items() if key != name}
        yield "deleted", name, dict(rest)
        path, role = split(name)
        yield "its module renamed", name, {**rest, f"{path}x{role}": tensor}
        yield "its role renamed", name, {**rest, f"{name}x": tensor}
        yield "added", f"{PREFIX}another{role}", {**tensors, f"{PREFIX}another{role}": tensor}
        yield "a row more", name, {**rest, name: torch.cat([tensor, tensor[:1]])}
        if tensor.ndim > 1:
            yield "a column less", name, {**rest, name: tensor[:, :-1]}
            yield "flattened", name, {**rest, name: tensor.flatten()}


def split(name: str) -> tuple[str, str]:
    """The module's path and what follows it: `.lora_A.weight`, `.weight`, `.token_adapter.base_layer.weight` …"""
    match = re.fullmatch(
        r"(.+?)((?:\.(?:lora_|token_adapter|base_layer|modules_to_save|original_module).*)|\.[^.]+)", name
    )
    assert match is not None
    return match[1], match[2]


@pytest.mark.parametrize("case", CASES)
def test_one_wrong_tensor_is_refused_by_its_name(
    case: Case, workshop: Workshop, tmp_path: Path, target: Path, subtests: pytest.Subtests
) -> None:
    base, trained = workshop.base(case.model), workshop.adapter(case)
    config = json.loads((trained / "adapter_config.json").read_text())
    plan = plan_of(base, trained, target)
    harmless = {key.partition(":")[2] for key in plan.explained} | COPIES.get(case.name, set())
    for number, (what, name, tensors) in enumerate(mutations(adapter_tensors(trained), every=case.name not in QUICK)):
        if (name in harmless and what == "deleted") or (what == "a row more" and NEW_HEAD.search(name)):
            continue
        with subtests.test(f"{name} {what}"):
            adapter = write_adapter(tmp_path / str(number), tensors, config)
            with pytest.raises(IngotError) as caught:
                plan_of(base, adapter, target)
            assert caught.value.exit_code in (11, 12)
            said = f"{caught.value.message} {caught.value.hint}"
            path, role = split(name)
            named = path.removeprefix(PREFIX) in said
            assert named or (".token_adapter" in role and role in said), said  # a list of tokens names no module
            assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("case", [case for case in ALL if case.name in COPIES], ids=lambda case: case.name)
def test_a_copy_that_may_be_missing_changes_no_byte(
    case: Case, workshop: Workshop, tmp_path: Path, target: Path
) -> None:
    base, trained = workshop.base(case.model), workshop.adapter(case)
    config = json.loads((trained / "adapter_config.json").read_text())
    merged(base, trained, target)
    for number, missing in enumerate(COPIES[case.name]):
        tensors = {name: tensor for name, tensor in adapter_tensors(trained).items() if name != missing}
        adapter = write_adapter(tmp_path / str(number), tensors, config)
        merged(base, adapter, target.with_name(f"without {number}"))
        for file in ("model.safetensors", "config.json"):
            assert (target / file).read_bytes() == (target.with_name(f"without {number}") / file).read_bytes()
