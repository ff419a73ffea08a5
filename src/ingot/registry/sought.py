"""What is looked for, what was found, and how a file is known: by its sha256, never by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingot.errors import AdapterError, BaseError, CheckFailed, UnsafeInputError, UsageError
from ingot.record.artifact import Reading
from ingot.record.contents import digest_of
from ingot.record.statement import Record
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.inputs import InputFile

IMATRIX, LLAMA_CPP = "imatrix", "llama_cpp"


@dataclass(frozen=True)
class Wanted:
    """A file that is looked for. `of` is "base", an adapter's number, or IMATRIX; `nbytes` None: not recorded."""

    of: str
    name: str
    nbytes: int | None
    sha256: str


@dataclass(frozen=True)
class Missing:
    """What was not found. `limited`: the search ended at its most files, so it may be there all the same.

    `llama_cpp` is the digest of a checkout.
    """

    files: tuple[Wanted, ...]
    llama_cpp: str | None = None
    limited: bool = False

    def __bool__(self) -> bool:
        return bool(self.files) or self.llama_cpp is not None

    @property
    def by_input(self) -> dict[str, tuple[Wanted, ...]]:
        inputs = dict.fromkeys(file.of for file in self.files)
        return {of: tuple(file for file in self.files if file.of == of) for of in inputs}

    def lines(self, record: Record) -> Iterator[str]:
        """One line an input, for people."""
        for of, files in self.by_input.items():
            first, more = files[0], len(files) - 1
            others = f", and {more} more" if more else ""
            yield f"{title_of(record, of)}: {first.name} (sha256:{first.sha256[:12]}){others}"
        if self.llama_cpp is not None:
            yield f"the checkout of llama.cpp with sha256:{self.llama_cpp[:12]}"


@dataclass(frozen=True)
class Found:
    """`files`: by input, then by recorded name, where a file is whose sha256 is the recorded one."""

    files: Mapping[str, Mapping[str, Path]]
    missing: Missing
    llama_cpp: Path | None = None
    on_the_hub: tuple[Wanted, ...] = ()

    @property
    def imatrix(self) -> Path | None:
        return next(iter(self.files.get(IMATRIX, {}).values()), None)

    def check(self, record: Record) -> None:
        """Raises BaseError, AdapterError or UsageError where the base, an adapter or something else is missing."""
        if self.missing:
            first = next(iter(self.missing.by_input), IMATRIX)
            error = {"base": BaseError, IMATRIX: UsageError}.get(first, AdapterError)
            raise error(
                "what the artifact was made of is not all here", where="; ".join(self.missing.lines(record)),
                hint="Name folders to search with --search DIR; files may be renamed, their content is what counts."
                + (" The search ended at its limit of files: name a smaller folder." if self.missing.limited else ""),
            )  # fmt: skip


@dataclass
class Search:
    """What is still looked for, and how a file is known."""

    wanted: list[Wanted]
    memory: DigestMemory
    reading: Reading
    excluded: tuple[Path, ...]
    trusting: bool
    found: dict[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def rest(self) -> list[Wanted]:
        return [file for file in self.wanted if (file.of, file.name) not in self.found]

    def take(self, path: Path, wanted: Iterable[Wanted]) -> None:
        """Note `path` as every one of `wanted` that it is; looks at no byte of a file of another length."""
        wanted = [file for file in wanted if (file.of, file.name) not in self.found]
        if not wanted or self.is_excluded(path):
            return
        try:
            with InputFile.open(path.parent, path.name, error=CheckFailed) as file:
                likely = [one for one in wanted if one.nbytes in (None, file.nbytes)]
                sha256 = self._sha256(file) if likely else ""
        except (CheckFailed, UnsafeInputError, OSError):
            return  # not a file that a merge could read
        self.found |= {(one.of, one.name): path.absolute() for one in likely if one.sha256 == sha256}

    def is_excluded(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in self.excluded)

    def _sha256(self, file: InputFile) -> str:
        known = file.known_sha256 if self.trusting else None
        digest = known or self.memory.recall(file)
        if digest is None:
            digest = digest_of(file, self.reading)
            self.memory.remember(file, digest)
        return digest


def wanted_by(record: Record) -> Iterator[Wanted]:
    """Every input file of a record, and its importance matrix."""
    for entry in record.statement.predicate.build.dependencies:
        yield Wanted(entry.annotations.of, entry.name, entry.annotations.size, entry.digest.sha256)
    gguf = record.recipe.options.gguf
    if gguf is not None and gguf.imatrix_sha256 is not None:
        yield Wanted(IMATRIX, "importance matrix", None, gguf.imatrix_sha256)


def title_of(record: Record, of: str) -> str:
    """An input, for people."""
    if of == "base":
        return f"base {record.recipe.base.name}"
    if of == IMATRIX:
        return "importance matrix"
    return f"adapter {record.recipe.adapters[int(of)].name}"
