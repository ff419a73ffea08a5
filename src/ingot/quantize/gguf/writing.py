"""What the `gguf` library's writer makes, as bytes: it writes files alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.errors import OutputError

if TYPE_CHECKING:
    from gguf import GGUFWriter


def check_new_file(target: Path) -> None:
    """Raises OutputError where `target` is there, or cannot be: before the work, and not after it."""
    if target.exists() or target.is_symlink():
        raise OutputError("the output exists", where=target, hint="Choose another name with -o.")
    if not target.absolute().parent.is_dir():
        raise OutputError("the directory of the output does not exist", where=target.parent,
                          hint=f"Make it: mkdir -p {target.parent}")  # fmt: skip


def whole_file(writer: GGUFWriter) -> bytes:
    """The file of a writer with all its keys and tensors."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def headers(writer: GGUFWriter, name: str) -> dict[str, bytes]:
    """By file name, the bytes before the data: of `name`, or of the several files that the writer splits it into."""
    with tempfile.TemporaryDirectory() as directory:
        writer.write_header_to_file(Path(directory) / name)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        paths = [Path(file.name) for file in writer.fout or ()]
        writer.close()
        return {path.name: path.read_bytes() for path in paths}
