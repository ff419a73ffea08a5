"""One GGUF file: its keys and tensors."""

from __future__ import annotations

from pathlib import Path

from ingot.errors import BaseError, printable
from ingot.formats.gguf import GgufHeader, Value, read_gguf
from ingot.inspect.report import Report, by_pattern, dtypes, dtypes_text
from ingot.plan.figures import counted, nbytes_text
from ingot.storage.inputs import InputFile

#: Longest value that is shown; a vocabulary is told by its length.
_SHOWN = 100


def inspect_gguf(path: Path) -> Report:
    """The report of a .gguf file. Raises BaseError, UnsafeInputError where it cannot be read."""
    with InputFile.open(path.parent, path.name, error=BaseError) as file:
        header = read_gguf(file.fd, file=path.name, incomplete=BaseError)
    refs, types = header.tensors, dtypes(header.tensors)
    patterns, rows = by_pattern(refs)
    parameters = sum(types.values())
    bits = 8 * sum(ref.nbytes for ref in refs) / parameters if parameters else 0.0
    facts: dict[str, object] = {
        "name": path.name, "format": "gguf", "version": header.version, "nbytes": header.file_nbytes,
        "tensors": len(refs), "parameters": parameters, "types": types, "bits_per_weight": bits,
        "keys": {key: _fact(value) for key, value in header.keys.items()}, "groups": patterns,
    }  # fmt: skip
    size = f"{counted(len(refs), 'tensor')}, {parameters:,} elements, {nbytes_text(header.file_nbytes)}"
    pairs: tuple[tuple[str, str | list[str]], ...] = (
        ("File", f"{path.name} (GGUF {header.version}): {size}, {bits:.2f} bits a weight"),
        ("Types", dtypes_text(types)),
        ("Made of", _parents(header)),
        ("Keys", [f"{printable(key)} = {_text(value)}" for key, value in header.keys.items()]),
    )
    return Report("gguf", facts, pairs, (("Groups", rows),))


def _parents(header: GgufHeader) -> list[str]:
    """What the file says that it was made of."""
    found = []
    for number in range(int(str(header.keys.get("general.base_model.count", 0)))):
        about = (header.keys.get(f"general.base_model.{number}.{part}") for part in ("name", "version", "repo_url"))
        found.append(printable(", ".join(str(part) for part in about if part)))
    return found


def _fact(value: Value) -> object:
    return {"length": len(value)} if isinstance(value, list) and len(value) > _SHOWN else value


def _text(value: Value) -> str:
    if isinstance(value, list) and len(value) > 8:
        return counted(len(value), "value")
    text = printable(str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
