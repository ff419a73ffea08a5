"""Tensors of one number: every dtype is read as its own library reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ingot.adapters.dialects.scalars import read_number
from ingot.errors import AdapterError
from ingot.formats import read_header
from ingot.storage.inputs import InputFile


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_number_is_what_torch_says_it_is(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.full(shape, 3.25).to(dtype)
    save_file({"a": torch.zeros(3), "x": tensor}, tmp_path / "f")
    with InputFile.open(tmp_path, "f", error=AdapterError) as file:
        ref = read_header(file.fd, file="f").by_name["x"]
        assert read_number(file, ref) == float(tensor)


def test_a_number_of_a_dtype_that_nobody_writes_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1, dtype=torch.float8_e4m3fn)}, tmp_path / "f")
    with InputFile.open(tmp_path, "f", error=AdapterError) as file:
        ref = read_header(file.fd, file="f").by_name["x"]
        with pytest.raises(AdapterError, match="F8_E4M3"):
            read_number(file, ref)
