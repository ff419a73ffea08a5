"""WaveFT against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest
import torch
from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
from peft.tuners.waveft.layer import WaveFTLinear

from ingot.adapters.methods.waveft import WAVELETS
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import FLAG, NUMBER, POSITIVE, check_refusals

LAYERS = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("family", WAVELETS)
def test_linear_layers_are_pefts(judge: Judge, family: str) -> None:
    judge.check("llama", peft.WaveFTConfig(n_frequency=20, wavelet_family=family, target_modules=LAYERS))


@pytest.mark.parametrize("family", sorted(WAVELET_REDUCTIONS.keys() - set(WAVELETS)))
def test_what_is_refused_cannot_run_in_peft(family: str) -> None:
    layer = WaveFTLinear(torch.nn.Linear(90, 70), "default", peft.WaveFTConfig(wavelet_family=family), 20)
    with pytest.raises((ValueError, RuntimeError)):
        layer(torch.zeros(2, 90))


@pytest.mark.parametrize("sides", [(7, 5), (6, 5), (5, 8)])
@pytest.mark.parametrize("family", ["db1", "db2", "sym5", "coif4"])
def test_odd_sides_are_pefts(family: str, sides: tuple[int, int]) -> None:
    from ingot.adapters.factor import Factor
    from ingot.adapters.methods.waveft import Wavelets, WavePositions
    from ingot.formats.tensor_ref import TensorRef

    config = peft.WaveFTConfig(wavelet_family=family, init_weights=False, scaling=1.0)
    layer = WaveFTLinear(torch.nn.Linear(sides[1], sides[0]), "default", config, 20)
    spectrum = layer.waveft_spectrum["default"].detach()
    factor = Factor(0, TensorRef("s", "F32", (20,), "f", 0, 80))
    ours = Wavelets(factor, WavePositions(*sides, 20, 777), family).make(lambda _: spectrum)(0, sides[0])
    torch.testing.assert_close(ours, layer.get_delta_weight("default").detach())


def test_the_coefficients_themselves_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.WaveFTConfig(n_frequency=20, use_idwt=False, target_modules=LAYERS))


def test_the_pattern_of_counts_is_pefts(judge: Judge) -> None:
    pattern = {"model.layers.1.mlp.down_proj": 9, "0.self_attn.k_proj": 7, "q_proj|v_proj": 11, "layers": 13}
    judge.check("llama", peft.WaveFTConfig(n_frequency=20, n_frequency_pattern=pattern, target_modules=LAYERS))


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_shares_by_size_are_pefts(judge: Judge, model: str) -> None:
    layers = LAYERS if model == "llama" else ["c_attn", "c_proj"]
    config = peft.WaveFTConfig(n_frequency=20, proportional_parameters=True, target_modules=layers)
    judge.check(model, config)


def test_conv1d_layers_of_gpt2_are_pefts(judge: Judge) -> None:
    judge.check("gpt2", peft.WaveFTConfig(n_frequency=30, random_loc_seed=3, target_modules=["c_attn", "c_proj"]))


@pytest.mark.parametrize("family", ["db1", "db6", "coif4"])
def test_cuts_do_not_matter(judge: Judge, family: str) -> None:
    check_cuts(judge, "llama", peft.WaveFTConfig(n_frequency=30, wavelet_family=family, target_modules=LAYERS))
    check_cuts(judge, "llama", peft.WaveFTConfig(n_frequency=30, use_idwt=False, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    wrong = {
        "n_frequency": (*POSITIVE, 1.5), "n_frequency_pattern": ([1], "k_proj", {"k_proj": 0}, {"k_proj": "1"}),
        "scaling": NUMBER, "random_loc_seed": (*NUMBER, -1, 1.5, None), "use_idwt": FLAG,
        "proportional_parameters": FLAG, "wavelet_family": (None, 1, "haar", "db11", "coif5"),
    }  # fmt: skip
    sound = check_refusals(judge, "llama", peft.WaveFTConfig(n_frequency=20, target_modules=["k_proj"]), wrong)
    sound.refusal(settings={"n_frequency": 19})
    sound.refusal(settings={"n_frequency_pattern": {"(": 1}})
