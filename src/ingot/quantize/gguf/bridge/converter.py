"""The converter of a checkout, running: what its file would hold, and the tensors of it, one by one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ingot.errors import BaseError, IngotError, MissingComponent
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.bridge.checkout import Checkout

_CHILD = Path(__file__).with_name("child.py")
_LOG = "converter.log"
#: What the tensors of a converted file may be; what is quantized already is no merged weight.
_FLOATS = ("F32", "F16", "BF16")
#: General keys that tell what `metadata` tells better, or what is true of the converter's own file only.
_OF_ITS_FILE = re.compile(
    r"general\.(type|name|basename|finetune|version|organization|author|size_label|file_type|quantization_version|"
    r"alignment|quantized_by|base_model\..*)"
)
_SECONDS_TO_END = 5
_TAIL_NBYTES = 1 << 16


@dataclass(frozen=True)
class Described:
    """A file of the converter before its tensors.

    Attributes:
        architecture: `general.architecture`.
        keys: name, number of its type, number of its elements' type, and value (texts with lone surrogates for bytes
            that are no UTF-8), in the converter's order; without those that tell of its own file.
        stored: tensor name -> the type that the converter gives it: F32, F16 or BF16.
    """

    architecture: str
    keys: tuple[tuple[str, int, int | None, Any], ...]
    tensors: tuple[GgufTensor, ...]
    stored: dict[str, str]


class Converter:
    """A process that converts the model in `folder`; its output goes to a log there. Close it.

    Raises:
        BaseError: the converter refuses the model, or fails; its last line is told.
        MissingComponent: it wants a library that is not installed.
    """

    def __init__(
        self,
        checkout: Checkout,
        folder: Path,
        outtype: str,
        pre: str | None,
        read: Callable[[int, int], Iterator[memoryview]],
    ) -> None:
        """`read` gives bytes of the folder's file of weights, by first byte and number."""
        self._folder, self._read, self._pre = folder, read, pre
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = [sys.executable, "-P", str(_CHILD), str(checkout.path), str(folder), outtype, pre or ""]
        try:
            with (folder / _LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, str(theirs_in), str(theirs_out)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(theirs_in, theirs_out), env=_environment(), start_new_session=True,
                )  # fmt: skip
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._to, self._from = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        try:
            self.described = _described(self._answer("described"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._from.close()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tensor(self, name: str) -> bytearray:
        """All bytes of one of the tensors, in the type that `described.stored` tells. Each is given once."""
        self._say(json.dumps(name).encode() + b"\n")
        with Path(self._answer("tensor")).open("rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
            os.unlink(file.name)
        return data

    def _answer(self, kind: str) -> Any:
        """The next message of that kind; the bytes that the converter wants before it are given."""
        while line := self._from.readline():
            message = json.loads(line)
            if "read" not in message:
                return message[kind]
            for part in self._read(*message["read"]):
                self._say(part)
        raise self._failure()

    def _say(self, data: bytes | memoryview) -> None:
        try:
            self._to.write(data)
            self._to.flush()
        except BrokenPipeError as error:
            raise self._failure() from error

    def _failure(self) -> IngotError:
        """What the log says of a process that has ended."""
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
        text = (self._folder / _LOG).read_bytes()[-_TAIL_NBYTES:].decode("utf-8", "replace")
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
        if "ModuleNotFoundError" in last:
            hint = "Install it: the checkout's requirements/ name what its converter needs."
            what = "llama.cpp's converter needs a library that is not installed"
            return MissingComponent(what, found=last, hint=hint)
        hint = "Try another version of llama.cpp; or merge to safetensors, and convert that by hand to see more."
        if "pre-tokenizer" in text and "not recognized" in text and self._pre is None:
            hint = "Name the pre-tokenizer that llama.cpp shall use, with --pre NAME."
        return BaseError("llama.cpp's converter does not convert this model", found=last, hint=hint)


def _environment() -> dict[str, str]:
    """Ours, without a network for Hugging Face's libraries, and without a trace in the checkout."""
    ours = {name: value for name, value in os.environ.items() if name not in ("NO_LOCAL_GGUF", "PYTHONPATH")}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**ours, **offline, "PYTHONDONTWRITEBYTECODE": "1"}


def _described(message: Any) -> Described:
    tensors, stored = [], {}
    for name, shape, of in message["tensors"]:
        if of not in _FLOATS or not shape:
            raise BaseError(
                "the converter makes a tensor that is not quantized here", where=name, found=f"{of}{shape}",
                expected=f"rows of {', '.join(_FLOATS)}", hint="Merge to safetensors, and convert that by hand.",
            )  # fmt: skip
        tensors.append(GgufTensor(name, tuple(shape)))
        stored[name] = of
    keys = tuple((key, *rest) for key, *rest in message["keys"] if not _OF_ITS_FILE.fullmatch(key))
    return Described(message["architecture"], keys, tuple(tensors), stored)
