"""No change of a weight depends on how its rows are cut, or looks at more of the weight than it says."""

from __future__ import annotations

from collections.abc import Callable

import peft
import pytest

from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.test_wrong_inputs import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_of_a_matrix_equal_the_whole(name: str, judge: Judge) -> None:
    check_cuts(judge, "llama_bias", CONFIGS[name]())


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("whisper", lambda: peft.LoHaConfig(r=3, target_modules=["conv1"], use_effective_conv2d=True)),
        ("whisper", lambda: peft.LoKrConfig(r=8, target_modules=["conv1"])),
        ("vit", lambda: peft.LoKrConfig(r=1, target_modules=["projection"], use_effective_conv2d=True)),
        ("qwen2_vl", lambda: peft.IA3Config(target_modules=["proj"], feedforward_modules=["proj"])),
        ("gpt2", lambda: peft.HiraConfig(r=3, target_modules=["c_attn", "wte"])),
        ("gpt2", lambda: peft.AdaLoraConfig(init_r=3, total_step=10, target_modules=["c_attn"])),
    ],
    ids=["LoHa with cores", "LoKr on a stack", "LoKr with a core", "IA3 on Conv3d", "HiRA turned", "AdaLoRA turned"],
)
def test_so_do_those_of_a_convolution_and_of_a_transposed_matrix(
    model: str, config: Callable[[], peft.PeftConfig], judge: Judge
) -> None:
    check_cuts(judge, model, config())
