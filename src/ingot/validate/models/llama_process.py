"""llama.cpp in a process of its own, on a port of this machine, with a key that only we know."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import IO, Self

from ingot.errors import BaseError, MissingComponent
from ingot.quantize.gguf.types import INSTALL

_CHILD = Path(__file__).with_name("llama_child.py")
_WAIT_SECONDS = 10.0
#: What it says when it fails: a line of its log (time, E for error, the function), or an assertion (source file, line).
_ERROR = re.compile(r"[\d.]+ E +(?:srv +|cmn +)?\w+: (.*)|\S+\.(?:c|cpp|h):\d+: (.*)")
_MOST_SAID = 300


def runtime() -> str:
    """What runs GGUF files here: package and version.

    Raises:
        MissingComponent: it is not installed.
    """
    if util.find_spec("xllamacpp") is None:
        raise MissingComponent("llama.cpp, which runs GGUF files, is not installed (xllamacpp)", hint=INSTALL)
    return f"xllamacpp {metadata.version('xllamacpp')}"


class LlamaProcess:
    """A running llama.cpp with one model. `close` it; it also ends when this process does, however that comes."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes], key: str, url: str) -> None:
        """Use `start`. `url` is the server's root; requests carry `key` as a bearer token."""
        self.key = key
        self.url = url
        self._name = name
        self._process = process
        self._log = log

    @classmethod
    def start(cls, file: Path, *, context: int, threads: int, gpu: bool = False) -> Self:
        """Load a GGUF file (the first of a split one) and wait until it can be asked.

        Args:
            context: tokens that fit into the cache of keys and values, which is allocated at once.
            threads: that compute.
            gpu: let llama.cpp put layers on an accelerator, where its build has one.

        Raises:
            BaseError: llama.cpp does not load the file; its reason is told.
            MissingComponent: it is not installed.
        """
        runtime()
        key = secrets.token_hex(16)
        settings = {
            "path": str(file.absolute()), "alias": file.name, "context": context, "threads": threads, "gpu": gpu,
            "key": key,
        }  # fmt: skip
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            start_new_session=True,  # a Ctrl-C is ours to answer
        )  # fmt: skip
        started = cls(file.name, process, log, key, "")
        try:
            started.url = started._handshake(settings)
        except BaseException:
            started.close()
            raise
        return started

    def _handshake(self, settings: dict[str, object]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.fault("llama.cpp does not start") from None
        line = self._process.stdout.readline().decode("utf-8", "replace").strip()
        if not line.startswith("http://"):
            raise self.fault("llama.cpp does not load the file")
        return line

    def fault(self, what: str) -> BaseError:
        """An error about a process that has ended or is of no more use, with what llama.cpp said last."""
        try:
            code: int | None = self._process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        return BaseError(what, where=self._name, found=self._said() or _ended(code))

    def ended(self, seconds: float = 1.0) -> bool:
        """Whether the process is no more, or will be within `seconds`: a broken connection is known before its end."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _said(self) -> str | None:
        """The first of llama.cpp's errors, which is the cause of the others; or the last line of anything else."""
        self._log.seek(0)
        lines = self._log.read(1 << 20).decode("utf-8", "replace").splitlines()
        errors = [found[1] or found[2] for line in lines if (found := _ERROR.fullmatch(line))]
        said = errors[0] if errors else next((line for line in reversed(lines) if line.strip()), "")
        return said.removeprefix("error loading model: ").strip()[:_MOST_SAID] or None

    def close(self) -> None:
        """End the process and wait for it; idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _ended(code: int | None) -> str:
    if code is None:
        return "no answer"
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
