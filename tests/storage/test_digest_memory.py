"""Remembered digests are right or absent."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingot.errors import BaseError
from ingot.storage import DigestMemory, InputFile, cache_directory, digest_memory


def settled(file: InputFile) -> InputFile:
    """`file` as if it had been opened an hour later: a test cannot wait until its ctime is old."""
    file.opened_ns += 3_600 * 10**9
    return file


def opened(path: Path) -> InputFile:
    return settled(InputFile.open(path.parent, path.name, error=BaseError))


def make(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_digest_is_computed_once_and_remembered_by_the_next_process(tmp_path: Path) -> None:
    path = make(tmp_path / "f", b"abc")
    with opened(path) as file:
        assert DigestMemory(tmp_path / "m").sha256(file) == digest_of(b"abc")
    with opened(path) as file:
        assert DigestMemory(tmp_path / "m").recall(file) == digest_of(b"abc")


def test_a_file_changed_since_is_hashed_again(tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "m")
    path = make(tmp_path / "f", b"abc")
    times = path.stat()
    with opened(path) as file:
        memory.sha256(file)
    path.write_bytes(b"abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # length, inode and mtime as before: ctime tells
    with opened(path) as file:
        assert memory.recall(file) is None
        assert memory.sha256(file) == digest_of(b"abd")


def test_another_file_at_the_same_path_or_the_same_file_elsewhere_is_not_known(tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "m")
    path = make(tmp_path / "f", b"abc")
    with opened(path) as file:
        memory.sha256(file)
    path.rename(tmp_path / "g")
    make(path, b"xyz")
    for name in ("f", "g"):
        with opened(tmp_path / name) as file:
            assert memory.recall(file) is None


def test_a_file_as_young_as_the_clock_is_not_remembered(tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "m")
    path = make(tmp_path / "f", b"abc")
    with InputFile.open(tmp_path, "f", error=BaseError) as file:
        assert memory.sha256(file) == digest_of(b"abc")
        assert memory.recall(file) is None
        file.opened_ns = file.ctime_ns + digest_memory.RACY_NS - 1
        memory.remember(file, digest_of(b"abc"))
        assert memory.recall(file) is None
        file.opened_ns += 1
        memory.remember(file, digest_of(b"abc"))
        assert memory.recall(file) == digest_of(b"abc")
    future = time.time_ns() + 10**12
    os.utime(path, ns=(future, future))
    with InputFile.open(tmp_path, "f", error=BaseError) as file:
        memory.remember(file, "0" * 64)
        assert memory.recall(file) is None


def test_a_file_changed_while_it_was_hashed_is_not_remembered(tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "m")
    path = make(tmp_path / "f", b"abc")
    with opened(path) as file:
        path.write_bytes(b"abd")
        memory.remember(file, digest_of(b"abc"))
    with opened(path) as file:
        assert memory.recall(file) is None


def test_no_flip_of_any_bit_makes_it_tell_a_wrong_digest(tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "m")
    with opened(make(tmp_path / "f", b"abc")) as file:
        memory.sha256(file)
        store = tmp_path / "m" / "digests.jsonl"
        data = store.read_bytes()
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            store.write_bytes(flipped)
            assert memory.recall(file) is None
        assert memory.sha256(file) == digest_of(b"abc")


@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"{}\n", b"null\n[]\n", b"\xff\xfe", b"[" * 100_000])
def test_a_corrupt_memory_is_ignored_and_written_on(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "digests.jsonl").write_bytes(junk)
    memory = DigestMemory(tmp_path / "m")
    with opened(make(tmp_path / "f", b"abc")) as file:
        assert memory.sha256(file) == memory.sha256(file) == digest_of(b"abc")


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    make(tmp_path / "taken", b"")
    with opened(make(tmp_path / "f", b"abc")) as file:
        assert DigestMemory(tmp_path / "taken").sha256(file) == digest_of(b"abc")


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"f{i}", b"%d" % i) for i in range(40)]

    def hash_one(path: Path) -> str:
        with opened(path) as file:
            return DigestMemory(tmp_path / "m").sha256(file)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(hash_one, paths)) == [digest_of(b"%d" % i) for i in range(40)]
    memory = DigestMemory(tmp_path / "m")
    for i, path in enumerate(paths):
        with opened(path) as file:
            assert memory.recall(file) == digest_of(b"%d" % i)


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_memory, "_COMPACT_FROM_NBYTES", 2_000)
    monkeypatch.setattr(digest_memory, "_KEPT_ENTRIES", 3)
    memory = DigestMemory(tmp_path / "m")
    for i in range(60):
        with opened(make(tmp_path / "f", b"%d" % i)) as file:
            assert memory.sha256(file) == memory.recall(file) == digest_of(b"%d" % i)
    assert (tmp_path / "m" / "digests.jsonl").stat().st_size < 3_000
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["digests.jsonl"]


def test_it_is_private_and_holds_no_path(tmp_path: Path) -> None:
    with opened(make(tmp_path / "secret-project", b"abc")) as file:
        DigestMemory(tmp_path / "m").sha256(file)
    store = tmp_path / "m" / "digests.jsonl"
    assert b"secret" not in store.read_bytes()
    assert stat.S_IMODE(store.stat().st_mode) & 0o077 == 0


def test_the_name_of_a_hub_blob_is_taken_as_its_digest(tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "blobs" / ("ab" * 32)
    blob.parent.mkdir(parents=True)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    blob.write_bytes(b"weights")
    (snapshot / "f").symlink_to(f"../../blobs/{blob.name}")
    with opened(snapshot / "f") as file:
        assert DigestMemory(tmp_path / "m").sha256(file) == "ab" * 32


def test_the_environment_says_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("INGOT_CACHE")
    assert cache_directory() == tmp_path / "xdg" / "ingot"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / "home" / ".cache" / "ingot"


def test_a_full_memory_is_taken_apart_once_and_again_when_it_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "ingot.storage.digest_memory.lines.decode", lambda line: decoded.append(line) or {"file": "a", "sha256": "b"}
    )
    memory, kept = tmp_path / "memory", tmp_path / "memory" / "digests.jsonl"
    memory.mkdir()
    kept.write_bytes(b"one\ntwo\n")
    for _ in range(3):
        assert DigestMemory(memory)._load() == {"a": "b"}
    assert decoded == [b"one\n", b"two\n"]
    with kept.open("ab") as file:
        file.write(b"three\n")
    DigestMemory(memory)._load()
    assert decoded[2:] == [b"one\n", b"two\n", b"three\n"]
