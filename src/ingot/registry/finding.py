"""Where the inputs of a record are now: looked for in ever wider circles, believed by sha256 alone.

    1  where they were last seen, by name, then by content; 2  among the kept adapters; 3  in the Hub's cache on this
    machine, at the recorded commit; 4  in the folders that the user names, file by file: by size, then by sha256;
    5  on the Hub itself, only when asked

The cheap places come first: a folder tree is walked only for what is still missing. Files may be renamed or scattered;
`assembled` gives them their recorded names, in a folder of links that the readers of checkpoints and adapters take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ingot.adapters.adapter import SIDE_FILES
from ingot.adapters.source import CONFIG_NAME
from ingot.errors import AdapterError, BaseError, CheckFailed, IngotError, UnsafeInputError, UsageError
from ingot.plan.public import is_hub_id
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.record.artifact import Reading
from ingot.record.contents import digest_of
from ingot.record.statement import Record
from ingot.registry.keeping import find_kept
from ingot.registry.walking import Candidate, Walk, entries_of
from ingot.storage.assembled import assembled as linked
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile

IMATRIX, LLAMA_CPP = "imatrix", "llama_cpp"
#: Larger files are no importance matrix: the record has its digest, not its size.
_MAX_IMATRIX_NBYTES = 1 << 30
_IMATRIX_SUFFIXES = (".gguf", ".dat", ".imatrix")


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
class _Search:
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


def find_inputs(
    record: Record,
    places: Mapping[str, str | Path],
    search: Sequence[Path] = (),
    kept: Path | None = None,
    *,
    memory: DigestMemory | None = None,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    excluded: Sequence[Path] = (),
    trusting: bool = True,
    hub: Literal["no", "ask", "download"] = "no",
) -> Found:
    """Look for every input of the record.

    Args:
        places: where "base", "0", "1", ..., IMATRIX and LLAMA_CPP were last seen: folders or files; hints.
        search: folders that are walked for what is still missing; hidden folders and links to folders are passed over.
        kept: where adapters are kept (`keeping`).
        progress: is told of the bytes read.
        excluded: folders in which nothing counts, because they are about to go.
        trusting: believe the sha256 that the Hub's cache claims by a file's name. What is made of it is compared later.
        hub: what becomes of files that are not here and have a recorded commit. "download": they are. "ask": only the
            small ones are; the large ones are looked up there, and stand in `Found.on_the_hub` instead of `missing`.

    Raises:
        Interrupted: `stop` was set.
    """
    reading = Reading(progress, stop or threading.Event())
    looking = _Search(
        list(_wanted(record)), memory or DigestMemory(), reading,
        tuple(folder.resolve() for folder in excluded), trusting,
    )  # fmt: skip
    checkout = _Checkout(record, looking)
    for of, place in places.items():
        _look_at(looking, of, Path(place).expanduser())
        checkout.look_at(Path(place).expanduser())
    if kept is not None:
        for of in {file.of for file in looking.rest} - {IMATRIX}:
            for name, path in find_kept(kept, record.dependencies(of)).items():
                looking.take(path, [file for file in looking.rest if (file.of, file.name) == (of, name)])
    for file in looking.rest:
        for snapshot in _snapshots(record, file.of):
            looking.take(snapshot / file.name, [file])
    limited = _walk(looking, checkout, search)
    remote = _ask_the_hub(record, looking, download=hub == "download") if hub != "no" else ()
    missing = Missing(
        tuple(file for file in looking.rest if file not in remote),
        checkout.wanted if not checkout.path else None,
        limited,
    )
    files: dict[str, dict[str, Path]] = {}
    for (of, name), path in looking.found.items():
        files.setdefault(of, {})[name] = path
    return Found(files, missing, checkout.path, remote)


def can_rebuild(
    record: Record, places: Mapping[str, str | Path], search: Sequence[Path] = (), kept: Path | None = None, *,
    memory: DigestMemory | None = None, progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None, excluded: Sequence[Path] = (), hub: bool = False,
) -> Missing | None:  # fmt: skip
    """What an artifact could not be made again without; None where all is there. See `find_inputs`.

    `hub`: what the Hub has at the recorded commit, with the same sha256, counts as there.

    Every digest was computed from the bytes, now or for the very same unchanged file earlier: no claim is believed,
    because somebody is about to free the artifact.
    """
    found = find_inputs(
        record, places, search, kept, memory=memory, progress=progress, stop=stop, excluded=excluded, trusting=False,
        hub="ask" if hub else "no",
    )  # fmt: skip
    return found.missing or None


@dataclass(frozen=True)
class Specs:
    """Base, adapters and the rest, as `merge.prepare` takes them."""

    base: str
    adapters: tuple[str, ...]
    imatrix: Path | None
    llama_cpp: Path | None


@contextmanager
def assembled(record: Record, found: Found, work: Path, disk: Disk) -> Iterator[Specs]:
    """The inputs under their recorded names and nothing beside them, in folders of links inside the folder `work`.

    Also where an input lies whole: another tokenizer file beside it would be taken for a part of it.

    Raises:
        BaseError, AdapterError, UsageError: something is missing.
        OutputError: `work` cannot be written.
    """
    found.check(record)
    inputs = ["base", *(str(number) for number in range(len(record.recipe.adapters)))]
    with ExitStack() as stack:
        folders = {of: stack.enter_context(linked(disk, work / of, found.files.get(of, {}))) for of in inputs}
        adapters = tuple(str(_adapter(folder, found.files[of])) for of, folder in folders.items() if of != "base")
        yield Specs(str(folders["base"]), adapters, found.imatrix, found.llama_cpp)


def title_of(record: Record, of: str) -> str:
    """An input, for people."""
    if of == "base":
        return f"base {record.recipe.base.name}"
    if of == IMATRIX:
        return "importance matrix"
    return f"adapter {record.recipe.adapters[int(of)].name}"


def _adapter(folder: Path, files: Mapping[str, Path]) -> Path:
    """The weights file where only one can be it: its name may be one that only its user knew. Else the folder."""
    weights = [name for name in files if name != CONFIG_NAME and name not in SIDE_FILES]
    return folder / weights[0] if len(weights) == 1 else folder


def _wanted(record: Record) -> Iterator[Wanted]:
    for entry in record.statement.predicate.build.dependencies:
        yield Wanted(entry.annotations.of, entry.name, entry.annotations.size, entry.digest.sha256)
    gguf = record.recipe.options.gguf
    if gguf is not None and gguf.imatrix_sha256 is not None:
        yield Wanted(IMATRIX, "importance matrix", None, gguf.imatrix_sha256)


class _Checkout:
    """The checkout of llama.cpp, where the record has one."""

    def __init__(self, record: Record, looking: _Search) -> None:
        gguf = record.recipe.options.gguf
        self.wanted = gguf.llama_cpp_sha256 if gguf is not None else None
        self.path: Path | None = None
        self._looking = looking

    @property
    def is_sought(self) -> bool:
        return self.wanted is not None and self.path is None

    def look_at(self, folder: Path) -> None:
        if not self.is_sought or self._looking.is_excluded(folder):
            return
        try:
            found = Checkout.open(folder)
        except IngotError:
            return
        if found.digest == self.wanted:
            self.path = found.path


def _look_at(looking: _Search, of: str, place: Path) -> None:
    """Where an input was last seen: its names, and where those are other files now, all files of that folder."""
    folder = place if place.is_dir() else place.parent
    for file in looking.rest:
        if file.of == of:
            looking.take(place if of == IMATRIX else folder / file.name, [file])
    if any(file.of == of for file in looking.rest) and of not in (IMATRIX, LLAMA_CPP):
        for candidate in entries_of(folder).files:
            _try(looking, candidate)


def _walk(looking: _Search, checkout: _Checkout, search: Sequence[Path]) -> bool:
    """Look in the folders for what is missing; whether the walk ended at its limit.

    Of files with one size those are looked at first that have a wanted name: fine-tuned models of one base all have
    the same sizes.
    """
    if not looking.rest and not checkout.is_sought:
        return False
    walk = Walk(search, looking.reading)
    sizes = {file.nbytes for file in looking.rest}
    candidates = []
    for folder in walk:
        if "convert_hf_to_gguf.py" in folder.names:
            checkout.look_at(folder.path)
        candidates += [one for one in folder.files if one.nbytes in sizes or (None in sizes and _may_be_imatrix(one))]
    names = {file.name for file in looking.rest}
    for candidate in sorted(candidates, key=lambda one: one.path.name not in names):
        _try(looking, candidate)
    return walk.limited


def _try(looking: _Search, candidate: Candidate) -> None:
    likely = [one for one in looking.rest if one.nbytes == candidate.nbytes]
    if _may_be_imatrix(candidate):
        likely += [one for one in looking.rest if one.nbytes is None]
    looking.take(candidate.path, likely)


def _may_be_imatrix(candidate: Candidate) -> bool:
    name = candidate.path.name.lower()
    known = "imatrix" in name or name.endswith(_IMATRIX_SUFFIXES)
    return known and 0 < candidate.nbytes <= _MAX_IMATRIX_NBYTES


def _snapshots(record: Record, of: str) -> Iterator[Path]:
    """Snapshots of the Hub's cache on this machine that may hold an input: at its commit, else at any."""
    spec = _spec(record, of)
    if spec is None:
        return
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name, commit = spec
    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"
    if commit is not None:
        yield snapshots / commit
    else:
        yield from (folder.path for folder in entries_of(snapshots).folders)


def _spec(record: Record, of: str) -> tuple[str, str | None] | None:
    """The Hub's id and the commit of an input; None where it did not come from there."""
    if of == IMATRIX:
        return None
    spec = record.recipe.base if of == "base" else record.recipe.adapters[int(of)]
    return (spec.name, record.commit(of)) if is_hub_id(spec.name) else None


def _ask_the_hub(record: Record, looking: _Search, *, download: bool) -> tuple[Wanted, ...]:
    """What the Hub has at the recorded commits. Where it cannot be reached, or says no: nothing."""
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    there: list[Wanted] = []
    for of in dict.fromkeys(file.of for file in looking.rest):
        spec = _spec(record, of)
        wanted = {file.name: file for file in looking.rest if file.of == of}
        if spec is None or spec[1] is None:
            continue
        name, commit = spec
        try:
            for info in HfApi().get_paths_info(name, sorted(wanted), revision=commit):
                file = wanted.get(info.path)
                if file is None or not isinstance(info, RepoFile) or info.size != file.nbytes:
                    continue
                if info.lfs is not None and info.lfs.sha256 != file.sha256:
                    continue
                if download or info.lfs is None:
                    looking.take(Path(hf_hub_download(name, info.path, revision=commit)), [file])
                else:
                    there.append(file)
        except (HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError):
            continue
    return tuple(there)
