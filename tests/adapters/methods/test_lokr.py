"""LoKr against PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge
from tests.adapters.methods.layers import check_layers
from tests.adapters.toys import Convolutions

LAYERS = ["q_proj", "k_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "both whole": {"r": 8, "alpha": 6},
    "right in parts": {"r": 1},
    "both in parts": {"r": 1, "decompose_both": True},
    "a factor of the sides": {"r": 2, "alpha": 3, "decompose_factor": 8},
    "a factor that divides no side": {"r": 2, "decompose_factor": 5, "decompose_both": True},
    "patterns": {"r": 8, "rank_pattern": {"down_proj": 1}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
    "as LyCORIS starts": {"r": 8, "init_weights": "lycoris"},
}


@pytest.fixture
def plain_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.kron refuses the strides that PEFT's einsum gives the core of a Conv1d: same values in plain ones."""
    original = peft.tuners.lokr.layer.make_kron
    monkeypatch.setattr(
        peft.tuners.lokr.layer,
        "make_kron",
        lambda w1, w2, scale=1.0: original(w1, w2.flatten().view(w2.shape), scale),
    )


@pytest.mark.parametrize("case", CASES)
def test_linear_layers_are_pefts(case: str, judge: Judge) -> None:
    judge.check("llama", peft.LoKrConfig(target_modules=LAYERS, **CASES[case]))


def test_the_convolutions_of_a_model_are_pefts(judge: Judge, plain_strides: None) -> None:
    judge.check("whisper", peft.LoKrConfig(r=1, target_modules=["conv1", "conv2"], use_effective_conv2d=True))
    judge.check("vit", peft.LoKrConfig(r=8, alpha=3, target_modules=["projection"]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("cores", [False, True], ids=["flat", "cores"])
@pytest.mark.parametrize("both", [False, True], ids=["left whole", "both in parts"])
def test_convolutions_are_pefts(
    groups: int, rank: int, cores: bool, both: bool, tmp_path: Path, plain_strides: None
) -> None:
    config = peft.LoKrConfig(
        r=rank, alpha=3, target_modules=["conv1", "conv2", "point"], use_effective_conv2d=cores, decompose_both=both
    )
    check_layers(Convolutions(groups), config, tmp_path)
