"""A freed artifact comes back into its registry: found, rebuilt in work/, published under its old name.

An artifact that was rebuilt and not published, because somebody pulled the plug, is published by the next call.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ingot.errors import OutputError
from ingot.record.artifact import SIGNATURE_NAME
from ingot.record.card import CARD_NAME
from ingot.record.statement import read_record
from ingot.record.tensor_table import TABLE_NAME
from ingot.registry.entry import Entry, State
from ingot.registry.finding import find_inputs
from ingot.registry.places import Places
from ingot.registry.rebuilding import Rebuilt, rebuild
from ingot.registry.sought import IMATRIX, LLAMA_CPP, Found
from ingot.registry.store import Registry
from ingot.storage.amend import replace_file
from ingot.storage.staging import RECORD_NAME


@dataclass(frozen=True)
class Returned:
    """`rebuilt` None: an earlier call had made it, and it was only published. `entry` None: it went elsewhere."""

    place: Path
    rebuilt: Rebuilt | None
    entry: Entry | None


def bring_back(
    registry: Registry,
    entry: Entry,
    *,
    target: Path | None = None,
    places: Mapping[str, str | Path] | None = None,
    search: Sequence[Path] = (),
    looking: Callable[[int], None] = lambda _: None,
    making: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    jobs: int | None = None,
) -> Returned:
    """Make an artifact again: into the registry, or at `target`, which the registry takes no note of.

    Args:
        places: where inputs are now, beside and before what the registry has noted; see `finding.find_inputs`.
        looking, making: are told of the bytes read in search of the inputs, and of those written.

    Raises:
        OutputError: the artifact is here, or its name is taken; what `rebuild` raises.
        CheckFailed, BaseError, AdapterError, ...: see `rebuild`; nothing was made.
    """
    if target is None:
        if entry.state is not State.FREED:
            raise OutputError("the artifact is there, so it is not made again", where=entry.place,
                              hint="Check it with `ingot verify`; -o DIR makes it again elsewhere.")  # fmt: skip
        registry.check_free(entry.name, entry.identity)
    data, made = registry.record_bytes(entry), target or registry.layout.work / f"rebuilt-{entry.identity}"
    kept, rebuilt, noted = registry.layout.records / entry.identity, None, registry.places(entry)
    if target is not None or not (made / RECORD_NAME).is_file():
        found = find_inputs(
            read_record(data), {**noted.hints, **(places or {})}, search, registry.layout.adapters,
            progress=looking, stop=stop, hub="download",
        )  # fmt: skip
        small = {name: (kept / name).read_bytes() for name in (TABLE_NAME, CARD_NAME) if (kept / name).is_file()}
        with tempfile.TemporaryDirectory(prefix="ingot-") as links:
            rebuilt = rebuild(
                data, found, made, Path(links), small=small, jobs=jobs, stop=stop, progress=making, disk=registry.disk
            )
        noted = _seen(noted, found)
    if (kept / SIGNATURE_NAME).is_file():
        # its record is the one that was signed, to the byte
        replace_file(registry.disk, made / SIGNATURE_NAME, (kept / SIGNATURE_NAME).read_bytes())
    if target is not None:
        return Returned(target, rebuilt, None)
    entry = registry.publish(made, msgspec.structs.replace(noted, name=entry.name))
    return Returned(registry.layout.artifacts / entry.name, rebuilt, entry)


def _seen(noted: Places, found: Found) -> Places:
    """The places with those where inputs were found now. Scattered files have no one place: the old hint stays."""
    inputs = dict(noted.inputs)
    for of, files in found.files.items():
        folders = {path.parent for path in files.values()}
        if of not in (IMATRIX, LLAMA_CPP) and len(folders) == 1:
            inputs[of] = str(folders.pop())
    return msgspec.structs.replace(
        noted, inputs=inputs,
        imatrix=str(found.imatrix) if found.imatrix else noted.imatrix,
        llama_cpp=str(found.llama_cpp) if found.llama_cpp else noted.llama_cpp,
    )  # fmt: skip
