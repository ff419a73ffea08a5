"""Many processes on one target, and threads in one run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ingot.errors
from ingot.storage import PosixDisk, Staging
from tests.storage.toy import content_of, read_output

TOY = Path(__file__).with_name("toy.py")
SOURCE = Path(ingot.errors.__file__).parents[1]


def crowd(target: Path, seeds: list[str], *options: str) -> list[int]:
    """Exit codes of one process a seed, all on `target` at once."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    processes = [
        subprocess.Popen(
            [sys.executable, TOY, target, seed, *options], env=environment, stderr=subprocess.PIPE, text=True
        )
        for seed in seeds
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert set(codes) <= {0, 15}, errors
    return codes


@pytest.mark.parametrize("options", [("slow",), ("slow", "noflock"), ("noflock",)], ids=" ".join)
@pytest.mark.parametrize("seeds", [["p"] * 8, ["p", "q"] * 4], ids=["one plan", "two plans"])
def test_eight_processes_make_one_right_output_and_never_a_mixed_one(
    tmp_path: Path, seeds: list[str], options: tuple[str, ...]
) -> None:
    target = tmp_path / "out"
    codes = crowd(target, seeds, *options)
    made = read_output(target)
    right = [content_of(seed) for seed in set(seeds)]
    if "noflock" not in options:
        assert 0 in codes
    # Without a lock every run may have been taken over by one that was then refused: nothing is there, which the next
    # run mends.
    if made is None:
        assert 0 not in codes
        assert crowd(target, seeds[:1], "restart") == [0]
    else:
        assert made in right
        assert all(code == 15 for seed, code in zip(seeds, codes, strict=True) if content_of(seed) != made)


def test_sixteen_threads_commit_into_one_staging(tmp_path: Path) -> None:
    files = {f"f{i}": os.urandom(5000 + i) for i in range(16)}
    with Staging.open(PosixDisk(), tmp_path / "out", {"plan": "x"}) as staging:
        threads = [threading.Thread(target=staging.write, args=item) for item in files.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        staging.abandon()
    with Staging.open(PosixDisk(), tmp_path / "out", {"plan": "x"}) as staging:
        assert {name: entry.sha256 for name, entry in staging.finished.items()} == {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
        assert all(staging.trust(name) for name in files)
        staging.publish(b"{}")
    assert read_output(tmp_path / "out") == {**files, "ingot.json": b"{}"}


def test_one_name_cannot_be_written_twice_at_once(tmp_path: Path) -> None:
    with Staging.open(PosixDisk(), tmp_path / "out", {"plan": "x"}) as staging:
        staging.create("a", 1)
        with pytest.raises(ValueError, match="already being written"):
            staging.create("a", 1)
