"""Opening a directory: which files are an adapter, and what is said of those that are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ingot.adapters import Adapter, Module, ModuleKind, load_tensor
from ingot.errors import AdapterError, IngotError, MismatchError, NonFiniteError, UnsafeInputError, UsageError
from ingot.formats import build_header
from tests.adapters.files import PREFIX, WEIGHTS, opened, pair, read_tensors, replace_tensors, write_adapter

REAL = Path(__file__).parents[3] / "shared" / "adapters"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:5d3958b6\nsize 14176064\n"


def test_an_adapter_is_summed_up_by_its_header_and_config(tmp_path: Path) -> None:
    tensors = {**pair("a.q"), **pair("b.q", r=3)}
    write_adapter(tmp_path, tensors, target_modules=["q"], rank_pattern={"b.q": 3}, base_model_name_or_path="org/base")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    adapter = opened(tmp_path, assume_peft_version="0.18.1")
    assert adapter.ranks == (2, 3)
    assert adapter.base_model == "org/base"
    assert adapter.side_files == ("tokenizer.json",)
    assert [update.path for update in adapter.updates] == ["a.q", "b.q"]
    assert [file.path.name for file in adapter.files] == ["adapter_config.json", WEIGHTS]
    assert adapter.config.release == (0, 18, 1)


def test_an_empty_base_name_is_no_claim(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"], base_model_name_or_path="")
    assert opened(tmp_path).base_model is None


def test_a_directory_of_adapters_is_refused_listing_them(tmp_path: Path) -> None:
    write_adapter(tmp_path / "first", pair("q"), target_modules=["q"])
    write_adapter(tmp_path / "second", pair("q"), target_modules=["q"])
    with pytest.raises(AdapterError, match="first, second") as caught:
        opened(tmp_path)
    assert str(tmp_path / "first") in str(caught.value.hint)
    assert opened(tmp_path, subfolder="second").root == tmp_path / "second"


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc"])
def test_a_subfolder_cannot_leave_the_directory(subfolder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        opened(tmp_path, subfolder=subfolder)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "no adapter_config"),
        (["adapter_config.json"], "no weights"),
        (["adapter_config.json", "adapter_model.safetensors.index.json"], "shards"),
    ],
)
def test_a_directory_without_an_adapter_is_refused(names: list[str], text: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q"]}))
    with pytest.raises(AdapterError, match=text):
        opened(tmp_path)


def test_a_path_that_is_not_there_or_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        with pytest.raises(AdapterError, match=name):
            opened(tmp_path / name)


def test_weights_of_a_tool_that_is_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_adapter.bin").touch()
    with pytest.raises(AdapterError) as caught:
        opened(tmp_path)
    assert "AdapterHub" in str(caught.value.hint)


def test_names_that_no_format_has_are_shown(tmp_path: Path) -> None:
    save_file({"something.else": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"no adapter of a format.*something\.else"):
        opened(tmp_path)


def test_pefts_tensors_without_their_config_are_told_from_those_of_other_tools(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError) as caught:
        opened(tmp_path)
    assert "PEFT adapter without its adapter_config.json" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"[]", b'{"r": 8, "r": 9}', b"{", b"\xff", b'{"r": NaN}', b""])
def test_a_config_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        opened(tmp_path)


def test_a_git_lfs_pointer_in_place_of_the_weights_is_recognized(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    (tmp_path / WEIGHTS).write_bytes(LFS_POINTER)
    with pytest.raises(AdapterError, match="git-lfs"):
        opened(tmp_path)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    os.truncate(tmp_path / WEIGHTS, (tmp_path / WEIGHTS).stat().st_size - 8)
    with pytest.raises(AdapterError, match="cut off"):
        opened(tmp_path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", pair("q"), target_modules=["q"])
    (tmp_path / "a" / WEIGHTS).rename(tmp_path / "elsewhere")
    (tmp_path / "a" / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeInputError):
        opened(tmp_path / "a")


def test_a_torch_file_is_read_without_running_it(tmp_path: Path) -> None:
    tensors = pair("q")
    write_adapter(tmp_path, tensors, target_modules=["q"])
    (tmp_path / WEIGHTS).unlink()
    torch.save({PREFIX + name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "adapter_model.bin")
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        update = adapter.updates[0]
        assert torch.equal(
            update.a.of(load_tensor(adapter.weights, update.a.ref)), tensors["q.lora_A.weight"].half().float()
        )
        assert torch.equal(
            update.b.T.of(load_tensor(adapter.weights, update.b.ref)), tensors["q.lora_B.weight"].half().float().T
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_factor_is_read_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in pair("q").items()}
    write_adapter(tmp_path, tensors, target_modules=["q"])
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        factor = adapter.updates[0].a.of(load_tensor(adapter.weights, adapter.updates[0].a.ref))
    assert factor.dtype is torch.float32
    assert torch.equal(factor, tensors["q.lora_A.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_that_is_not_finite_is_refused_by_name_and_place(
    value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in pair("q").items()}
    tensors["q.lora_B.weight"][3, 1] = value
    write_adapter(tmp_path, tensors, target_modules=["q"])
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        adapter.updates[0].a.of(load_tensor(adapter.weights, adapter.updates[0].a.ref))
        with pytest.raises(NonFiniteError, match=r"q\.lora_B.*\[3, 1\]"):
            adapter.updates[0].b.of(load_tensor(adapter.weights, adapter.updates[0].b.ref))


def test_a_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in pair("q").items()}
    tensors["q.lora_A.weight"][1, 2] = 1e300
    write_adapter(tmp_path, tensors, target_modules=["q"])
    with Adapter.open(tmp_path, adapter_index=0) as adapter, pytest.raises(NonFiniteError, match=r"\[1, 2\]"):
        adapter.updates[0].a.of(load_tensor(adapter.weights, adapter.updates[0].a.ref))


# -- classes that are not known ---------------------------------------------------------------------------------------


def test_without_a_class_the_shape_tells_linear_from_transposed(tmp_path: Path) -> None:
    update = opened(write_adapter(tmp_path, pair("q"), target_modules=["q"])).updates[0]
    (linear,) = update.edits(Module("q", ModuleKind.UNKNOWN, {"weight": (5, 4)}))
    (transposed,) = update.edits(Module("q", ModuleKind.UNKNOWN, {"weight": (4, 5)}))
    assert (linear.term.shape, transposed.term.shape) == ((5, 4), (4, 5))
    with pytest.raises(MismatchError, match=r"\[6, 4\].*\[5, 4\]"):
        update.edits(Module("q", ModuleKind.UNKNOWN, {"weight": (6, 4)}))


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
def test_without_a_class_a_square_weight_with_fan_in_fan_out_is_ambiguous(fan_in_fan_out: bool, tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q", rows=4), target_modules=["q"], fan_in_fan_out=fan_in_fan_out)
    update, module = opened(tmp_path).updates[0], Module("q", ModuleKind.UNKNOWN, {"weight": (4, 4)})
    if fan_in_fan_out:
        with pytest.raises(MismatchError, match="square"):
            update.edits(module)
    else:
        assert update.edits(module)[0].term.left is update.b


def test_a_transposed_shape_on_a_known_class_is_refused_with_the_reason(tmp_path: Path) -> None:
    update = opened(write_adapter(tmp_path, pair("q"), target_modules=["q"])).updates[0]
    with pytest.raises(MismatchError) as caught:
        update.edits(Module("q", ModuleKind.LINEAR, {"weight": (4, 5)}))
    assert "transpose" in str(caught.value.hint)


def test_pissa_without_the_dtype_of_the_base_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"], init_lora_weights="pissa")
    with pytest.raises(MismatchError, match="dtype"):
        opened(tmp_path).updates[0].edits(Module("q", ModuleKind.LINEAR, {"weight": (5, 4)}))


def test_an_attention_of_a_release_that_nobody_read_is_refused(tmp_path: Path) -> None:
    tensors = {**pair("m", rows=12), **pair("m.base_layer.out_proj", rows=4)}
    write_adapter(tmp_path, tensors, target_modules=["m"], peft_version="0.99.0")
    module = Module("m", ModuleKind.MULTIHEAD, {"in_proj_weight": (12, 4), "out_proj.weight": (4, 4)})
    with pytest.raises(MismatchError, match=r"0\.99\.0"):
        opened(tmp_path).updates[0].edits(module)
    edits = opened(tmp_path, assume_peft_version="0.21.2").updates[0].edits(module)
    assert [edit.term.scaling for edit in edits] == [1.5, 3.0]


# -- files of the world -----------------------------------------------------------------------------------------------


def real_headers() -> list[Any]:
    paths = sorted(REAL.glob("headers/*.json"))
    return [pytest.param(path, id=path.stem) for path in paths] or [
        pytest.param(None, marks=pytest.mark.skip(reason="no real adapter files beside the checkout"))
    ]


def _config_of(raw: Any) -> str:
    text = raw if isinstance(raw, str) else raw.get("text", raw.get("config", raw)) if isinstance(raw, dict) else raw
    return text if isinstance(text, str) else json.dumps(text)


@pytest.mark.parametrize("path", real_headers())
def test_a_real_file_becomes_updates_or_a_right_refusal(path: Path, tmp_path: Path) -> None:
    found = json.loads(path.read_text())
    if "header" not in found:
        content = found["text"].encode()
    else:
        metadata = found["header"].pop("__metadata__", None)
        entries = sorted(found["header"].items(), key=lambda item: item[1]["data_offsets"])
        tensors = [(name, entry["dtype"], entry["shape"]) for name, entry in entries]
        raw, header = build_header(tensors, metadata, file=WEIGHTS)
        content = raw + bytes(header.file_nbytes - len(raw))
    (tmp_path / Path(found["path"]).name).write_bytes(content)
    for config in found.get("adapter_configs", [])[:1]:
        (tmp_path / "adapter_config.json").write_text(_config_of(config))
    if found["dialect"].split("-")[0] in ("peft", "mlx", "diffusers") and "FINEGATES" not in found["dialect"]:
        checkpoint = "_adapters" in found["path"]  # of a training run: not the file that its folder means
        adapter = opened(tmp_path, file=Path(found["path"]).name if checkpoint else None)
        claimed = [ref.name for update in adapter.updates for ref in update.tensors]
        assert sorted([*claimed, *adapter.explained]) == sorted(adapter.tensors)
        assert len(adapter.tensors) == found["tensor_count"]
    else:
        with pytest.raises(IngotError) as caught:
            opened(tmp_path)
        assert caught.value.exit_code in (11, 16)


def test_a_wrong_prefix_on_one_tensor_is_refused_by_name(tmp_path: Path) -> None:
    write_adapter(tmp_path, pair("q"), target_modules=["q"])
    bare = {name.replace(PREFIX, "") if "lora_A" in name else name: t for name, t in read_tensors(tmp_path).items()}
    replace_tensors(tmp_path, bare)
    with pytest.raises(AdapterError, match=r"prefix.*q\.lora_"):
        opened(tmp_path)
