"""One file of tensors."""

from __future__ import annotations

from pathlib import Path

from ingot.errors import BaseError, UsageError
from ingot.formats import read_header, read_torch_zip
from ingot.inspect.report import Report, by_pattern, dtypes, dtypes_text
from ingot.plan.figures import counted, nbytes_text
from ingot.storage.inputs import InputFile


def inspect_file(path: Path) -> Report:
    """The report of a .safetensors file or of one that torch.save wrote.

    Raises:
        UsageError: a file of another kind.
        BaseError, UnsafeInputError: it cannot be read.
    """
    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise UsageError(
            "not a file of tensors that ingot reads",
            where=path,
            expected="a .safetensors file, or a torch .bin, .pt or .pth file",
            hint="Give the directory to inspect a whole model or adapter.",
        )
    metadata = None
    with InputFile.open(path.parent, path.name, error=BaseError) as file:
        nbytes = file.nbytes
        if path.suffix == ".safetensors":
            header = read_header(file.fd, file=path.name, incomplete=BaseError)
            tensors, metadata = header.tensors, header.metadata
        else:
            tensors = read_torch_zip(file.fd, file=path.name, incomplete=BaseError)
    counts = dtypes(tensors)
    patterns, rows = by_pattern(tensors)
    facts: dict[str, object] = {
        "name": path.name,
        "format": "safetensors" if path.suffix == ".safetensors" else "torch",
        "nbytes": nbytes,
        "tensors": len(tensors),
        "parameters": sum(counts.values()),
        "dtypes": counts,
        "metadata": dict(metadata) if metadata else None,
        "groups": patterns,
    }
    size = f"{counted(len(tensors), 'tensor')}, {sum(counts.values()):,} elements, {nbytes_text(nbytes)}"
    pairs: tuple[tuple[str, str | list[str]], ...] = (
        ("File", f"{path.name} ({facts['format']}): {size}"),
        ("Dtypes", dtypes_text(counts)),
        ("Metadata", [f"{key} = {text}" for key, text in (metadata or {}).items()]),
    )
    return Report("file", facts, pairs, (("Groups", rows),))
