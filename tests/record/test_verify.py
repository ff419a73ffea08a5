"""`verify` on a sound artifact, and on every kind of tampering with one."""

from __future__ import annotations

import json
import os
import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from ingot.errors import Interrupted, UsageError
from ingot.formats.safetensors import parse_header
from ingot.record import Depth, Verification, verify
from tests.record.makers import SHARDS, copy_of, faults, names, rewritten, sha256


@pytest.mark.parametrize("depth", [Depth.STRUCTURE, Depth.READ])
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_sound_artifact_raises_no_alarm(artifact: Path, depth: Depth, count: int) -> None:
    for _ in range(count):
        assert faults(artifact, depth) == []


def test_a_sound_artifact_may_lie_elsewhere_beside_the_hubs_housekeeping(artifact: Path, tmp_path: Path) -> None:
    moved = copy_of(artifact, tmp_path / "another name")
    (moved / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (moved / ".cache").mkdir()
    for path in moved.iterdir():
        path.chmod(0o777)
    assert faults(moved) == []


def test_a_snapshot_of_links_into_the_hubs_cache_is_sound(artifact: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models--me--merged"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for path in artifact.iterdir():
        blob = repo / "blobs" / sha256(path)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    assert faults(snapshot) == []


def test_the_bytes_read_are_counted_and_told(artifact: Path) -> None:
    told: list[int] = []
    found = verify(artifact, depth="read", progress=told.append, jobs=1)
    payload = sum(path.stat().st_size for path in artifact.iterdir())
    assert found.nbytes_read == sum(told) > payload
    assert verify(artifact, depth="structure").nbytes_read < payload
    assert found.files == len(names(artifact))


def test_a_verification_is_json(artifact: Path) -> None:
    value = json.loads(json.dumps(verify(artifact, depth="read").as_json()))
    assert (value["verdict"], value["depth"]) == ("ok", "read")
    assert {"name", "ok", "detail"} == set(value["checks"][0])


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_missed_and_its_file_is_named(artifact: Path, tmp_path: Path, count: int) -> None:
    chance = random.Random(count)
    copy = copy_of(artifact, tmp_path / "copy")
    missed = []
    for _ in range(count):
        name = chance.choice(names(artifact))
        data = bytearray((artifact / name).read_bytes())
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (copy / name).write_bytes(data)
        if not any(name in detail for detail in faults(copy)):
            missed.append((name, bit))
        (copy / name).write_bytes((artifact / name).read_bytes())
    assert missed == []
    assert faults(copy) == []


@pytest.mark.slow
def test_no_bit_of_the_record_can_be_flipped(artifact: Path, tmp_path: Path) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    data = (artifact / "ingot.json").read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (copy / "ingot.json").write_bytes(changed)
        assert not verify(copy, depth="structure").ok


def test_a_damaged_tensor_is_named(artifact: Path, tmp_path: Path) -> None:
    for shard in SHARDS:
        data = (artifact / shard).read_bytes()
        header = parse_header(data, file=shard, file_nbytes=len(data))
        for tensor in header.tensors:
            copy = copy_of(artifact, tmp_path / "copy")
            changed = bytearray(data)
            changed[random.Random(tensor.name).randrange(tensor.begin, tensor.end)] ^= 4
            (copy / shard).write_bytes(changed)
            (detail,) = faults(copy)
            assert shard in detail
            assert f"first in tensor {tensor.name} " in detail


def test_the_first_of_several_damaged_tensors_is_named(artifact: Path, tmp_path: Path) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    data = bytearray((artifact / SHARDS[0]).read_bytes())
    for offset in (400, 7000, len(data) - 1):
        data[offset] ^= 1
    (copy / SHARDS[0]).write_bytes(data)
    assert "model.layers.0.down.weight" in faults(copy)[0]


def test_a_header_of_other_bytes_is_noticed_without_reading_tensors(artifact: Path, tmp_path: Path) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    data = (artifact / SHARDS[0]).read_bytes()
    assert data.count(b'"format":"pt"') == 1
    (copy / SHARDS[0]).write_bytes(data.replace(b'"format":"pt"', b'"format":"tf"'))
    assert any("header" in detail and SHARDS[0] in detail for detail in faults(copy, Depth.STRUCTURE))
    assert any("the header" in detail and "damaged" in detail for detail in faults(copy))


def test_each_file_is_missed_when_it_is_deleted(artifact: Path, tmp_path: Path) -> None:
    for name in names(artifact):
        copy = copy_of(artifact, tmp_path / "copy")
        (copy / name).unlink()
        for depth in (Depth.STRUCTURE, Depth.READ):
            assert any(name in detail and "missing" in detail for detail in faults(copy, depth))


def test_a_renamed_file_is_told_by_both_names(artifact: Path, tmp_path: Path) -> None:
    for name in set(names(artifact)) - {"ingot.json"}:
        copy = copy_of(artifact, tmp_path / "copy")
        (copy / name).rename(copy / "renamed")
        assert any(name in detail and "renamed to renamed?" in detail for detail in faults(copy, Depth.STRUCTURE))


@pytest.mark.parametrize("name", ["extra.bin", "model-00003-of-00002.safetensors", ".hidden", "a\nb"])
def test_an_added_file_is_named(artifact: Path, tmp_path: Path, name: str) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    (copy / name).write_bytes(b"x")
    assert any(name.replace("\n", "\\n") in detail for detail in faults(copy, Depth.STRUCTURE))


def test_an_added_directory_is_named(artifact: Path, tmp_path: Path) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    (copy / "more").mkdir()
    assert any("more" in detail for detail in faults(copy, Depth.STRUCTURE))


def test_a_left_over_adapter_is_told_as_what_it_would_do(artifact: Path, tmp_path: Path) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    (copy / "adapter_config.json").write_text("{}")
    assert any("once more" in detail for detail in faults(copy, Depth.STRUCTURE))


def test_swapped_files_are_both_named(artifact: Path, tmp_path: Path) -> None:
    listed = [name for name in names(artifact) if name != "ingot.json"]
    for one, other in pairwise(listed):
        copy = copy_of(artifact, tmp_path / "copy")
        (copy / one).write_bytes((artifact / other).read_bytes())
        (copy / other).write_bytes((artifact / one).read_bytes())
        found = faults(copy)
        assert any(detail.startswith(one) for detail in found)
        assert any(detail.startswith(other) for detail in found)


def test_an_appended_byte_is_noticed_in_each_file(artifact: Path, tmp_path: Path) -> None:
    for name in names(artifact):
        copy = copy_of(artifact, tmp_path / "copy")
        with (copy / name).open("ab") as file:
            file.write(b"\n")
        for depth in (Depth.STRUCTURE, Depth.READ):
            assert any(name in detail for detail in faults(copy, depth))


def test_a_truncated_file_is_named_with_its_first_lost_tensor(artifact: Path, tmp_path: Path) -> None:
    for name in names(artifact):
        size = (artifact / name).stat().st_size
        for length in {0, 1, size // 2, size - 1} - {size}:
            copy = copy_of(artifact, tmp_path / "copy")
            os.truncate(copy / name, length)
            for depth in (Depth.STRUCTURE, Depth.READ):
                assert any(name in detail for detail in faults(copy, depth))
    copy = copy_of(artifact, tmp_path / "copy")
    os.truncate(copy / SHARDS[1], (artifact / SHARDS[1]).stat().st_size - 1)
    assert any("first in tensor model.layers.1.up.weight" in detail for detail in faults(copy))


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o044, 0o4644, 0o2644])
def test_a_mode_that_cannot_be_served_is_named(artifact: Path, tmp_path: Path, mode: int) -> None:
    for name in names(artifact):
        copy = copy_of(artifact, tmp_path / "copy")
        (copy / name).chmod(mode)
        assert any(name in detail for detail in faults(copy, Depth.STRUCTURE))


@pytest.mark.parametrize("kind", ["link out", "loop", "pipe", "directory"])
@pytest.mark.parametrize("name", ["ingot.json", "config.json", SHARDS[0], "ingot.tensors.jsonl"])
def test_what_is_no_file_is_named_and_not_followed(artifact: Path, tmp_path: Path, kind: str, name: str) -> None:
    copy = copy_of(artifact, tmp_path / "copy")
    outside = tmp_path / "outside"
    (copy / name).rename(outside)
    if kind == "link out":
        (copy / name).symlink_to(outside)
    elif kind == "loop":
        (copy / name).symlink_to(name)
    elif kind == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).mkdir()
    assert any(name in detail for detail in faults(copy))


def test_memory_does_not_grow_with_the_files(artifact: Path, tmp_path: Path) -> None:
    import tracemalloc

    copy = copy_of(artifact, tmp_path / "copy")
    rewritten(copy, "tokenizer.json", b" " * (40 << 20))
    verify(copy, depth="structure")
    tracemalloc.start()
    try:
        assert verify(copy, depth="read", jobs=1).ok
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_a_directory_without_a_record_is_no_artifact(tmp_path: Path) -> None:
    found = verify(tmp_path)
    assert not found.ok
    assert "ingot.json" in found.verdict


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_what_is_no_directory_is_a_usage_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        verify(tmp_path / path)


def test_a_stop_ends_the_check(artifact: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        verify(artifact, depth="read", stop=stop)


def test_a_stop_in_the_middle_ends_all_workers(artifact: Path) -> None:
    stop = threading.Event()
    with pytest.raises(Interrupted):
        verify(artifact, depth="read", stop=stop, jobs=4, progress=lambda _: stop.set())


def test_nothing_asked_is_no_yes() -> None:
    assert not Verification(Depth.READ, (), 0, 0, None).ok
