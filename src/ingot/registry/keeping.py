"""Adapters that are kept for ever, by content: an artifact can be made again only while somebody has its adapters.

    INTO/<sha256>.json    canonical JSON: the sorted list of [name, bytes, sha256], whose own sha256 is the name
    INTO/<sha256>/        the adapter's files under their own names, read-only: PEFT loads it as it is

The list stands beside the folder, so that the folder holds nothing that is not the adapter's. It is written first: a
folder that is there has its list. The human name of an adapter is no part of its content; records tell it.
Nothing in ingot removes what is here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
from msgspec import Struct

from ingot.checkpoint.locate import locate
from ingot.errors import AdapterError, ResourceError
from ingot.formats.strict_json import dumps_canonical
from ingot.plan.resolve import Weighted
from ingot.record.form import Dependency, Natural, Sha256
from ingot.storage.amend import replace_file
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile
from ingot.storage.replica import replicate
from ingot.storage.workdir import Place

#: Larger adapters are kept only when asked: a full set of trained weights is no small thing to keep for ever.
LARGE_NBYTES = 1 << 30


class KeptFile(Struct, frozen=True, array_like=True, order=True):
    """In the list: [name, bytes, sha256]."""

    name: str
    nbytes: Natural
    sha256: Sha256


@dataclass(frozen=True)
class Kept:
    """An adapter that is kept. `digest` is its name; `path` the folder."""

    path: Path
    files: tuple[KeptFile, ...]
    is_new: bool = False

    @property
    def digest(self) -> str:
        return self.path.name

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @cached_property
    def by_sha256(self) -> Mapping[str, Path]:
        return {file.sha256: self.path / file.name for file in self.files}


def keep(
    adapter: str | Path,
    into: Path,
    disk: Disk,
    *,
    large: bool = False,
    assume_peft_version: str | None = None,
    expert_layout: str | None = None,
    memory: DigestMemory | None = None,
) -> Kept:
    """Keep the files of an adapter that a merge would use; see `keep_files`.

    Args:
        adapter: its directory, its weights file, or a Hub id.
        assume_peft_version, expert_layout: as for the merge, where the adapter cannot be opened without.

    Raises:
        AdapterError, MismatchError, UnsafeInputError: it is no adapter that ingot merges.
        what `keep_files` raises.
    """
    location = locate(str(adapter), what="adapter", error=AdapterError)
    opened = Weighted.open(location, 0, 1.0, assume_peft_version, expert_layout)
    try:
        return keep_files(opened.inputs, into, disk, large=large, memory=memory)
    finally:
        opened.close()


def keep_files(
    files: Mapping[str, InputFile],
    into: Path,
    disk: Disk,
    *,
    large: bool = False,
    memory: DigestMemory | None = None,
) -> Kept:
    """Keep these files of an adapter: whole or absent, proven to be copies. The second time it only proves them again.

    Raises:
        ResourceError: more than LARGE_NBYTES, and not `large`; no room; a copy that is none.
        OutputError: what is kept under this digest was damaged; another process keeps it at this moment.
        InputChangedError: a file was changed meanwhile.
    """
    nbytes = sum(file.nbytes for file in files.values())
    if nbytes > LARGE_NBYTES and not large:
        raise ResourceError(
            "the adapter is large, so it is kept only when asked", where=next(iter(files.values())).path.parent,
            expected=f"at most {LARGE_NBYTES:,} bytes", found=f"{nbytes:,}", hint="Pass --large to keep it.",
        )  # fmt: skip
    memory = memory or DigestMemory()
    digests = {name: _sha256(file, memory) for name, file in files.items()}
    listed = tuple(sorted(KeptFile(name, file.nbytes, digests[name]) for name, file in files.items()))
    data = _encoded(listed)
    target = into / hashlib.sha256(data).hexdigest()
    Place.of(target).make_parent(disk)
    if _read(_list_of(target)) != data:
        replace_file(disk, _list_of(target), data)
    is_new = replicate(disk, {name: (file, digests[name]) for name, file in files.items()}, target)
    return Kept(target, listed, is_new)


def keep_small(files: Mapping[str, InputFile], into: Path, disk: Disk) -> Kept | None:
    """Keep these files of an adapter unless they are large; None then. Raises what `keep_files` raises."""
    return keep_files(files, into, disk) if sum(file.nbytes for file in files.values()) <= LARGE_NBYTES else None


def kept_adapters(into: Path) -> list[Kept]:
    """Every adapter that is kept in `into`, by its list; its bytes are not read. A list that is not its own digest,
    or whose folder is not there, is left out.
    """
    try:
        names = sorted(name for name in os.listdir(into) if len(name) == hashlib.sha256().digest_size * 2)
    except OSError:
        return []
    return [kept for name in names if (kept := _kept(into / name)) is not None]


def find_kept(into: Path, dependencies: Mapping[str, Dependency]) -> dict[str, Path]:
    """Where the files of an input are kept, by their recorded names; those that are not are left out.

    The digests are those of the lists: whoever uses a file looks at it.
    """
    wanted = {name: entry.digest.sha256 for name, entry in dependencies.items()}
    whole = _kept(into / digest_of(dependencies.values()))
    found: dict[str, Path] = {}
    for kept in [whole] if whole is not None else kept_adapters(into):
        here = kept.by_sha256
        found |= {name: here[sha256] for name, sha256 in wanted.items() if sha256 in here}
    return found


def digest_of(dependencies: Iterable[Dependency]) -> str:
    """The name under which an adapter with these files is kept."""
    listed = sorted(KeptFile(entry.name, entry.annotations.size, entry.digest.sha256) for entry in dependencies)
    return hashlib.sha256(_encoded(listed)).hexdigest()


def _sha256(file: InputFile, memory: DigestMemory) -> str:
    """Not `memory.sha256`: the Hub's cache may claim a digest, and what is kept for ever is looked at once."""
    digest = memory.recall(file)
    if digest is None:
        digest = file.sha256()
        memory.remember(file, digest)
    return digest


def _encoded(files: Iterable[KeptFile]) -> bytes:
    return dumps_canonical(msgspec.to_builtins(list(files))) + b"\n"


def _kept(folder: Path) -> Kept | None:
    """What is kept in this folder; None where nothing is, or its list cannot be believed."""
    data = _read(_list_of(folder))
    if data is None or hashlib.sha256(data).hexdigest() != folder.name or not folder.is_dir():
        return None
    try:
        return Kept(folder, msgspec.json.decode(data, type=tuple[KeptFile, ...]))
    except msgspec.DecodeError:
        return None


def _list_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
