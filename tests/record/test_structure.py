"""Artifacts whose record agrees with them, and which are not sound all the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from ingot.record import Depth, verify
from tests.record.makers import INDEX, SHARDS, copy_of, faults, names, resealed, rewritten


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (INDEX, rb'"total_size": \d+', b'"total_size": 1', "total_size"),
        (INDEX, rb'(layers.0.up.weight": "model-)00001', rb"\g<1>00002", "index says"),
        (INDEX, rb'"model.layers.0.up.weight"', b'"model.layers.0.uq.weight"', "index says"),
        (INDEX, rb'"model-00002-of', b'"../model-00002-of', "path"),
        (INDEX, rb"^\{", b"[", "JSON"),
        ("config.json", rb"^\{.*", b"[]", "object"),
        ("config.json", rb"^\{", b"{{", "JSON"),
        ("ingot.tensors.jsonl", rb'"shape":\[48\]', b'"shape":[1,48]', "norm.weight"),
        ("ingot.tensors.jsonl", rb'"dtype":"F32"', b'"dtype":"I32"', "down.weight"),
        ("ingot.tensors.jsonl", rb'("file":")model-00001', rb"\1model-00003", "follow one another"),
        ("ingot.tensors.jsonl", rb".*\n\Z", b"", "tensors"),
        (SHARDS[0], rb'"data_offsets":\[0,', b'"data_offsets":[1,', SHARDS[0]),
    ],
)
def test_files_that_disagree_are_noticed_even_under_a_record_that_agrees(
    artifact: Path, tmp_path: Path, name: str, old: bytes, new: bytes, told: str
) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    data = (artifact / name).read_bytes()
    changed = re.sub(old, new, data, count=1)
    assert changed != data
    rewritten(copy, name, changed)
    assert any(told in detail for detail in faults(copy, Depth.STRUCTURE))


def test_a_record_that_names_a_path_leads_nowhere(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    (tmp_path / "canary").write_text("sings")
    touched: list[str] = []
    really_open = os.open

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        touched.append(str(path))
        return really_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy)

    def change(value: Any) -> None:
        value["subject"].insert(0, {**value["subject"][0], "name": "../canary"})

    resealed(copy, change)
    found = verify(copy, depth="read")
    assert not found.ok
    assert found.identity is None
    assert any("ingot.json" in path for path in touched)
    assert not any("canary" in path for path in touched)


@pytest.mark.parametrize("size", [0, 2**63, 10**30])
def test_a_record_of_absurd_sizes_ends_at_once(artifact: Path, tmp_path: Path, size: int) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    resealed(copy, lambda value: value["subject"][4]["annotations"].update(size=size))
    assert any(f"instead of {size}" in detail for detail in faults(copy))


def test_a_file_made_absurdly_long_is_not_read_to_its_end(artifact: Path, tmp_path: Path) -> None:
    for name in names(artifact):
        copy = copy_of(artifact, tmp_path / "copy")
        os.truncate(copy / name, 1 << 42)
        assert any(name in detail for detail in faults(copy))
        assert verify(copy, depth="read").nbytes_read < 1 << 30, name
