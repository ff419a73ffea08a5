"""Inputs: what is opened, what is refused without waiting, and what change is noticed."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from ingot.errors import BaseError, InputChangedError, UnsafeInputError
from ingot.storage import InputFile

DIGEST = hashlib.sha256(b"weights").hexdigest()


def hub_cache(tmp_path: Path, blob: str = DIGEST) -> Path:
    """A snapshot folder as huggingface_hub lays it out; its file `f` is a link to the blob."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / blob).write_bytes(b"weights")
    (snapshot / "f").symlink_to(f"../../blobs/{blob}")
    return snapshot


def opened(root: Path, name: str = "f") -> InputFile:
    return InputFile.open(root, name, error=BaseError)


def test_a_plain_file_is_read_at_any_offset(tmp_path: Path) -> None:
    data = os.urandom(10_000)
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path) as file:
        file.advise_sequential()
        file.will_need(0, 4096)
        assert file.nbytes == 10_000
        assert file.read(100, 300) == data[100:400]
        assert file.read(10_000, 0) == b""
        buffer = bytearray(9_999)
        file.read_into(memoryview(buffer), 1)
        assert buffer == data[1:]
        assert file.sha256() == hashlib.sha256(data).hexdigest()
        assert file.known_sha256 is None
        file.check_unchanged()


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, rooms, offset: preadv(fd, [rooms[0][:3]], offset))
    with opened(tmp_path) as file:
        assert file.read(1, 8) == b"12345678"


def test_a_range_outside_the_file_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with opened(tmp_path) as file:
        for offset, nbytes in ((0, 4), (4, 0), (-1, 1), (2, 2), (0, -1)):
            with pytest.raises(ValueError, match="is not inside"):
                file.read(offset, nbytes)


def test_a_missing_file_is_the_openers_error(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BaseError):
            opened(root)


@pytest.mark.parametrize("name", ["", ".", "..", "../f", "a/f", "/etc/passwd", "a\\f", "C:f", "f\0", "f\n"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with pytest.raises(UnsafeInputError):
        opened(tmp_path, name)


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "device", "link to a fifo", "link to a device"])
def test_what_is_no_regular_file_is_refused_without_waiting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    if "fifo" in kind:
        os.mkfifo("f" if kind == "fifo" else "g")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("f")
    elif kind == "directory":
        Path("f").mkdir()
    elif kind == "device":
        try:
            os.mknod("f", 0o020666, os.makedev(1, 5))
        except OSError:
            pytest.skip("needs the right to make a device")
    if kind.startswith("link"):
        Path("f").symlink_to("g" if "fifo" in kind else "/dev/zero")
    with pytest.raises(UnsafeInputError):
        opened(tmp_path)


def test_a_link_inside_its_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "f").symlink_to("real")
    with opened(tmp_path) as file:
        assert file.read(0, 3) == b"abc"


def test_a_folder_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"abc")
    (tmp_path / "root").symlink_to("real")
    with opened(tmp_path / "root") as file:
        assert file.read(0, 3) == b"abc"


@pytest.mark.parametrize("aim", ["../secret", "loop", "nowhere", "../root-sibling/x"])
def test_a_link_out_of_its_folder_or_to_nowhere_is_refused(tmp_path: Path, aim: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "x").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "loop").symlink_to("loop")
    (root / "f").symlink_to(aim)
    with pytest.raises(UnsafeInputError):
        opened(root)


def test_a_snapshot_of_the_hub_cache_is_read_and_its_blob_names_the_digest(tmp_path: Path) -> None:
    with opened(hub_cache(tmp_path)) as file:
        assert file.read(0, 7) == b"weights"
        assert file.known_sha256 == DIGEST


def test_a_git_blob_of_the_hub_cache_has_no_known_sha256(tmp_path: Path) -> None:
    with opened(hub_cache(tmp_path, "a" * 40)) as file:
        assert file.known_sha256 is None


def test_a_folder_inside_a_snapshot_reaches_the_blobs_too(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "sub").mkdir()
    (snapshot / "sub" / "f").symlink_to(f"../../../blobs/{DIGEST}")
    with opened(snapshot / "sub") as file:
        assert file.known_sha256 == DIGEST


def test_blobs_of_another_repository_are_out_of_reach(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "a")
    hub_cache(tmp_path / "b")
    (snapshot / "g").symlink_to(tmp_path / "b" / "models--org--name" / "blobs" / DIGEST)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_bytes(b"c0ffee")
    (snapshot / "h").symlink_to("../../refs/main")
    for name in ("g", "h"):
        with pytest.raises(UnsafeInputError):
            opened(snapshot, name)


def test_a_folder_that_only_looks_like_blobs_gives_no_digest(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / DIGEST).write_bytes(b"lies")
    with opened(tmp_path / "blobs", DIGEST) as file:
        assert file.known_sha256 is None


@pytest.mark.parametrize("change", ["append", "rewrite", "cut", "replace", "remove", "link"])
def test_a_file_changed_under_us_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abcdef")
    os.utime(path, ns=(1, 1))
    with opened(tmp_path) as file:
        file.check_unchanged()
        if change in ("append", "rewrite"):
            with open(path, "ab" if change == "append" else "r+b") as other:
                other.write(b"x")
        elif change == "cut":
            os.truncate(path, 3)
        elif change in ("replace", "link"):
            other_path = tmp_path / "g"
            other_path.write_bytes(b"abcdef")
            os.utime(other_path, ns=(1, 1))
            os.replace(other_path, path)
        else:
            path.unlink()
        with pytest.raises(InputChangedError):
            file.check_unchanged()
        if change == "cut":
            with pytest.raises(InputChangedError):
                file.read(0, 6)
        if change in ("replace", "remove"):
            assert file.read(0, 6) == b"abcdef", "reads stay on the file that was opened"


def test_no_descriptor_leaks_from_a_refusal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        with pytest.raises(UnsafeInputError):
            opened(tmp_path)
    assert len(os.listdir("/dev/fd")) == before
