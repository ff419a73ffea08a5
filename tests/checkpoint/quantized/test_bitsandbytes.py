"""bitsandbytes' own functions quantize and dequantize; its modules, which repack weights in place, are never used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.errors import BaseError
from ingot.formats.safetensors import read_header
from tests.checkpoint.quantized.folders import Tensors, shown, write

functional = pytest.importorskip("bitsandbytes.functional")

FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def weight(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05).to(dtype)


def four_bit(name: str, tensor: torch.Tensor, **settings: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The parts as bitsandbytes saves them, and what it dequantizes them to."""
    packed, state = functional.quantize_4bit(tensor, **settings)
    parts = {f"{name}.{key}": part for key, part in state.as_dict(packed=True).items()}
    return {name: packed, **parts}, functional.dequantize_4bit(packed, state)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(48, 128), (33, 70), (5, 2, 64)])
def test_four_bits_are_bit_for_bit_what_bitsandbytes_makes_of_them(
    tmp_path: Path, kind: str, nested: bool, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    parts, expected = four_bit("a.weight", weight(*shape, dtype=dtype), quant_type=kind, compress_statistics=nested)
    folder = write(tmp_path / "base", parts, FOUR, dtype=str(dtype).removeprefix("torch."), shards=2)
    found = shown(folder)["a.weight"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(64, 96), (64, 48), (8, 32), (64, 128)])
def test_blocks_follow_one_another_across_rows_by_the_definition(tmp_path: Path, shape: tuple[int, int]) -> None:
    """bitsandbytes 0.50.2 itself begins a block anew in each such row on AVX512 CPUs, and is 0.2 to 0.35 off (rms)."""
    given = weight(*shape)
    parts, _ = four_bit("a.weight", given, quant_type="nf4")
    codes = parts["a.weight.quant_map"].numpy()
    packed = parts["a.weight"].numpy().reshape(-1)
    values = codes[np.stack([packed >> 4, packed & 15], 1).reshape(-1)]
    expected = values * np.repeat(parts["a.weight.absmax"].numpy(), 64)[: values.size]
    found = shown(write(tmp_path / "base", parts, FOUR, "bfloat16"))["a.weight"]
    assert torch.equal(found, torch.tensor(expected).to(torch.bfloat16).view(shape))
    assert (found.float() - given.float()).norm() / given.float().norm() < 0.1


@pytest.mark.parametrize("block", [32, 256, 4096])
def test_other_sizes_of_blocks_are_read_from_the_state(tmp_path: Path, block: int) -> None:
    parts, expected = four_bit("a.weight", weight(32, 512), quant_type="nf4", blocksize=block)
    assert torch.equal(shown(write(tmp_path / "base", parts, FOUR))["a.weight"], expected)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_the_storage_dtype_of_packed_numbers_changes_nothing(tmp_path: Path, storage: torch.dtype) -> None:
    plain, expected = four_bit("a.weight", weight(32, 64), quant_type="nf4")
    parts, _ = four_bit("a.weight", weight(32, 64), quant_type="nf4", quant_storage=storage)
    assert parts["a.weight"].dtype == storage != plain["a.weight"].dtype
    assert torch.equal(shown(write(tmp_path / "base", parts, FOUR))["a.weight"], expected)


def test_the_config_decides_the_dtype_after_the_rounding_of_bitsandbytes(tmp_path: Path) -> None:
    parts, expected = four_bit("a.weight", weight(16, 64, dtype=torch.float16), quant_type="nf4")
    assert torch.equal(shown(write(tmp_path / "base", parts, FOUR))["a.weight"], expected.to(torch.bfloat16))


def test_int8_is_bit_for_bit_what_bitsandbytes_makes_of_it(tmp_path: Path) -> None:
    rows, scale, _ = functional.int8_vectorwise_quant(weight(40, 70, dtype=torch.float16))
    parts = {"a.weight": rows, "a.SCB": scale, "a.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = functional.int8_vectorwise_dequant(rows, scale)
    assert torch.equal(shown(write(tmp_path / "base", parts, EIGHT, "float32"))["a.weight"], expected)
    assert torch.equal(shown(write(tmp_path / "16", parts, EIGHT))["a.weight"], expected.to(torch.bfloat16))


# -- what is wrong ---------------------------------------------------------------------------------------------------


def parts_of(**settings: Any) -> dict[str, torch.Tensor]:
    return four_bit("a.weight", weight(16, 64), quant_type="nf4", compress_statistics=True, **settings)[0]


def refused(folder: Path) -> str:
    with pytest.raises(BaseError) as error:
        shown(folder)
    assert error.value.exit_code == 10
    return error.value.message


@pytest.mark.parametrize("part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    parts = parts_of()
    del parts[f"a.weight.{part}"]
    assert f"a.weight.{part}" in refused(write(tmp_path / "base", parts, FOUR))


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    parts = parts_of()
    del parts["a.weight"]
    assert "missing" in refused(write(tmp_path / "base", parts, FOUR))


def test_a_weight_without_its_state_is_refused(tmp_path: Path) -> None:
    parts = parts_of()
    del parts["a.weight.quant_state.bitsandbytes__nf4"]
    other = {f"b{name[1:]}": part for name, part in parts_of().items()}
    assert "belong to no weight" in refused(write(tmp_path / "base", {**parts, **other}, FOUR))


def test_a_part_of_another_shape_is_named(tmp_path: Path) -> None:
    parts = parts_of() | {"a.weight.absmax": torch.zeros(3, dtype=torch.uint8)}
    message = refused(write(tmp_path / "base", parts, FOUR))
    assert "a.weight.absmax" in message
    assert "expected [16]" in message


@pytest.mark.parametrize("change", [{"shape": [16, 63]}, {"blocksize": 60}, {"dtype": "int4"}, {"quant_type": "fp4"}])
def test_a_state_that_is_not_of_the_weight_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    parts = parts_of()
    name = "a.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(parts[name].tolist())) | change
    parts[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    assert "a.weight" in refused(write(tmp_path / "base", parts, FOUR))


def test_another_codebook_is_refused_since_bitsandbytes_would_not_read_it(tmp_path: Path) -> None:
    parts = parts_of()
    parts["a.weight.quant_map"] = parts["a.weight.quant_map"].flip(0)
    assert "codes" in refused(write(tmp_path / "base", parts, FOUR))


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    parts, _ = four_bit("a.weight", weight(16, 64), quant_type="nf4")
    parts["a.weight.absmax"][3] = float("nan")
    assert "decodes to a NaN" in refused(write(tmp_path / "base", parts, FOUR))


def test_int8_in_the_order_of_tensor_cores_is_refused(tmp_path: Path) -> None:
    parts: Tensors = {
        "a.weight": torch.zeros(4, 32, dtype=torch.int8),
        "a.SCB": torch.ones(4),
        "a.weight_format": torch.tensor(2, dtype=torch.uint8),
    }
    assert "tensor cores" in refused(write(tmp_path / "base", parts, EIGHT))


def test_the_parts_of_a_weight_may_lie_in_several_shards(tmp_path: Path) -> None:
    parts, expected = four_bit("a.weight", weight(16, 64), quant_type="nf4", compress_statistics=True)
    folder = write(tmp_path / "base", parts, FOUR, shards=3)
    with (folder / "model-00002-of-00003.safetensors").open("rb") as file:
        assert "a.weight" not in read_header(file.fileno(), file="2").by_name
    assert torch.equal(shown(folder)["a.weight"], expected)
