"""ingot.tensors.jsonl against the files' own bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ingot.errors import BaseError, CheckFailed
from ingot.record.tensor_table import TABLE_NAME, read_table
from ingot.storage.inputs import InputFile
from tests.record.makers import SHARDS


@pytest.fixture(scope="module")
def lines(artifact: Path) -> list[Any]:
    return [json.loads(line) for line in (artifact / TABLE_NAME).read_text("utf-8").splitlines()]


def test_every_tensor_has_its_line_in_file_order(lines: list[Any], artifact: Path) -> None:
    for shard in SHARDS:
        of_shard = [line for line in lines if line["file"] == shard and line["op"] != "header"]
        with safe_open(artifact / shard, "numpy") as file:
            names = file.offset_keys()
            shapes = [list(file.get_slice(name).get_shape()) for name in names]
        assert [(line["name"], line["shape"]) for line in of_shard] == list(zip(names, shapes, strict=True))


def test_the_running_digest_is_that_of_the_file_up_to_the_tensors_end(lines: list[Any], artifact: Path) -> None:
    for line in lines:
        data = (artifact / line["file"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(data[: line["end"]]).hexdigest()


def test_a_changed_tensor_tells_formula_rank_scaling_and_sample(lines: list[Any]) -> None:
    line = next(line for line in lines if line.get("name") == "model.layers.0.up.weight")
    assert (line["op"], line["formulas"], line["ranks"], line["scalings"]) == ("change", ["W + s·B@A"], [4], [2.0])
    assert 0 < line["changed"] <= line["sampled"]


def test_a_copied_tensor_tells_no_formula(lines: list[Any]) -> None:
    line = next(line for line in lines if line.get("name") == "model.layers.1.norm.weight")
    assert line["op"] == "copy"
    assert not line.keys() & {"formulas", "ranks", "scalings", "sampled", "changed"}


def _read(folder: Path, data: bytes) -> Any:
    (folder / TABLE_NAME).write_bytes(data)
    with InputFile.open(folder, TABLE_NAME, error=BaseError) as file:
        return read_table(file)


def test_the_table_reads_back(artifact: Path, tmp_path: Path) -> None:
    dropped = b'{"name":"lm_head.weight","op":"dropped","reason":"no such parameter"}\n'
    table = _read(tmp_path, (artifact / TABLE_NAME).read_bytes() + dropped)
    assert [len(table.rows[shard]) for shard in SHARDS] == [4, 4]
    assert table.dropped[0].name == "lm_head.weight"


@pytest.mark.parametrize(
    "change",
    [
        (b'"end":304', b'"end":305'),
        (b'"begin":304', b'"begin":300'),
        (b'"begin":304', b'"begin":-4'),
        (b'"begin":304', b'"begin":1e400'),
        (b'"end":6448', b'"end":' + b"9" * 5000),
        (b'"op":"header"', b'"op":"copy"'),
        (b'"sha256":"', b'"sha256":"x'),
        (b"{", b"["),
        (b"}\n", b"}"),
        (b'"shape":[48]', b'"shape":48'),
    ],
)
def test_a_table_of_another_form_is_refused(artifact: Path, tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    data = (artifact / TABLE_NAME).read_bytes()
    changed = data[:-1] if change[0] == b"}\n" else data.replace(*change, 1)
    assert changed != data
    with pytest.raises(CheckFailed):
        _read(tmp_path, changed)


def test_an_endless_line_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    with (tmp_path / TABLE_NAME).open("wb") as file:
        file.truncate(200 << 20)
    with InputFile.open(tmp_path, TABLE_NAME, error=BaseError) as opened, pytest.raises(CheckFailed, match="too long"):
        read_table(opened)


def test_a_table_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / TABLE_NAME).open("wb") as file:
        file.truncate(1 << 40)
    with InputFile.open(tmp_path, TABLE_NAME, error=BaseError) as opened, pytest.raises(CheckFailed, match="too large"):
        read_table(opened)
