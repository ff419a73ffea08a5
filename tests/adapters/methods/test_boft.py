"""BOFT against PEFT's own merge. PEFT has butterflies on a GPU alone: there its block diagonal, written for CUDA, is
replaced by torch's."""

from __future__ import annotations

import json
import shutil
from typing import Any

import peft
import pytest
import torch
from peft.tuners.boft import layer as boft_layer

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, check_refusals
from tests.oracle.reference import adapter_tensors, assert_close, merged, on_disk

LAYERS = ["q_proj", "down_proj"]


class BlockDiagonal:
    """What PEFT's `FastBlockDiag` computes: [m, n, b, b] -> [m, n * b, n * b]."""

    @staticmethod
    def apply(blocks: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.block_diag(*one) for one in blocks])


@pytest.fixture(autouse=True)
def butterflies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(boft_layer, "FastBlockDiag", BlockDiagonal)


@pytest.mark.parametrize(
    "settings",
    [
        {"boft_block_size": 4},
        {"boft_block_size": 0, "boft_block_num": 2},
        {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
        {"boft_block_size": 2, "boft_n_butterfly_factor": 3},
        {"boft_block_size": 0, "boft_block_num": 4, "boft_n_butterfly_factor": 3},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(judge: Judge, settings: dict[str, Any]) -> None:
    plan = judge.check("llama", peft.BOFTConfig(target_modules=LAYERS, **settings))
    assert {placed.term.needs for op in plan.ops for placed in op.terms} == {Needs.TILE}


@pytest.mark.parametrize("factors", [1, 3])
def test_convolutions_are_pefts(judge: Judge, factors: int) -> None:
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=factors, target_modules=["projection"])
    judge.check("vit", config)


def test_convolutions_of_a_base_of_no_known_class_are_told_by_their_shape(judge: Judge) -> None:
    base, config = judge.root / "nameless", peft.BOFTConfig(boft_block_size=4, target_modules=["projection"])
    adapter = judge.adapter("vit", config, "boft-nameless")
    shutil.copytree(judge.base("vit"), base)
    (base / "config.json").write_text("{}")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "auto_mapping": None}))
    merged(base, adapter, judge.root / "nameless-ours")
    ours, theirs = on_disk(judge.root / "nameless-ours"), on_disk(judge.by_peft("vit", adapter))
    assert_close(ours, theirs)


def test_trained_biases_are_pefts(judge: Judge) -> None:
    judge.check("llama_bias", peft.BOFTConfig(boft_block_size=4, bias="boft_only", target_modules=LAYERS))


def test_an_adapter_that_peft_trained_on_a_cpu_has_one_factor_whatever_its_config_says(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: None)
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=LAYERS)
    judge.check("llama", config)


def test_cuts_do_not_matter(judge: Judge) -> None:
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=LAYERS)
    check_cuts(judge, "llama", config)


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=["q_proj"])
    sound = check_refusals(judge, "llama", config, {"boft_n_butterfly_factor": INTEGER})
    sound.refusal(settings={"boft_n_butterfly_factor": 3})
    tensors = adapter_tensors(sound.adapter)
    odd = {name: torch.zeros(2, 1, 16, 16) if name.endswith("R") else tensor for name, tensor in tensors.items()}
    assert "a multiple of 2" in str(sound.refusal(odd))
