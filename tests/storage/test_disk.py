"""The real disk: direct and buffered writes, copies, short writes, full disks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ingot.errors
from ingot.errors import IngotError, InputChangedError, OutputError, ResourceError
from ingot.storage import DIRECT_ALIGNMENT, PosixDisk, copying, kernel, round_up

DISK = PosixDisk()


def aligned(data: bytes) -> memoryview:
    buffer = memoryview(mmap.mmap(-1, round_up(len(data) or 1)))[: round_up(len(data))]
    buffer[: len(data)] = data
    return buffer


def write_whole(path: Path, data: bytes, *, direct: bool) -> bool:
    """Write `data` in aligned chunks, the last one padded; whether it was direct to the end."""
    file = DISK.create(path, nbytes=len(data), direct=direct)
    buffer = aligned(data)
    for begin in range(0, len(buffer), 2 * DIRECT_ALIGNMENT):
        file.write_at(buffer[begin : begin + 2 * DIRECT_ALIGNMENT], begin)
    file.truncate(len(data))
    was_direct = file.direct
    file.sync()
    file.close()
    file.close()
    return was_direct


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 4097, 30_000])
def test_bytes_and_length_arrive_direct_or_not(tmp_path: Path, nbytes: int, direct: bool) -> None:
    data = os.urandom(nbytes)
    assert write_whole(tmp_path / "f", data, direct=direct) in (direct, False)
    assert (tmp_path / "f").read_bytes() == data


def test_a_file_system_that_refuses_direct_at_open_gets_buffered_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", refuse(fcntl.fcntl, lambda _fd, command, _flags=0: command == fcntl.F_SETFL))
    assert write_whole(tmp_path / "f", b"x" * 9000, direct=True) is False
    assert (tmp_path / "f").read_bytes() == b"x" * 9000


def test_a_file_system_that_refuses_direct_at_the_first_write_gets_buffered_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_direct(fd: int, _data: object, _offset: int) -> bool:
        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))

    monkeypatch.setattr(os, "pwrite", refuse(os.pwrite, is_direct))
    assert write_whole(tmp_path / "f", b"x" * 9000, direct=True) is False
    assert (tmp_path / "f").read_bytes() == b"x" * 9000


def refuse(call: Callable[..., int], when: Callable[..., bool]) -> Callable[..., int]:
    """`call`, but EINVAL where `when` says so."""

    def refusing(*arguments: object) -> int:
        if when(*arguments):
            raise OSError(errno.EINVAL, "refused")
        return call(*arguments)

    return refusing


@pytest.mark.parametrize("pieces", [1, 4, 9])
def test_large_buffered_pieces_arrive_in_any_order(tmp_path: Path, pieces: int) -> None:
    data = os.urandom(pieces << 20)
    file = DISK.create(tmp_path / "f", nbytes=len(data), direct=False)
    for i in reversed(range(pieces)):
        file.write_at(data[i << 20 : (i + 1) << 20], i << 20)
    file.sync()
    file.close()
    assert (tmp_path / "f").read_bytes() == data


def test_an_error_of_writing_behind_is_told_and_not_left_to_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = DISK.create(tmp_path / "f", nbytes=8 << 20, direct=False)
    monkeypatch.setattr(kernel, "finish_writeout", fail)
    for i in range(4):
        file.write_at(bytes(1 << 20), i << 20)
    with pytest.raises(ResourceError, match="the disk failed"):
        file.write_at(bytes(1 << 20), 4 << 20)
    file.close()


def test_unaligned_writes_to_a_direct_file_still_arrive(tmp_path: Path) -> None:
    file = DISK.create(tmp_path / "f", nbytes=10, direct=True)
    file.write_at(b"hello", 5)
    file.write_at(bytearray(b"world"), 0)
    file.truncate(10)
    file.close()
    assert (tmp_path / "f").read_bytes() == b"worldhello"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    file = DISK.create(tmp_path / "f", nbytes=10, direct=False)
    file.write_at(b"0123456789", 0)
    file.close()
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_a_write_that_makes_no_progress_is_an_error_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _fd, _data, _offset: 0)
    with pytest.raises(ResourceError):
        DISK.create(tmp_path / "f", nbytes=10, direct=False).write_at(b"x", 0)


@pytest.mark.parametrize("direct", [True, False])
def test_many_threads_write_one_file(tmp_path: Path, direct: bool) -> None:
    data = os.urandom(64 * DIRECT_ALIGNMENT)
    buffer = aligned(data)
    file = DISK.create(tmp_path / "f", nbytes=len(data), direct=direct)

    def worker(first: int) -> None:
        for chunk in range(first, 64, 8):
            begin = chunk * DIRECT_ALIGNMENT
            file.write_at(buffer[begin : begin + DIRECT_ALIGNMENT], begin)

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.parametrize("plant", ["file", "link", "dangling link"])
def test_create_never_opens_what_is_there(tmp_path: Path, plant: str) -> None:
    aim = tmp_path / "aim"
    if plant != "dangling link":
        aim.write_bytes(b"precious")
    path = aim if plant == "file" else tmp_path / "link"
    if plant != "file":
        path.symlink_to(aim)
    with pytest.raises(OutputError):
        DISK.create(path, nbytes=1, direct=False)
    with pytest.raises(OutputError), open(__file__, "rb") as source:
        DISK.clone(path, source.fileno())
    assert (aim.read_bytes() == b"precious") if plant != "dangling link" else not aim.exists()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EFBIG, ResourceError),
        (errno.EIO, ResourceError), (errno.ENOMEM, ResourceError), (errno.EMFILE, ResourceError),
        (errno.EACCES, OutputError), (errno.EPERM, OutputError), (errno.EROFS, OutputError),
        (errno.ENOENT, OutputError), (errno.ENAMETOOLONG, OutputError), (errno.ESTALE, OutputError),
    ],
)  # fmt: skip
def test_every_errno_leaves_as_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[IngotError]
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    file = DISK.create(tmp_path / "f", nbytes=1, direct=False)
    for name in ("mkdir", "rename", "unlink", "rmdir", "fsync", "pwrite", "ftruncate"):
        monkeypatch.setattr(os, name, fail)
    path = tmp_path / "x"
    calls: tuple[Callable[[], object], ...] = (
        lambda: DISK.make_directory(path, 0o777), lambda: DISK.rename(path, path), lambda: DISK.remove(path),
        lambda: DISK.remove_directory(path), lambda: DISK.sync_directory(tmp_path), file.sync,
        lambda: file.write_at(b"1234", 0), lambda: file.truncate(3),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.where


def test_a_directory_that_cannot_be_synced_at_all_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse_sync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EINVAL, "not supported")

    monkeypatch.setattr(os, "fsync", refuse_sync)
    DISK.sync_directory(tmp_path)
    assert len(calls) == 1


def test_more_than_the_disk_holds_is_refused_at_once_and_leaves_no_file(tmp_path: Path) -> None:
    free = DISK.free_nbytes(tmp_path)
    with pytest.raises(ResourceError) as caught:
        DISK.create(tmp_path / "f", nbytes=free + (1 << 34), direct=True)
    assert f"{free + (1 << 34):,}" in str(caught.value)
    assert "free" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


COPIES = {
    "any": (),
    "copy_file_range": ("_reflink",),
    "read_write": ("_reflink", "_copy_in_kernel"),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("nbytes", [0, 1, 5000, 3 << 20])
def test_a_copy_has_all_bytes_whichever_way_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, nbytes: int
) -> None:
    for name in COPIES[way]:
        monkeypatch.setattr(copying, name, lambda *_arguments: 0)
    data = os.urandom(nbytes)
    (tmp_path / "source").write_bytes(data)
    with open(tmp_path / "source", "rb") as source:
        source.read(3)  # the descriptor's own position must not matter
        file, method = DISK.clone(tmp_path / "copy", source.fileno())
        file.sync()
        file.close()
    assert (tmp_path / "copy").read_bytes() == data
    assert method in ("reflink", "copy_file_range", "read_write")
    if way == "read_write":
        assert method == way


def test_a_source_that_shrinks_under_the_copy_is_told_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"x" * 100)
    with open(tmp_path / "source", "rb") as source:
        contents = copying.copy_contents
        monkeypatch.setattr(copying, "copy_contents", lambda a, b, nbytes: contents(a, b, nbytes + 1))
        monkeypatch.setattr(copying, "_reflink", lambda *_arguments: False)
        with pytest.raises(InputChangedError):
            DISK.clone(tmp_path / "copy", source.fileno())
    assert not (tmp_path / "copy").exists()


SMALL_DISKS = """
import os, subprocess, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from ingot.errors import ResourceError
from ingot.storage import PosixDisk
from tests.storage.toy import content_of, make, read_output
mount = Path({mount!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=64", "none", mount], check=True)
refused = finished = 0
for pages in range(1, 24):
    subprocess.run(["mount", "-o", f"remount,size={{pages * 4}}k", mount], check=True)
    try:
        make(PosixDisk(), mount / "out")
        finished += 1
    except ResourceError as error:
        assert "bytes free" in str(error), error
        assert read_output(mount / "out") is None
        refused += 1
assert read_output(mount / "out") == content_of("plan")
print(refused, finished)
"""


def test_full_disks_of_every_size_are_told_and_more_room_lets_the_same_command_finish(tmp_path: Path) -> None:
    script = SMALL_DISKS.format(root=str(Path(__file__).parents[2]), mount=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(Path(ingot.errors.__file__).parents[1]), "TMPDIR": "/var/tmp"}
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user and mount namespaces")
    run = subprocess.run(["unshare", "-Urm", sys.executable, "-c", script], env=environment, check=False,
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr
    refused, finished = map(int, run.stdout.split())
    assert refused >= 3
    assert finished >= 3


def test_a_link_is_made_once_and_a_mode_is_never_set_through_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0o644)
    DISK.link(tmp_path / "link", tmp_path / "file")
    assert os.readlink(tmp_path / "link") == str(tmp_path / "file")
    with pytest.raises(OutputError):
        DISK.link(tmp_path / "link", tmp_path / "other")
    with pytest.raises(OutputError):
        DISK.set_mode(tmp_path / "link", 0o444)
    DISK.set_mode(tmp_path / "file", 0o444)
    DISK.set_mode(tmp_path, 0o755)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o444
