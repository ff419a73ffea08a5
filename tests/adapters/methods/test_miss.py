"""MiSS against PEFT's own merge."""

from __future__ import annotations

from typing import Any

import peft
import pytest

from tests.adapters.methods.judge import Judge


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4},
        {"r": 5},
        {"r": 4, "init_weights": False},
        {"r": 4, "init_weights": "mini", "mini_r": 8},
        {"r": 5, "init_weights": "mini", "mini_r": 2},
        {"r": 4, "init_weights": "bat"},
        {"r": 8, "init_weights": "bat"},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(settings: dict[str, Any], judge: Judge) -> None:
    judge.check("llama", peft.MissConfig(target_modules=["q_proj", "k_proj", "down_proj"], **settings))
