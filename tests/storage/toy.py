"""A toy output of three files and a record, made the way the engine makes a checkpoint. Also a program: one process
of a crowd, `python toy.py TARGET IDENTITY [noflock] [slow] [restart]`, exit code as ingot's."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from ingot.errors import IngotError
from ingot.storage import RECORD_NAME, Disk, PosixDisk, Staging, round_up, sweep

CHUNK = 4096


def content_of(seed: str) -> dict[str, bytes]:
    chance = random.Random(seed)
    return {
        "model-00001-of-00002.safetensors": chance.randbytes(2 * CHUNK + 77),
        "model-00002-of-00002.safetensors": chance.randbytes(900),
        "config.json": b'{"a": ' + seed.encode() + b"}\n",
        RECORD_NAME: b'{"record": "' + seed.encode() + b'"}\n',
    }


def make(disk: Disk, target: Path, seed: str = "plan", *, restart: bool = False, pause_s: float = 0) -> None:
    """Make, resume or find done the output of `seed` at `target`."""
    content = content_of(seed)
    if read_output(target) == content:
        sweep(disk, target)
        return
    with Staging.open(disk, target, {"plan": seed, "tool": "1"}, restart=restart) as staging:
        for name, data in content.items():
            if name != RECORD_NAME and staging.trust(name) is None:
                time.sleep(pause_s)
                _make_file(staging, name, data)
        staging.publish(content[RECORD_NAME])


def _make_file(staging: Staging, name: str, data: bytes) -> None:
    if name == "config.json":
        staging.write(name, data)
    elif name.startswith("model-00002"):
        with tempfile.TemporaryFile() as source:
            source.write(data)
            source.flush()
            staging.copy(name, source.fileno(), extra={"copied": True})
    else:
        staged = staging.create(name, len(data))
        # Not closed by hand: a write that raises keeps views of it in its traceback.
        buffer = memoryview(mmap.mmap(-1, round_up(len(data))))
        buffer[: len(data)] = data
        for begin in range(0, len(buffer), CHUNK):
            staged.write_at(buffer[begin : begin + CHUNK], begin)
        staging.commit(staged, hashlib.sha256(data).hexdigest(), {"tensors": {"a": [1, 2.5, None]}})


def read_output(target: Path) -> dict[str, bytes] | None:
    """All that a reader of the output sees; None when it is not there."""
    if not target.is_dir():
        return None
    return {path.name: path.read_bytes() for path in target.iterdir()}


def main(target: str, seed: str, *options: str) -> int:
    if "noflock" in options:
        fcntl.flock = lambda _fd, _operation: None
    try:
        make(PosixDisk(), Path(target), seed, restart="restart" in options, pause_s=0.01 if "slow" in options else 0)
    except IngotError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(*sys.argv[1:]))
