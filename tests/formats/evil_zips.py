"""Zip files that torch.save does not write, each around an honest pickle."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

from .evil_case import Case, Content, torch_case
from .evil_pickles import HONEST
from .pickle_assembler import archive, state_dict, tensor, whole

_PICKLE = whole(state_dict(tensor()))


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
        file.comment = comment
    return buffer.getvalue()


def _bomb(name: str) -> bytes:
    return _zip(_HONEST_MEMBERS | {name: bytes(64 << 20)}, zipfile.ZIP_DEFLATED)


def _patched(where: Callable[[bytes], int], form: str, value: int) -> bytes:
    data = bytearray(HONEST)
    struct.pack_into(form, data, where(HONEST), value)
    return bytes(data)


def _local(name: str, field: int) -> Callable[[bytes], int]:
    """Offset of a field of the member's local header."""
    return lambda data: data.index(name.encode()) - 30 + field


def _central(name: str, field: int) -> Callable[[bytes], int]:
    """Offset of a field of the member's directory entry."""
    return lambda data: data.rindex(name.encode()) - 46 + field


def _end(field: int) -> Callable[[bytes], int]:
    return lambda data: len(data) - 22 + field


_DATA, _PKL = "archive/data/0", "archive/data.pkl"
_HONEST_MEMBERS = {_PKL: _PICKLE, _DATA: bytes(16)}

_FILES: dict[str, Content] = {
    "deflated": _zip(_HONEST_MEMBERS, zipfile.ZIP_DEFLATED),
    "bzip2": _zip(_HONEST_MEMBERS, zipfile.ZIP_BZIP2),
    "lzma": _zip(_HONEST_MEMBERS, zipfile.ZIP_LZMA),
    "a bomb: 64 MB of zeros in a storage": lambda _: _bomb(_DATA),
    "a bomb: 64 MB of zeros in the pickle": lambda _: _bomb(_PKL),
    "a pickle of 65 MB": lambda _: archive(bytes(65 << 20)),
    "a comment": _zip(_HONEST_MEMBERS, comment=b"x"),
    "bytes after the end": HONEST + b"x",
    "a second end record": HONEST + HONEST[-22:],
    "bytes before the start": b"#!/bin/sh\n" + HONEST,
    "a zip before the zip": _zip({"x": b"y"}) + HONEST,
    "an empty zip": _zip({}),
    "no data.pkl": _zip({_DATA: bytes(16)}),
    "data.pkl without a root": _zip({"data.pkl": _PICKLE, "data/0": bytes(16)}),
    "two roots": _zip(_HONEST_MEMBERS | {"other/data.pkl": _PICKLE}),
    "TorchScript": _zip(_HONEST_MEMBERS | {"archive/constants.pkl": b"", "archive/code/x.py": b""}),
    "big-endian": _zip(_HONEST_MEMBERS | {"archive/byteorder": b"big"}),
    "middle-endian": _zip(_HONEST_MEMBERS | {"archive/byteorder": b"middle"}),
    "a byte order of 1 MB": _zip(_HONEST_MEMBERS | {"archive/byteorder": bytes(1 << 20)}),
    "a legacy pickle": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
    "nothing": b"",
    "text": b"hello, this is no model",
    "only an end record": b"PK\5\6" + bytes(18),
    "a safetensors file": (2).to_bytes(8, "little") + b"{}",
}  # fmt: skip

_NAMES = [
    "archive/../x", "../x", "/etc/passwd", "archive//x", "archive/./x", "archive/x/", "archive\\x", "C:/x",
    "archive/\n", "archive/\x1b[m", "archive/", "archive/a:b", "\\\\host\\share",
]  # fmt: skip


def _with_name(name: str) -> bytes:
    # zipfile cleans names, so one of the same length is overwritten.
    stand_in = "archive/" + "_" * (len(name.encode()) - 8) if len(name) > 8 else "_" * len(name.encode())
    return _zip(_HONEST_MEMBERS | {stand_in: b""}).replace(stand_in.encode(), name.encode())


def _with_twin() -> bytes:
    twin = _zip(_HONEST_MEMBERS | {"archive/data/1": bytes(16)})
    return twin.replace(b"archive/data/1", b"archive/data/0")


_LIES: dict[str, bytes] = {
    "two members of one name": _with_twin(),
    "the directory says one byte more": _patched(_central(_DATA, 24), "<I", 17),
    "the directory says one byte less": _patched(_central(_DATA, 24), "<I", 15),
    "both sizes of the directory say more": _patched(_central(_DATA, 20), "<Q", 17 | 17 << 32),
    "both sizes of the directory say less": _patched(_central(_DATA, 20), "<Q", 15 | 15 << 32),
    "both sizes of the directory say 4 GB": _patched(_central(_DATA, 20), "<Q", 0xFFFFFFFE | 0xFFFFFFFE << 32),
    "64-bit sizes that are not there": _patched(_central(_DATA, 20), "<Q", 2**64 - 1),
    "the local header says more": _patched(_local(_DATA, 22), "<I", 17),
    "the local header packs more": _patched(_local(_DATA, 18), "<I", 17),
    "the local header is deflated": _patched(_local(_DATA, 8), "<H", 8),
    "the local header is encrypted": _patched(_local(_DATA, 6), "<H", 1),
    "the local header has a longer name": _patched(_local(_DATA, 26), "<H", 15),
    "the local header has a long extra field": _patched(_local(_DATA, 28), "<H", 60_000),
    "the local header has another checksum": _patched(_local(_DATA, 14), "<I", 1),
    "the local header has another name": _patched(_local(_DATA, 30), "<B", ord("A")),
    "the local header has no signature": _patched(_local(_DATA, 0), "<I", 0),
    "the directory is encrypted": _patched(_central(_DATA, 8), "<H", 1),
    "the directory masks its values": _patched(_central(_DATA, 8), "<H", 1 << 13),
    "the directory deflates": _patched(_central(_DATA, 10), "<H", 8),
    "the directory points into the pickle": _patched(_central(_DATA, 42), "<I", 8),
    "the directory points at another member": _patched(_central(_DATA, 42), "<I", 0),
    "the directory points beyond the end": _patched(_central(_DATA, 42), "<I", 2**31),
    "the directory points at its own end": _patched(_central(_DATA, 42), "<I", len(HONEST) - 22),
    "the directory names another disk": _patched(_central(_DATA, 34), "<H", 1),
    "the directory has a comment": _patched(_central(_DATA, 32), "<H", 1),
    "the directory has a long name": _patched(_central(_DATA, 28), "<H", 60_000),
    "the directory has no signature": _patched(_central(_DATA, 0), "<I", 0),
    "the pickle has another checksum": _patched(lambda data: data.index(b"_rebuild"), "<B", ord("X")),
    "the end record says one member more": _patched(_end(8), "<I", 5 | 5 << 16),
    "the end record says one member less": _patched(_end(8), "<I", 3 | 3 << 16),
    "the end record says two numbers": _patched(_end(10), "<H", 5),
    "the end record says no members": _patched(_end(8), "<I", 0),
    "the end record moves the directory": _patched(_end(16), "<I", 0),
    "the end record shrinks the directory": _patched(_end(12), "<I", 10),
    "the end record has a comment": _patched(_end(20), "<H", 1),
    "the end record is of disk 1": _patched(_end(4), "<H", 1),
    "the end record needs 64 bits": _patched(_end(16), "<I", 2**32 - 1),
}

ZIPS: list[Case] = [
    *(torch_case(name, content) for name, content in _FILES.items()),
    *(torch_case(name, content) for name, content in _LIES.items()),
    *(torch_case(f"member {name!a}", _with_name(name)) for name in _NAMES),
]
