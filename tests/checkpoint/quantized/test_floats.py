"""FP8, MXFP4 and NVFP4: float64 arithmetic of the definition, and the owner's own functions where there are some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ingot.errors import BaseError
from tests.checkpoint.quantized.folders import shown, write

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(torch.float8_e4m3fn)


def scales(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) * 0.01 + 1e-4


def spread(grid: torch.Tensor, shape: tuple[int, ...], height: int, width: int) -> torch.Tensor:
    return grid.repeat_interleave(height, -2).repeat_interleave(width, -1)[..., : shape[-2], : shape[-1]]


@pytest.mark.parametrize("shape", [(256, 384), (192, 256), (300, 200), (576, 512), (64, 70), (3, 192, 256)])
def test_deepseek_blocks_are_right_on_every_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight = numbers(*shape)
    grid = scales(*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128))
    expected = (weight.float() * spread(grid, shape, 128, 128)).to(torch.bfloat16)
    parts = {"a.weight": weight, "a.weight_scale_inv": grid}
    found = shown(write(tmp_path / "base", parts, {**FP8, "weight_block_size": [128, 128]}))["a.weight"]
    assert torch.equal(found, expected)


def test_deepseek_blocks_are_what_compressed_tensors_makes_of_them(tmp_path: Path) -> None:
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters")
    parts = {"a.weight": numbers(300, 200), "a.weight_scale_inv": scales(3, 2)}
    found = shown(write(tmp_path / "base", parts, {**FP8, "weight_block_size": [128, 128]}))["a.weight"]
    assert torch.equal(found, converters.FP8BlockDequantizer().process(dict(parts))["a.weight"])


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (40, 1), (1, 1)])
def test_one_scale_a_tensor_or_a_row(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    weight, scale = numbers(40, 50), scales(*shape)
    expected = (weight.float() * scale).to(torch.bfloat16)
    parts = {"a.weight": weight, f"a.{name}": scale, "a.input_scale": torch.ones(())}
    assert torch.equal(shown(write(tmp_path / "base", parts, FP8))["a.weight"], expected)


def test_mxfp8_has_exponents_for_scales(tmp_path: Path) -> None:
    weight, exponents = numbers(40, 64), torch.randint(100, 130, (40, 2), dtype=torch.uint8)
    expected = (weight.double() * 2.0 ** (exponents.double() - 127).repeat_interleave(32, 1)).to(torch.bfloat16)
    said = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
    for stored in (exponents, exponents.view(torch.float8_e8m0fnu)):
        parts = {"a.weight": weight, "a.weight_scale_inv": stored}
        assert torch.equal(shown(write(tmp_path / str(stored.dtype), parts, said))["a.weight"], expected)


def test_bare_parameters_of_experts_have_their_scales_beside_them(tmp_path: Path) -> None:
    weight, grid = numbers(3, 96, 64), scales(3, 3, 2)
    parts = {"mlp.experts.down_proj": weight, "mlp.experts.down_proj_scale_inv": grid}
    found = shown(write(tmp_path / "base", parts, {**FP8, "weight_block_size": [32, 32]}))
    expected = (weight.float() * spread(grid, (96, 64), 32, 32)).to(torch.bfloat16)
    assert torch.equal(found["mlp.experts.down_proj"], expected)


def test_gpt_oss_experts_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 20, 4, 16), generator=generator, dtype=torch.uint8)
    exponents = torch.randint(110, 140, (3, 20, 4), generator=generator, dtype=torch.uint8)
    parts = {"mlp.experts.down_proj_blocks": blocks, "mlp.experts.down_proj_scales": exponents}
    found = shown(write(tmp_path / "base", parts, {"quant_method": "mxfp4"}), pieces=11)["mlp.experts.down_proj"]
    assert found.shape == (3, 128, 20)
    assert torch.equal(found, convert_moe_packed_tensors(blocks, exponents))


def test_nvfp4_of_modelopt_multiplies_its_two_scales_in_float32(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = torch.randint(0, 256, (24, 40), generator=generator, dtype=torch.uint8)
    scale, second = numbers(24, 5).abs().float().clamp(min=0.1).to(torch.float8_e4m3fn), torch.tensor(0.0123)
    values = E2M1[torch.stack([packed & 15, packed >> 4], -1).long()].view(24, 80).float()
    expected = (values * (scale.float() * second).repeat_interleave(16, 1)).to(torch.bfloat16)
    parts = {"a.weight": packed, "a.weight_scale": scale, "a.weight_scale_2": second, "a.input_scale": torch.ones(()),
             "k_proj.k_scale": torch.ones(())}  # fmt: skip
    said = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    assert torch.equal(shown(write(tmp_path / "base", parts, said))["a.weight"], expected)


def test_fp8_of_modelopt_has_one_scale_a_tensor(tmp_path: Path) -> None:
    parts = {"a.weight": numbers(24, 40), "a.weight_scale": torch.tensor(0.0123), "a.input_scale": torch.ones(())}
    expected = (parts["a.weight"].float() * 0.0123).to(torch.bfloat16)
    said = {"quant_method": "modelopt", "quant_algo": "FP8"}
    assert torch.equal(shown(write(tmp_path / "base", parts, said))["a.weight"], expected)


# -- what is wrong ---------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(BaseError) as error:
        shown(folder)
    assert error.value.exit_code == 10
    return error.value.message


def test_a_weight_without_its_scale_is_refused(tmp_path: Path) -> None:
    assert "a.weight_scale_inv" in refused(write(tmp_path / "base", {"a.weight": numbers(8, 8)}, FP8))


def test_a_scale_without_its_weight_is_refused(tmp_path: Path) -> None:
    parts = {"a.weight_scale_inv": scales(1), "b.weight": numbers(8, 8), "b.weight_scale_inv": scales(1)}
    assert "a.weight_scale_inv" in refused(write(tmp_path / "base", parts, FP8))


@pytest.mark.parametrize("size", [None, [64, 64], [128], "128x128"])
def test_a_block_that_does_not_explain_the_grid_is_a_contradiction(tmp_path: Path, size: object) -> None:
    parts = {"a.weight": numbers(300, 200), "a.weight_scale_inv": scales(3, 2)}
    assert "contradict" in refused(write(tmp_path / "base", parts, {**FP8, "weight_block_size": size}))


def test_scales_along_the_columns_are_not_taken_for_those_of_rows(tmp_path: Path) -> None:
    parts = {"a.weight": numbers(40, 40), "a.weight_scale": scales(1, 40)}
    assert "contradict" in refused(write(tmp_path / "base", parts, FP8))
    parts = {"e.gate_up_proj": numbers(3, 40, 40), "e.gate_up_proj_scale": scales(3, 1, 40)}
    assert "contradict" in refused(write(tmp_path / "stack", parts, FP8))


def test_scales_and_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    bad = scales(40, 1)
    bad[7] = float("nan")
    parts = {"a.weight": numbers(40, 50), "a.weight_scale": bad}
    assert "decodes to a NaN" in refused(write(tmp_path / "scale", parts, FP8))
    weight = numbers(40, 50)
    weight.view(torch.uint8)[3, 3] = 0x7F
    message = refused(write(tmp_path / "weight", {"a.weight": weight, "a.weight_scale": scales(40, 1)}, FP8))
    assert "element 153" in message


def test_an_exponent_of_255_of_an_expert_is_refused(tmp_path: Path) -> None:
    exponents = torch.full((2, 4, 1), 127, dtype=torch.uint8)
    exponents[1, 2, 0] = 255
    parts = {"e.down_proj_blocks": torch.zeros(2, 4, 1, 16, dtype=torch.uint8), "e.down_proj_scales": exponents}
    assert "decodes to a NaN" in refused(write(tmp_path / "base", parts, {"quant_method": "mxfp4"}))


@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", None])
def test_other_algorithms_of_modelopt_are_refused(tmp_path: Path, algorithm: str | None) -> None:
    parts = {"a.weight": numbers(8, 8), "a.weight_scale": scales(1)}
    said = {"quant_method": "modelopt", "quant_algo": algorithm}
    assert "ModelOpt" in refused(write(tmp_path / "base", parts, said))
