"""Runs llama.cpp's converter on a folder whose weights another process has. Started by `converter`, never imported.

    child.py CHECKOUT FOLDER OUTTYPE PRE READ_FD WRITE_FD

It says, a line of JSON each, {"read": [first byte, bytes]} and gets those bytes; {"described": ...} once the converter
would write tensors; and then, for each name that it gets, {"tensor": file}, a file that has the bytes.

Two things of the checkout's gguf-py are replaced: `utility.LocalTensor.mmap_bytes`, which reads a tensor's bytes from
a file, and `GGUFWriter.write_tensors_to_file`. The rest is the converter's own: it does not know.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


class Parent:
    """The other side of two pipes."""

    def __init__(self, read_fd: int, write_fd: int, file: Path) -> None:
        self._file = file
        self._from = os.fdopen(read_fd, "rb")
        self._to = os.fdopen(write_fd, "wb", buffering=0)

    def bytes_of(self, tensor: Any) -> Any:
        """What `LocalTensor.mmap_bytes` gives: uint8[bytes]."""
        import numpy as np

        self._say({"read": [tensor.data_range.offset, tensor.data_range.size]})
        data = np.empty(tensor.data_range.size, np.uint8)
        if self._from.readinto(data.data) != data.size:
            os._exit(1)
        return data

    def serve(self, writer: Any) -> None:
        """In the place of writing tensors: say what there is, and give each that is asked for, once."""
        infos = {name: info for part in writer.tensors for name, info in part.items()}
        keys = [[name, int(kv.type), kv.sub_type and int(kv.sub_type), plain(kv.value, bool(kv.type == 9))]
                for part in writer.kv_data for name, kv in part.items()]  # fmt: skip
        tensors = [[name, [int(n) for n in info.shape], info.dtype.name] for name, info in infos.items()]
        self._say({"described": {"architecture": writer.arch, "keys": keys, "tensors": tensors}})
        for line in self._from:
            info = infos.pop(json.loads(line))
            with self._file.open("wb") as file:
                info.tensor.tofile(file)  # which asks for the bytes that it is made of
            info.tensor = None
            self._say({"tensor": str(self._file)})
        os._exit(0)

    def _say(self, message: object) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[self._to.write(data) :]


def plain(value: Any, array: bool) -> Any:
    """A key's value as JSON has it; bytes that are no UTF-8 become lone surrogates."""
    if isinstance(value, bytes | bytearray):
        return list(value) if array else value.decode("utf-8", "surrogateescape")
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, False) for item in value]
    return value


def main() -> None:
    checkout, folder, outtype, pre, read_fd, write_fd = sys.argv[1:]
    sys.path[:0] = [str(Path(checkout) / "gguf-py"), checkout]
    gguf: Any = import_module("gguf")
    utility: Any = import_module("gguf.utility")
    if not hasattr(getattr(utility, "LocalTensor", None), "mmap_bytes"):
        sys.exit("this llama.cpp is too old, or too new: its gguf-py has no utility.LocalTensor.mmap_bytes")
    converter: Any = import_module("convert_hf_to_gguf")
    parent = Parent(int(read_fd), int(write_fd), Path(folder) / "tensor")
    utility.LocalTensor.mmap_bytes = lambda tensor: parent.bytes_of(tensor)
    gguf.GGUFWriter.write_tensors_to_file = lambda writer, **_: parent.serve(writer)
    if pre:
        models: Any = sys.modules.get("conversion.base", converter)
        models.TextModel.get_vocab_base_pre = lambda _self, _tokenizer: pre
    outfile = Path(folder) / "header.gguf"
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", str(outfile), "--outtype", outtype]
    converter.main()
    sys.exit("the converter ended without writing tensors")


if __name__ == "__main__":
    main()
