"""ggml's own quantizers, called in an installed library that carries them.

Two packages do: xllamacpp (a wheel, one file) and llama-cpp-python. A library is taken only if it knows the types by
our numbers and sizes, and if it makes the bytes of llama.cpp's default build for x86-64 (`selftest`); each type is
tested before its first use.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from ingot.errors import UsageError
from ingot.quantize.gguf import selftest
from ingot.quantize.gguf.quantizer import Array, Bytes, check_scales, checked, too_large
from ingot.quantize.gguf.types import GgmlType, ggml_type

#: (distribution, module, library inside the module's folder).
_PACKAGES = (("xllamacpp", "xllamacpp", "*.so"), ("llama-cpp-python", "llama_cpp", "lib/libggml-base.so"))
#: Types that a library is judged by when it is opened: they need no tables, and differ in a build with fused
#: multiply-add.
_FIRST = ("Q4_0", "Q4_K", "Q6_K")
_ONLY_NUMPY = "numpy; importance matrices, IQ types, Q2_K and Q3_K need ggml's own code"
#: Types for which ggml stops the process when it is given no importance matrix.
NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})


@dataclass(frozen=True)
class Refusal:
    """A library that is installed and not used."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What was found on this machine: the library that is used, if any, and those that were refused."""

    library: Library | None
    refused: tuple[Refusal, ...]

    def lines(self) -> list[str]:
        """What `doctor` says of it."""
        used = f"ggml's own code from {self.library.name}" if self.library else _ONLY_NUMPY
        return [used, *(f"not used: {refusal.name}: {refusal.reason}" for refusal in self.refused)]


@dataclass(frozen=True, eq=False)
class Library:
    """An opened library that has passed the first tests.

    Attributes:
        name: package and version.
    """

    name: str
    code: ctypes.CDLL

    @functools.cached_property
    def _tested(self) -> dict[tuple[str, bool], str | None]:
        return {}

    def refuses(self, of: GgmlType, *, weighted: bool) -> str | None:
        """Why this type is not taken from it; None: it is. With `weighted`, with an importance matrix."""
        case = (of.name, weighted)
        if case not in self._tested:
            self._tested[case] = self._test(of, weighted=weighted)
        return self._tested[case]

    def quantizer(self, of: GgmlType) -> NativeQuantizer:
        """The quantizer of a type that it does not refuse."""
        return NativeQuantizer(of, self.name, self.code)

    def _test(self, of: GgmlType, *, weighted: bool) -> str | None:
        known = selftest.DIGESTS[of.name][weighted]
        if known is None:
            return None
        name = self.code.ggml_type_name(of.id)
        if name is None or name.decode("ascii", "replace").casefold() != of.name.casefold():
            return f"its type {of.id} is {name!r}, not {of.name}"
        if self.code.ggml_row_size(of.id, selftest.COLUMNS) != of.row_nbytes(selftest.COLUMNS):
            return f"a block of its {of.name} has another size"
        if selftest.digest(self.quantizer(of).quantize, weighted=weighted) != known:
            return f"its {of.name} is not that of llama.cpp's default x86-64 build (another version, or built with FMA)"
        return None


@dataclass(frozen=True)
class NativeQuantizer:
    """See `Quantizer`."""

    type: GgmlType
    backend: str
    _code: ctypes.CDLL

    def quantize(self, rows: Array, importance: Array | None = None) -> Bytes:
        if importance is None and self.type.name in NEED_IMPORTANCE:
            raise UsageError(f"{self.type.name} needs an importance matrix")
        rows = checked(rows, self.type, importance)
        coded = np.empty((len(rows), self.type.row_nbytes(rows.shape[1])), dtype=np.uint8)
        if not rows.size:
            return coded
        weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
        self._code.ggml_quantize_chunk(
            self.type.id, rows.ctypes.data, coded.ctypes.data, 0, *rows.shape,
            None if weights is None else weights.ctypes.data,
        )  # fmt: skip
        check_scales(coded, rows, self.type)
        if not self._code.ggml_validate_row_data(self.type.id, coded.ctypes.data, coded.nbytes):
            raise too_large(rows, self.type, int(np.argmax(np.abs(rows))))
        return coded


@functools.cache
def find() -> Found:
    """Open the first library that passes; asks the machine once."""
    refused: list[Refusal] = []
    for name, path in installed():
        opened = open_library(name, path)
        if isinstance(opened, Library):
            return Found(opened, tuple(refused))
        refused.append(opened)
    return Found(None, tuple(refused))


def open_library(name: str, path: Path) -> Library | Refusal:
    """The library at `path`, or why it is not taken."""
    try:
        code = ctypes.CDLL(str(path))
        declare(code)
    except (OSError, AttributeError) as error:
        return Refusal(name, f"it cannot be used: {error}")
    version = getattr(code, "ggml_version", None)
    if version is not None:
        version.restype = ctypes.c_char_p
        name += f" (ggml {version().decode('ascii', 'replace')})"
    library = Library(name, code)
    reasons = (library.refuses(ggml_type(first), weighted=weighted) for first in _FIRST for weighted in (False, True))
    reason = next((reason for reason in reasons if reason), None)
    return Refusal(name, reason) if reason else library


def installed() -> Iterator[tuple[str, Path]]:
    """(package and version, library) of all that may have the code; nothing is imported."""
    for distribution, module, pattern in _PACKAGES:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob(pattern))[:1]:
                yield f"{distribution} {_version(distribution)}", path


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def declare(code: ctypes.CDLL) -> None:
    """Tell ctypes the signatures of the four functions that are called.

    Raises:
        AttributeError: one is missing.
    """
    number, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    code.ggml_type_name.argtypes, code.ggml_type_name.restype = [number], ctypes.c_char_p
    code.ggml_row_size.argtypes, code.ggml_row_size.restype = [number, size], ctypes.c_size_t
    code.ggml_validate_row_data.argtypes = [number, pointer, ctypes.c_size_t]
    code.ggml_validate_row_data.restype = ctypes.c_bool
    code.ggml_quantize_chunk.argtypes = [number, pointer, pointer, size, size, size, pointer]
    code.ggml_quantize_chunk.restype = ctypes.c_size_t
