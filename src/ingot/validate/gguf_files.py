"""The files of one GGUF model: found by what the user named, opened and read strictly before llama.cpp sees them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ingot.errors import BaseError, UnsafeInputError, UsageError, printable
from ingot.formats.gguf import GgufHeader, read_gguf
from ingot.formats.strict_json import dumps_canonical
from ingot.quantize.gguf.types import FILE_TYPES, file_type_id
from ingot.storage import DigestMemory, InputFile
from ingot.validate.models.llama_process import runtime
from ingot.validate.result import Subject

SUFFIX = ".gguf"
_HINT = "Get the file again, or make one with `ingot merge BASE ADAPTER --to gguf:TYPE`."
#: A file of a split: which one, of how many.
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class GgufModel:
    """One model: its file, or the files that it was split into, in order."""

    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The first file's own name, never a path."""
        return self.files[0].name


def means_gguf(path: Path) -> bool:
    """Whether a user who names `path` means GGUF: such a file, or a directory of them that holds no checkpoint."""
    if path.is_dir():
        return any(_ggufs(path)) and not (path / "config.json").exists()
    return path.suffix.lower() == SUFFIX


def locate_gguf(path: Path) -> GgufModel:
    """The model that a .gguf file or a directory of them means.

    Raises:
        BaseError: there is none, or a file of a split is missing.
        UsageError: the directory holds several.
    """
    if not path.is_dir():
        return GgufModel(_split_of(path))
    models = sorted({_split_of(file) for file in _ggufs(path)})
    if len(models) > 1:
        names = ", ".join(files[0].name for files in models)
        raise UsageError("the directory holds several GGUF models", where=path, found=names,
                         hint=f"Name one: {models[0][0]}.")  # fmt: skip
    return GgufModel(models[0])


def _ggufs(directory: Path) -> Iterable[Path]:
    return (path for path in directory.iterdir() if path.suffix.lower() == SUFFIX)


def _split_of(file: Path) -> tuple[Path, ...]:
    """All files of the split that `file` is one of."""
    part = _SPLIT.fullmatch(file.name)
    count = int(part["count"]) if part else 0
    names = [f"{part['stem']}-{n:05d}-of-{count:05d}{file.suffix}" for n in range(1, count + 1)] if part else []
    files = tuple(file.with_name(name) for name in names) or (file,)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        what = "a file of a split GGUF is missing" if count > 1 else "the model does not exist"
        hint = "Check the spelling of the path." if count <= 1 else "Put all files of the split into one directory."
        raise BaseError(what, where=file if count <= 1 else missing[0], hint=hint)
    return files


@dataclass(frozen=True)
class GgufFiles:
    """Open files of one model. `close` them. `header` is the first file's, which has the keys of all."""

    model: GgufModel
    inputs: tuple[InputFile, ...]
    header: GgufHeader

    @classmethod
    def open(cls, model: GgufModel) -> Self:
        """Raises BaseError, UnsafeInputError: a file cannot be read, or is no GGUF of a model."""
        with ExitStack() as stack:
            inputs, headers = [], []
            for path in model.files:
                inputs.append(stack.enter_context(InputFile.open(path.parent, path.name, error=_NoModel)))
                headers.append(read_gguf(inputs[-1].fd, file=path.name, incomplete=_NoModel))
            _check_kind(headers[0], model)
            _check_split(headers, model)
            stack.pop_all()
        return cls(model, tuple(inputs), headers[0])

    @property
    def file_type(self) -> str | None:
        """The mixture that most weights are in, as in "Q4_K_M"; None where the file does not say, or says another."""
        number = self.header.keys.get("general.file_type")
        return next((name for name in FILE_TYPES if file_type_id(name) == number), None)

    def digest(self, memory: DigestMemory | None = None) -> str:
        """sha256 over the names and digests of the files. Raises InputChangedError."""
        memory = memory or DigestMemory()
        parts = [[path.name, memory.sha256(file)] for path, file in zip(self.model.files, self.inputs, strict=True)]
        return hashlib.sha256(dumps_canonical(parts)).hexdigest()

    def check_unchanged(self) -> None:
        """Raises InputChangedError: a file is not what was opened, so what llama.cpp loaded is not either."""
        for file in self.inputs:
            file.check_unchanged()

    def close(self) -> None:
        """Idempotent."""
        for file in self.inputs:
            file.close()


class _NoModel(BaseError):
    default_hint = _HINT


def _check_kind(header: GgufHeader, model: GgufModel) -> None:
    """llama.cpp would tell of a key that is missing, or of an architecture that it does not know."""
    kind = header.keys.get("general.type", "model")
    if kind != "model":
        raise BaseError(
            "the GGUF holds no model", where=model.name, expected="general.type model", found=printable(str(kind)),
            hint="Name the model's own file; an adapter is merged into one by `ingot merge --to gguf:TYPE`.",
        )  # fmt: skip


def _check_split(headers: Sequence[GgufHeader], model: GgufModel) -> None:
    """llama.cpp finds the files of a split by their names alone."""
    for number, (path, header) in enumerate(zip(model.files, headers, strict=True)):
        place, count = (header.keys.get(f"split.{key}") or 0 for key in ("no", "count"))
        if not isinstance(place, int) or not isinstance(count, int):
            raise UnsafeInputError("a key has a type that no writer gives it", where=f"{path.name}: split.*")
        said = place + 1, count or 1
        if said != (number + 1, len(headers)):
            raise BaseError(
                "a file of a split GGUF has another one's name", where=path.name,
                expected=f"the name of file {said[0]} of {said[1]}, NAME-{said[0]:05d}-of-{said[1]:05d}.gguf",
                hint="Give the files the names back that they were made with.",
            )  # fmt: skip


def gguf_subject(files: GgufFiles) -> Subject:
    """The model with its digest, its type, and what runs it. Raises InputChangedError, MissingComponent."""
    return Subject(files.model.name, "GGUF", files.digest(), f"{files.file_type or 'mixed'}, {runtime()}")
