"""Shard indexes and the names in them; huggingface_hub and transformers decide what is right."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from ingot.errors import AdapterError, BaseError, UnsafeInputError
from ingot.formats import Header, ShardIndex, build_header, build_index, check_agreement, check_file_name, parse_index

from .evil_case import CANARY, Case
from .evil_texts import EVIL_NAMES, FILE_NAMES, INDEXES


def headers(**tensors: list[str]) -> dict[str, Header]:
    files = {f"{shard}.safetensors": names for shard, names in tensors.items()}
    return {
        file: build_header([(name, "U8", (1,)) for name in names], None, file=file)[1] for file, names in files.items()
    }


def index(**weight_map: str) -> ShardIndex:
    return ShardIndex({name: f"{shard}.safetensors" for name, shard in weight_map.items()}, {})


def test_an_index_of_huggingface_hub_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = {f"model.layers.{i}.weight": torch.zeros(16, 16) for i in range(12)}
    huggingface_hub.save_torch_state_dict(state, tmp_path, max_shard_size=4_000)
    data = (tmp_path / "model.safetensors.index.json").read_bytes()
    parsed = parse_index(data, where="model.safetensors.index.json")
    assert parsed.weight_map == json.loads(data)["weight_map"]
    assert parsed.weight_map.keys() == state.keys()
    assert parsed.metadata == json.loads(data)["metadata"]
    assert parsed.files == tuple(sorted(path.name for path in tmp_path.glob("*.safetensors")))


def test_a_built_index_is_read_by_transformers(tmp_path: Path) -> None:
    from transformers.utils.hub import get_checkpoint_shard_files

    weight_map = {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(build_index(weight_map, 1234, {"total_parameters": 617, "total_size": 9}))
    for file in weight_map.values():
        (tmp_path / file).touch()
    files, metadata = get_checkpoint_shard_files(str(tmp_path), str(path))
    assert [Path(file).name for file in files] == sorted(weight_map.values())
    assert metadata["weight_map"] == weight_map
    assert (metadata["total_size"], metadata["total_parameters"]) == (1234, 617)


def test_a_built_index_has_the_usual_layout() -> None:
    text = build_index({"b": "y.safetensors", "a": "x.safetensors"}, 5, {"format": "pt"}).decode()
    assert text == (
        '{\n  "metadata": {\n    "total_size": 5,\n    "format": "pt"\n  },\n'
        '  "weight_map": {\n    "a": "x.safetensors",\n    "b": "y.safetensors"\n  }\n}\n'
    )


@pytest.mark.parametrize("metadata", ["", '"metadata":{"total_size":28966928384.0},', '"metadata":{},"more":[1],'])
def test_older_indexes_are_read(metadata: str) -> None:
    parsed = parse_index(f'{{{metadata}"weight_map":{{"a":"x.safetensors"}}}}'.encode(), where="i")
    assert parsed.weight_map == {"a": "x.safetensors"}


@pytest.mark.parametrize("case", INDEXES, ids=repr)
def test_an_evil_index_is_refused_and_the_canary_untouched(case: Case, tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    canary.write_text("sings")
    before = canary.stat()
    with pytest.raises((UnsafeInputError, BaseError)):
        case.prepare(tmp_path)()
    assert canary.read_text() == "sings"
    assert canary.stat().st_mtime_ns == before.st_mtime_ns
    assert list(tmp_path.iterdir()) == [canary]


@pytest.mark.parametrize(
    "name", [name for name in EVIL_NAMES if "\ud800" not in name], ids=lambda name: ascii(name)[:40]
)
def test_an_evil_shard_name_is_unsafe_rather_than_incomplete(name: str) -> None:
    with pytest.raises(UnsafeInputError, match="file name") as refusal:
        parse_index(json.dumps({"weight_map": {"a": name}}).encode(), where="i")
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize("case", FILE_NAMES, ids=repr)
def test_an_evil_file_name_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        case.prepare(tmp_path)()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00001-of-00163.safetensors",
        "mod\u00e8le \u6a21.safetensors",
        "a..b.safetensors",
        "-.safetensors",
    ],
)
def test_a_plain_file_name_is_fine_and_stays_in_its_directory(name: str, tmp_path: Path) -> None:
    check_file_name(name, where="i", suffix=".safetensors")
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_without_a_suffix_any_plain_name_is_fine() -> None:
    check_file_name("tokenizer.model", where="x")
    with pytest.raises(UnsafeInputError, match=r"does not end in \.bin"):
        check_file_name("tokenizer.model", where="x", suffix=".bin")


def test_a_cut_off_index_is_incomplete_at_any_length() -> None:
    data = build_index({"a": "x.safetensors", "b": "y.safetensors"}, 2, {}).rstrip()
    for length in range(len(data)):
        with pytest.raises(AdapterError):
            parse_index(data[:length], where="i", incomplete=AdapterError)


def test_an_index_and_shards_that_agree_pass() -> None:
    check_agreement(index(a="x", b="x", c="y"), headers(x=["a", "b"], y=["c"]))


@pytest.mark.parametrize(
    ("case", "shards", "message"),
    [
        (index(a="x", b="y"), headers(x=["a"]), "shard is missing.*`b`.*y.safetensors"),
        (index(a="x", b="x"), headers(x=["a"]), "not where.*x.safetensors, found no shard - at `b`"),
        (
            index(a="x", b="x"),
            headers(x=["a"], y=["b"]),
            "not where.*expected x.safetensors, found y.safetensors - at `b`",
        ),
        (index(a="x"), headers(x=["a", "b"]), "does not know - at `b` in x.safetensors"),
        (index(a="x"), headers(x=["a"], y=["a"]), "two shards.*x.safetensors and y.safetensors - at `a`"),
        (index(), headers(x=["a"]), "does not know - at `a` in x.safetensors"),
    ],
)
def test_an_index_and_shards_that_disagree_name_the_tensor(
    case: ShardIndex, shards: dict[str, Header], message: str
) -> None:
    with pytest.raises(BaseError, match=message):
        check_agreement(case, shards)
