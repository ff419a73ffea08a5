"""compressed-tensors compresses and decompresses each module by its own scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import BaseError
from tests.checkpoint.quantized.folders import shown, write

quantization = pytest.importorskip("compressed_tensors.quantization")
from compressed_tensors.compressors.base import BaseCompressor  # type: ignore[import-not-found] # noqa: E402
from compressed_tensors.quantization.utils import calculate_qparams  # type: ignore[import-not-found] # noqa: E402


def weight(rows: int = 48, columns: int = 128) -> torch.Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.05).to(torch.bfloat16)


def scheme_of(form: str, **weights: Any) -> Any:
    args = quantization.QuantizationArgs(**weights)
    return quantization.QuantizationScheme(targets=["Linear"], weights=args, format=form)


def blocks(tensor: torch.Tensor, args: Any) -> torch.Tensor:
    """The weight seen as [rows, groups, numbers that share a scale]."""
    rows, columns = tensor.shape
    if args.strategy == "tensor":
        return tensor.reshape(1, 1, -1)
    if args.strategy == "channel":
        return tensor.reshape(rows, 1, columns)
    if args.strategy == "block":
        height, width = args.block_structure
        pad = torch.nn.functional.pad(tensor, (0, -columns % width, 0, -rows % height))
        grid = pad.reshape(pad.shape[0] // height, height, pad.shape[1] // width, width)
        return grid.transpose(1, 2).flatten(2)
    return tensor.reshape(rows, -1, args.group_size)


def compressed(tensor: torch.Tensor, form: str, scheme: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The parts of module `a` and what the library decompresses them to."""
    args = scheme.weights
    seen = blocks(tensor.float(), args)
    given: dict[str, torch.Tensor] = {"weight": tensor}
    if form == "nvfp4-pack-quantized":
        given["weight_global_scale"] = (448.0 * 6.0 / tensor.abs().max().float()).reshape(1)
        scale = (given["weight_global_scale"] * seen.abs().amax(2) / 6.0).to(torch.float8_e4m3fn)
        given["weight_scale"] = scale.to(torch.bfloat16)
    elif form.startswith("mxfp"):
        top = 4 if form.startswith("mxfp4") else 256
        given["weight_scale"] = 2.0 ** torch.floor(torch.log2(seen.abs().amax(2) / top)).to(torch.bfloat16)
    else:
        scale, zero = calculate_qparams(seen.amin(2), seen.amax(2), args)
        given["weight_scale"] = scale.to(torch.bfloat16).reshape(seen.shape[:2] if args.strategy != "tensor" else (1,))
        if not args.symmetric:
            given["weight_zero_point"] = zero.to(torch.int8).reshape(given["weight_scale"].shape)
    compressor = BaseCompressor.get_value_from_registry(form)
    parts = compressor.compress(dict(given), scheme)
    expected = compressor.decompress(dict(parts), scheme)["weight"]
    return {f"a.{name}": part for name, part in parts.items()}, expected


def config(form: str, scheme: Any, **more: object) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": scheme.weights.model_dump(mode="json"), "format": form}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"], **more}  # fmt: skip


INT4: dict[str, Any] = {"num_bits": 4, "type": "int"}
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4, groups": ("pack-quantized", {**INT4, "strategy": "group", "group_size": 32}),
    "int4, groups, zero points": (
        "pack-quantized", {**INT4, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4, rows": ("pack-quantized", {**INT4, "strategy": "channel"}),
    "int4, rows, zero points": ("pack-quantized", {**INT4, "strategy": "channel", "symmetric": False}),
    "int8, groups": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 64}),
    "int2, groups": ("pack-quantized", {"num_bits": 2, "type": "int", "strategy": "group", "group_size": 64}),
    "int8, rows, plain": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "int8, tensor, plain": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}),
    "int8, rows, plain, zero points": (
        "int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    ),
    "fp8, rows": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8, tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8, blocks": (
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 48]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
         "scale_dtype": torch.float8_e4m3fn},
    ),
    "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
    "mxfp8": (
        "mxfp8-quantized",
        {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_bit_for_bit_what_compressed_tensors_decompresses(tmp_path: Path, name: str) -> None:
    form, weights = SCHEMES[name]
    scheme = scheme_of(form, **weights)
    parts, expected = compressed(weight(), form, scheme)
    found = shown(write(tmp_path / "base", parts, config(form, scheme)))["a.weight"]
    assert torch.equal(found, expected.to(torch.bfloat16))


@pytest.mark.parametrize("shape", [(192, 256), (300, 200), (129, 70)])
def test_blocks_at_the_edges_are_cut_and_not_stretched(tmp_path: Path, shape: tuple[int, int]) -> None:
    form, weights = (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    )
    scheme = scheme_of(form, **weights)
    parts, expected = compressed(weight(*shape), form, scheme)
    found = shown(write(tmp_path / "base", parts, config(form, scheme)))["a.weight"]
    assert torch.equal(found, expected.to(torch.bfloat16))


def test_groups_in_the_order_of_the_activations_are_followed(tmp_path: Path) -> None:
    form, weights = SCHEMES["int4, groups"]
    scheme = scheme_of(form, **weights)
    order = torch.arange(128, dtype=torch.int32).flip(0) // 32
    plain, _ = compressed(weight(), form, scheme)
    straight = shown(write(tmp_path / "plain", plain, config(form, scheme)))["a.weight"]
    scale = plain["a.weight_scale"]
    numbers = straight.float() / scale[:, torch.arange(128) // 32].float()
    found = shown(write(tmp_path / "base", {**plain, "a.weight_g_idx": order}, config(form, scheme)))["a.weight"]
    assert torch.equal(found, (numbers.round() * scale[:, order.long()].float()).to(torch.bfloat16))


def test_each_group_of_the_config_has_its_modules(tmp_path: Path) -> None:
    four, eight = (scheme_of(*SCHEMES[name][:1], **SCHEMES[name][1]) for name in ("int4, groups", "fp8, rows"))
    parts, expected = compressed(weight(), "pack-quantized", four)
    more, other = compressed(weight(64, 64), "float-quantized", eight)
    said = config("mixed-precision", four)
    said["config_groups"] = {
        "group_0": {"targets": ["re:.*b$"], "weights": eight.weights.model_dump(mode="json")},
        "group_1": {"targets": ["Linear"], "weights": four.weights.model_dump(mode="json")},
    }
    found = shown(write(tmp_path / "base", parts | {f"x.b{n[1:]}": part for n, part in more.items()}, said))
    assert torch.equal(found["a.weight"], expected)
    assert torch.equal(found["x.b.weight"], other)


# -- what is wrong ---------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(BaseError) as error:
        shown(folder)
    return error.value.message


def made(name: str) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    form, weights = SCHEMES[name]
    scheme = scheme_of(form, **weights)
    return compressed(weight(), form, scheme)[0], config(form, scheme)


@pytest.mark.parametrize(("name", "part"), [
    ("int4, groups", "weight_scale"), ("int4, groups", "weight_shape"), ("nvfp4", "weight_global_scale"),
    ("mxfp4", "weight_scale"),
])  # fmt: skip
def test_a_missing_part_is_named(tmp_path: Path, name: str, part: str) -> None:
    parts, said = made(name)
    del parts[f"a.{part}"]
    assert f"a.{part}" in refused(write(tmp_path / "base", parts, said))


def test_scales_of_another_grid_are_a_contradiction(tmp_path: Path) -> None:
    parts, said = made("int4, groups")
    parts["a.weight_scale"] = parts["a.weight_scale"][:, :3]
    assert "contradict" in refused(write(tmp_path / "base", parts, said))


def test_a_scheme_of_other_bits_is_a_contradiction(tmp_path: Path) -> None:
    parts, _ = made("int4, groups")
    assert "contradict" in refused(write(tmp_path / "base", parts, made("int8, groups")[1]))


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8"])
def test_an_exponent_of_255_is_refused(tmp_path: Path, name: str) -> None:
    parts, said = made(name)
    parts["a.weight_scale"][2, 1] = 255
    assert "decodes to a NaN" in refused(write(tmp_path / "base", parts, said))


def test_rotated_and_sparse_weights_are_refused(tmp_path: Path) -> None:
    parts, said = made("fp8, rows")
    assert "rotated" in refused(write(tmp_path / "r", parts, said | {"transform_config": {"config_groups": {"u": {}}}}))
    assert "sparse" in refused(
        write(tmp_path / "s", parts, said | {"sparsity_config": {"format": "sparse-24-bitmask"}})
    )


def test_scales_of_activations_are_set_aside(tmp_path: Path) -> None:
    parts, said = made("nvfp4")
    parts |= {"a.input_global_scale": torch.ones(1), "self_attn.k_scale": torch.ones(1)}
    assert set(shown(write(tmp_path / "base", parts, said))) == {"a.weight"}
