"""What a path holds, from headers: nothing is run, no weight is read.

report       Report: facts for programs, sections for people
checkpoint   a model directory
adapter      an adapter, a directory or a file, understood or refused
artifact     a model directory with a record of ingot's
file         one .safetensors or torch .bin file
gguf         one GGUF file
"""

from __future__ import annotations

from pathlib import Path

from ingot.adapters.source import candidates
from ingot.errors import UsageError
from ingot.inspect.adapter import inspect_adapter, is_adapter_file
from ingot.inspect.artifact import inspect_artifact
from ingot.inspect.checkpoint import inspect_checkpoint
from ingot.inspect.file import inspect_file
from ingot.inspect.gguf import inspect_gguf
from ingot.inspect.report import Report
from ingot.storage import RECORD_NAME

__all__ = ["Report", "inspect_path"]

_WEIGHTS = (".safetensors", ".index.json", ".bin")


def inspect_path(path: Path) -> Report:
    """What `path` holds.

    Raises:
        UsageError: it does not exist, or is of no kind that ingot knows.
        BaseError, AdapterError, CheckFailed, UnsafeInputError: it is of a known kind and cannot be read.
    """
    if path.is_file() and path.suffix == ".gguf":
        return inspect_gguf(path)
    if path.is_file():
        return inspect_adapter(path.parent, path.name) if is_adapter_file(path) else inspect_file(path)
    if not path.is_dir():
        what = "is neither a file nor a directory" if path.exists() else "does not exist"
        raise UsageError(f"the path {what}", where=path, hint="Give a model, an adapter, or one of their files.")
    if (path / "adapter_config.json").exists():  # one that ingot extracted has a record, too
        return inspect_adapter(path)
    if (path / RECORD_NAME).is_file():
        return inspect_artifact(path)
    names = sorted(entry.name for entry in path.iterdir())
    if any(is_adapter_file(path / name) for name in candidates(names)):
        return inspect_adapter(path)
    if "config.json" in names or any(name.endswith(_WEIGHTS) for name in names):
        return inspect_checkpoint(path)
    inner = [name for name in names if (path / name / "adapter_config.json").is_file()]
    if inner:
        raise UsageError("the adapters lie in folders of this directory", where=path, found=", ".join(inner[:10]),
                         hint=f"Name one of them: `ingot inspect {path / inner[0]}`.")  # fmt: skip
    raise UsageError(
        "nothing here that ingot knows",
        where=path,
        expected="config.json with weights, adapter_config.json, or ingot.json",
        found=", ".join(names[:6]) or "an empty directory",
        hint="Give the directory that holds the model or the adapter.",
    )
