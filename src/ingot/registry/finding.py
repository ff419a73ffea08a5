"""Where the inputs of a record are now: looked for in ever wider circles, believed by sha256 alone.

    1  where they were last seen, by name, then by content; 2  among the kept adapters; 3  in the Hub's cache on this
    machine, at the recorded commit; 4  in the folders that the user names, file by file: by size, then by sha256;
    5  on the Hub itself, only when asked

The cheap places come first: a folder tree is walked only for what is still missing. Files may be renamed or scattered;
`assembled` gives them their recorded names, in a folder of links that the readers of checkpoints and adapters take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ingot.adapters.adapter import SIDE_FILES
from ingot.adapters.source import CONFIG_NAME
from ingot.errors import IngotError
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.record.artifact import Reading
from ingot.record.statement import Record
from ingot.registry.keeping import find_kept
from ingot.registry.on_the_hub import ask_the_hub, snapshots_of
from ingot.registry.sought import IMATRIX, LLAMA_CPP, Found, Missing, Search, wanted_by
from ingot.registry.walking import Candidate, Walk, entries_of
from ingot.storage.assembled import assembled as linked
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk

#: Larger files are no importance matrix: the record has its digest, not its size.
_MAX_IMATRIX_NBYTES = 1 << 30
_IMATRIX_SUFFIXES = (".gguf", ".dat", ".imatrix")


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
    looking = Search(
        list(wanted_by(record)), memory or DigestMemory(), reading,
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
        for snapshot in snapshots_of(record, file.of):
            looking.take(snapshot / file.name, [file])
    limited = _walk(looking, checkout, search)
    remote = ask_the_hub(record, looking, download=hub == "download") if hub != "no" else ()
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


def _adapter(folder: Path, files: Mapping[str, Path]) -> Path:
    """The weights file where only one can be it: its name may be one that only its user knew. Else the folder."""
    weights = [name for name in files if name != CONFIG_NAME and name not in SIDE_FILES]
    return folder / weights[0] if len(weights) == 1 else folder


class _Checkout:
    """The checkout of llama.cpp, where the record has one."""

    def __init__(self, record: Record, looking: Search) -> None:
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


def _look_at(looking: Search, of: str, place: Path) -> None:
    """Where an input was last seen: its names, and where those are other files now, all files of that folder."""
    folder = place if place.is_dir() else place.parent
    for file in looking.rest:
        if file.of == of:
            looking.take(place if of == IMATRIX else folder / file.name, [file])
    if any(file.of == of for file in looking.rest) and of not in (IMATRIX, LLAMA_CPP):
        for candidate in entries_of(folder).files:
            _try(looking, candidate)


def _walk(looking: Search, checkout: _Checkout, search: Sequence[Path]) -> bool:
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


def _try(looking: Search, candidate: Candidate) -> None:
    likely = [one for one in looking.rest if one.nbytes == candidate.nbytes]
    if _may_be_imatrix(candidate):
        likely += [one for one in looking.rest if one.nbytes is None]
    looking.take(candidate.path, likely)


def _may_be_imatrix(candidate: Candidate) -> bool:
    name = candidate.path.name.lower()
    known = "imatrix" in name or name.endswith(_IMATRIX_SUFFIXES)
    return known and 0 < candidate.nbytes <= _MAX_IMATRIX_NBYTES
