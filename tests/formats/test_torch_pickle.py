"""torch.save files; torch decides what is in them, and a real unpickler proves that the evil ones are evil."""

from __future__ import annotations

import collections
import io
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import AdapterError, BaseError, IngotError, UnsafeInputError
from ingot.formats import TensorRef, read_torch_zip

from .evil_pickles import HONEST
from .pickle_assembler import archive, state_dict, tensor, whole

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def read(data: bytes, directory: Path) -> tuple[TensorRef, ...]:
    path = directory / "adapter_model.bin"
    path.write_bytes(data)
    with path.open("rb") as file:
        return read_torch_zip(file.fileno(), file=path.name)


def as_torch(data: bytes, refs: tuple[TensorRef, ...]) -> dict[str, torch.Tensor]:
    torch_dtypes = {name: dtype for dtype, name in DTYPES.items()}
    flat = {ref.name: torch.frombuffer(bytearray(data[ref.begin : ref.end] or b"-"), dtype=torch.uint8) for ref in refs}
    return {ref.name: flat[ref.name][: ref.nbytes].view(torch_dtypes[ref.dtype]).reshape(ref.shape) for ref in refs}


def assert_same(data: bytes, refs: tuple[TensorRef, ...], expected: Mapping[str, torch.Tensor]) -> None:
    assert {ref.name: ref.dtype for ref in refs} == {name: DTYPES[t.dtype] for name, t in expected.items()}
    for name, found in as_torch(data, refs).items():
        wanted = expected[name].detach()
        assert found.shape == wanted.shape, name
        assert torch.equal(found.reshape(-1).view(torch.uint8), wanted.contiguous().reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_dtype_are_found_where_torch_put_them(protocol: int, tmp_path: Path) -> None:
    state = collections.OrderedDict(
        (str(dtype), torch.arange(6).reshape(2, 3).to(torch.float32).to(dtype)) for dtype in DTYPES
    )
    data = saved(state, pickle_protocol=protocol)
    assert_same(data, read(data, tmp_path), state)


def test_parameters_scalars_empty_and_plain_dicts_are_read(tmp_path: Path) -> None:
    state = {
        "parameter": torch.nn.Parameter(torch.randn(3, 2)),
        "frozen": torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float16), requires_grad=False),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "axes of one": torch.randn(4, 1).t()[None],
        "\u0442\u0435\u043d\u0437\u043e\u0440": torch.ones(300, dtype=torch.bfloat16),
    }
    data = saved(state)
    assert_same(data, read(data, tmp_path), state)


def test_the_state_dict_of_a_module_is_read_with_its_metadata_let_go(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4))
    data = saved(module.state_dict())
    assert_same(data, read(data, tmp_path), module.state_dict())


def test_a_peft_adapter_saved_as_bin_is_read(tmp_path: Path) -> None:
    import peft

    base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "1"]))
    model.save_pretrained(str(tmp_path), safe_serialization=False)
    data = (tmp_path / "adapter_model.bin").read_bytes()
    refs = read(data, tmp_path)
    assert len(refs) == 4
    assert_same(data, refs, peft.get_peft_model_state_dict(model))


def test_two_tensors_may_share_a_storage(tmp_path: Path) -> None:
    whole_tensor = torch.arange(12.0).reshape(4, 3)
    state = {"all": whole_tensor, "tied": whole_tensor, "rows": whole_tensor[1:3], "one": whole_tensor[2, 1]}
    data = saved(state)
    refs = {ref.name: ref for ref in read(data, tmp_path)}
    assert_same(data, tuple(refs.values()), state)
    assert (refs["all"].begin, refs["all"].end) == (refs["tied"].begin, refs["tied"].end)
    assert refs["rows"].begin == refs["all"].begin + 12


def test_tensors_come_in_offset_order(tmp_path: Path) -> None:
    storage_of_both = torch.arange(8.0)
    refs = read(saved({"late": storage_of_both[4:], "early": storage_of_both[:4]}), tmp_path)
    assert [ref.name for ref in refs] == ["early", "late"]


def test_many_tensors_are_read(tmp_path: Path) -> None:
    state = {f"layers.{i}.lora_A": torch.full((2,), float(i)) for i in range(3000)}
    data = saved(state)
    assert_same(data, read(data, tmp_path), state)


@pytest.mark.parametrize(
    "view", [torch.zeros(3, 4).t(), torch.zeros(4, 4)[:, :2], torch.zeros(8)[::2], torch.zeros(1).expand(5)]
)
def test_a_tensor_that_is_not_contiguous_is_refused_with_the_way_out(view: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"not contiguous.*`a`") as refusal:
        read(saved({"a": view}), tmp_path)
    assert refusal.value.hint is not None
    assert "safetensors" in refusal.value.hint


def test_the_hint_works_as_it_stands(tmp_path: Path) -> None:
    import safetensors.torch

    old, new = tmp_path / "old.bin", tmp_path / "new.safetensors"
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(2)}
    torch.save(state | {"tied": state["b"]}, old, _use_new_zipfile_serialization=False)
    with old.open("rb") as file, pytest.raises(AdapterError, match=r"torch before 1\.6") as refusal:
        read_torch_zip(file.fileno(), file="old.bin")
    assert refusal.value.hint is not None
    for line in refusal.value.hint.split("`")[1::2]:
        exec(line.replace("NEW_FILE", repr(str(new))).replace("FILE", repr(str(old))), globals())
    loaded = safetensors.torch.load_file(new)
    assert torch.equal(loaded["a"], state["a"])
    assert torch.equal(loaded["tied"], state["b"])


def test_a_training_checkpoint_is_no_adapter_but_not_evil_either(tmp_path: Path) -> None:
    checkpoint = {"model": {"a": torch.ones(1)}, "epoch": 3, "loss": 0.5, "history": [1, 2.0, None, True]}
    with pytest.raises(AdapterError, match=r"more than tensors.*`model`"):
        read(saved(checkpoint), tmp_path)


def test_a_conjugate_view_is_refused_since_its_bytes_are_not_its_values(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        read(saved({"a": torch.ones(2, dtype=torch.complex64).conj()}), tmp_path)


def test_whole_objects_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(saved(torch.nn.Linear(1, 1)), tmp_path)


def test_a_base_checkpoint_asks_for_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(HONEST[:-1])
    with path.open("rb") as file, pytest.raises(BaseError):
        read_torch_zip(file.fileno(), file=path.name, incomplete=BaseError)


@pytest.mark.parametrize("make", [lambda: saved({"a": torch.randn(64), "b": torch.randn(8)}), lambda: HONEST])
def test_a_file_cut_at_any_length_is_incomplete_rather_than_evil(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(make())
    with path.open("r+b") as file:
        assert read_torch_zip(file.fileno(), file="x")
        for length in reversed(range(path.stat().st_size)):
            file.truncate(length)
            with pytest.raises(AdapterError):
                read_torch_zip(file.fileno(), file="x")


def test_each_flipped_bit_of_a_small_file_is_refused_or_changes_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(HONEST)
    refused = 0
    with path.open("r+b", buffering=0) as file:
        honest = read_torch_zip(file.fileno(), file="x")
        for bit in range(len(HONEST) * 8):
            at, byte = bit // 8, HONEST[bit // 8]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), at)
            try:
                assert read_torch_zip(file.fileno(), file="x") == honest, f"bit {bit}"  # a time, a version, a weight
            except IngotError:
                refused += 1
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert refused > len(HONEST) * 4


def test_the_honest_twin_of_the_evil_pickles_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    data = archive(whole(state_dict(tensor())), struct.pack("<4f", 1, 2, 3, 4))
    assert_same(data, read(data, tmp_path), torch.load(io.BytesIO(data), weights_only=True))
    empty = archive(whole(b"}"))
    assert read(empty, tmp_path) == ()
    assert torch.load(io.BytesIO(empty), weights_only=True) == {}
