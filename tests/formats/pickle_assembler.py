"""Pickles opcode by opcode, and the zip that torch.save puts around them, by way of the standard library alone."""

from __future__ import annotations

import io
import struct
import zipfile

PROTO, STOP, MARK = b"\x80\x02", b".", b"("


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True) if not 0 <= value < 256 else b"K" + bytes([value])


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def axes(values: tuple[int, ...]) -> bytes:
    return MARK + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", kind: tuple[str, str] = ("torch", "FloatStorage"), numel: int = 4) -> bytes:
    return MARK + text("storage") + named(*kind) + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (2, 2),
    stride: tuple[int, ...] = (2, 1),
    source: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    view = (source or storage()) + number(offset) + axes(shape) + axes(stride) + b"\x89"
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + MARK
        + view
        + named("collections", "OrderedDict")
        + b")R"
        + tail
        + b"tR"
    )


def state_dict(*items: bytes) -> bytes:
    """{"a": item, "b": item, ...}"""
    return b"}" + MARK + b"".join(text(chr(97 + i)) + item for i, item in enumerate(items)) + b"u"


def archive(pickle: bytes, data: bytes = bytes(16), members: dict[str, bytes] | None = None) -> bytes:
    """What torch.save would write around `pickle`, by way of the standard library."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/data/0", data)
        file.writestr("archive/version", b"3\n")
        for name, content in (members or {}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def whole(value: bytes) -> bytes:
    return PROTO + value + STOP


def blob(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value
