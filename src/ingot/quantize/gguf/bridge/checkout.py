"""A checkout of llama.cpp: the converter, the modules that it is made of, and its own gguf-py."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import UsageError

#: What the converter is made of, as far as the checkout has it; older ones have no `conversion`.
_CODE = ("convert_hf_to_gguf.py", "conversion/**/*.py", "gguf-py/gguf/**/*.py")
_NEEDED = ("convert_hf_to_gguf.py", "gguf-py/gguf/gguf_writer.py")


@dataclass(frozen=True)
class Checkout:
    """A folder that holds llama.cpp's converter. `digest` is the sha256 of the names and bytes of its Python files."""

    path: Path
    digest: str

    @classmethod
    def open(cls, path: Path) -> Checkout:
        """Look at the folder; nothing of it is run.

        Raises:
            UsageError: it is no checkout of llama.cpp, or cannot be read.
        """
        missing = [name for name in _NEEDED if not (path / name).is_file()]
        if missing:
            raise UsageError(
                "--llama-cpp names no checkout of llama.cpp", where=path, expected=" and ".join(_NEEDED),
                found=f"no {' and no '.join(missing)}" if path.is_dir() else "no such directory",
                hint="Get one with `git clone https://github.com/ggml-org/llama.cpp`, and name its directory.",
            )  # fmt: skip
        whole = hashlib.sha256()
        try:
            for file in sorted({file for pattern in _CODE for file in path.glob(pattern)}):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                whole.update(f"{file.relative_to(path).as_posix()}\0{digest}\n".encode())
        except OSError as error:
            raise UsageError("cannot read the checkout", where=error.filename or path, found=error.strerror) from error
        return cls(path.absolute(), whole.hexdigest())

    @property
    def title(self) -> str:
        """As records name it."""
        return f"llama.cpp's converter, sha256:{self.digest[:12]}"
