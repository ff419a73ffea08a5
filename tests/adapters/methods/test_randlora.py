"""RandLoRA against PEFT's own merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.redrawn import check_rounding
from tests.adapters.methods.wrong import FLAG, INTEGER, NUMBER, POSITIVE, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, assert_close, merged, on_disk, write_adapter

#: Square, wider than high, higher than wide: of each, one that the rank divides and one that it does not.
LAYERS = ["q_proj", "k_proj", "up_proj", "down_proj"]
KINDS: list[dict[str, Any]] = [{}, {"sparse": True}, {"very_sparse": True}]
pytestmark = pytest.mark.filterwarnings("ignore:Specified to not save")


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("saved", [True, False])
def test_linear_layers_are_pefts(judge: Judge, saved: bool, kind: dict[str, Any]) -> None:
    config = peft.RandLoraConfig(
        r=3, randlora_alpha=5, save_projection=saved, projection_prng_key=5, target_modules=LAYERS, **kind
    )
    judge.check("llama", config)


@pytest.mark.parametrize("rank", [4, 20])
def test_ranks_that_divide_a_side_or_are_larger_are_pefts(judge: Judge, rank: int) -> None:
    judge.check("llama", peft.RandLoraConfig(r=rank, target_modules=LAYERS))


@pytest.mark.parametrize("saved", [True, False])
def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge, saved: bool) -> None:
    judge.check("gpt2", peft.RandLoraConfig(r=5, save_projection=saved, target_modules=["c_attn", "c_proj"]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_bases_are_drawn_in_the_bases_dtype(judge: Judge, kind: dict[str, Any]) -> None:
    check_rounding(judge, peft.RandLoraConfig(r=3, save_projection=False, target_modules=LAYERS, **kind))


def test_the_copies_that_layers_have_of_the_shared_bases_do_not_matter(judge: Judge) -> None:
    """PEFT saves one beside every layer, and loads the shared tensor last."""
    sound = spoiled(judge, "llama", peft.RandLoraConfig(r=3, target_modules=LAYERS))
    tensors = adapter_tensors(sound.adapter)
    copies = [name for name in tensors if name.startswith("base_model.model.") and name[-2:] in ("_A", "_B")]
    assert len(copies) == 2 * 8
    other = {**tensors, **{name: tensors[name] + 1 for name in copies}}
    changed = write_adapter(sound.adapter.with_name("randlora-copies"), other, sound.config)
    bare = write_adapter(
        sound.adapter.with_name("randlora-bare"), {n: t for n, t in tensors.items() if n not in copies}, sound.config
    )
    theirs = on_disk(judge.by_peft("llama", changed))
    for adapter in (sound.adapter, changed, bare):
        plan = merged(sound.base, adapter, adapter / "ours")
        assert sum("copy of the bases" in reason for reason in plan.explained.values()) in (0, len(copies))
        assert_close(on_disk(adapter / "ours"), theirs, 1e-5)


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.RandLoraConfig(r=3, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.RandLoraConfig(r=3, target_modules=["k_proj"], save_projection=False)
    wrong = {"projection_prng_key": (*NUMBER, 1.5, -1), "sparse": FLAG, "very_sparse": FLAG, "r": INTEGER}
    sound = check_refusals(judge, "llama", config, wrong)
    assert "all layers share is missing" in str(sound.refusal(settings={"save_projection": True}))
    sound = spoiled(judge, "llama", peft.RandLoraConfig(r=3, target_modules=["k_proj"]))
    for value in POSITIVE:
        assert "`randlora_alpha`" in str(sound.refusal(settings={"randlora_alpha": value}))
    tensors = adapter_tensors(sound.adapter)
    for name in ("base_model.randlora_A", "base_model.randlora_B"):
        assert name in str(sound.refusal({key: tensor for key, tensor in tensors.items() if key != name}))
        assert name in str(sound.refusal({**tensors, name: tensors[name][..., :2]}))
