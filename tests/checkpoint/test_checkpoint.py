from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import Location
from ingot.errors import BaseError, IngotError, UnsafeInputError
from tests import toy


def opened(path: Path) -> Checkpoint:
    return Checkpoint.open(Location(path, path.name))


@pytest.mark.parametrize("index", [True, False])
def test_every_tensor_of_every_shard_is_there(tmp_path: Path, index: bool) -> None:
    written = toy.make_base(tmp_path / "base", index=index)
    base = opened(tmp_path / "base")
    assert {name: ref.shape for name, ref in base.tensors.items()} == {n: tuple(t.shape) for n, t in written.items()}
    assert base.side_files == ("generation_config.json", "tokenizer.json")
    assert (base.index_name is None) is not index
    base.close()


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00003.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    toy.make_base(tmp_path / "base")
    (tmp_path / "base" / name).unlink()
    with pytest.raises(BaseError, match=name):
        opened(tmp_path / "base")


@pytest.mark.parametrize(
    "evil", ["../canary.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", "", "a\nb.safetensors"]
)
def test_an_index_that_names_what_no_index_names_is_refused(tmp_path: Path, evil: str) -> None:
    toy.make_base(tmp_path / "base")
    index = tmp_path / "base" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["norm.weight"] = evil
    index.write_text(json.dumps(content))
    save_file({"norm.weight": torch.ones(70)}, tmp_path / "canary.safetensors")
    with pytest.raises(IngotError) as refusal:
        opened(tmp_path / "base")
    assert refusal.value.exit_code in (10, 16)


def test_an_index_and_shards_that_disagree_are_refused_with_the_tensor(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    index = tmp_path / "base" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["norm.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(BaseError, match=r"norm\.weight"):
        opened(tmp_path / "base")


def test_a_shard_that_is_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    shard = tmp_path / "base" / "model-00001-of-00003.safetensors"
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UnsafeInputError):
        opened(tmp_path / "base")


@pytest.mark.parametrize("kind", ["link to nothing", "link to itself", "link to a folder", "pipe", "folder"])
def test_a_side_file_that_cannot_be_carried_over_is_refused_and_not_left_out(tmp_path: Path, kind: str) -> None:
    toy.make_base(tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    path.unlink()
    if kind.startswith("link"):
        path.symlink_to({"link to nothing": "missing", "link to itself": path.name, "link to a folder": "."}[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises((BaseError, UnsafeInputError), match=r"tokenizer\.json"):
        opened(tmp_path / "base")


def test_a_folder_of_licences_is_no_side_file(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    (tmp_path / "base" / "LICENSES").mkdir()
    base = opened(tmp_path / "base")
    assert "LICENSES" not in base.side_files
    base.close()


def test_a_checkpoint_of_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base", index=False)
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(BaseError, match="pickles") as refusal:
        opened(tmp_path / "base")
    assert "save_pretrained" in (refusal.value.hint or "")


def test_an_adapter_in_the_bases_place_is_recognised(tmp_path: Path) -> None:
    toy.make_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").write_text("{}")
    with pytest.raises(BaseError, match="adapter, not a base"):
        opened(tmp_path / "adapter")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "\ufeff{}", "null"])
def test_a_config_that_is_no_honest_object_is_refused(tmp_path: Path, text: str) -> None:
    toy.make_base(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(text)
    with pytest.raises(IngotError) as refusal:
        opened(tmp_path / "base")
    assert refusal.value.exit_code in (10, 16)
