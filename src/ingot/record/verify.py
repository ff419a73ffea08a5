"""Is an artifact what its record says? Three depths: its form, every byte, and every byte computed once more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ingot.errors import CheckFailed, UnsafeInputError
from ingot.record.against_inputs import check_against, inputs_of
from ingot.record.artifact import Reading, list_names, open_artifact, open_record
from ingot.record.checks import Check, Depth, Verification, answer, told
from ingot.record.contents import check_contents
from ingot.record.structure import check_structure


def verify(
    path: Path,
    *,
    depth: Depth | str = Depth.STRUCTURE,
    base: str | None = None,
    adapters: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    jobs: int | None = None,
    imatrix: Path | None = None,
    llama_cpp: Path | None = None,
) -> Verification:
    """Check an artifact; a difference is an answer, not an exception (`Verification.raise_failure` makes it one).

    Args:
        path: the directory that holds ingot.json.
        depth: "structure" reads headers and small files; "read" every byte; "against-inputs" also reads base and
            adapters, and computes the weights again.
        base, adapters: for "against-inputs": where they are now, the adapters in the order of the recipe. Inputs
            that came from the Hub are found there when they are left out.
        progress: is told of every number of bytes read, from any thread.
        stop: set it to end the check.
        jobs: files digested at once.
        imatrix, llama_cpp: for "against-inputs": the importance matrix, and the checkout of llama.cpp, that GGUF files
            were made with.

    Raises:
        UsageError: no such directory, or an input is not told.
        BaseError, AdapterError, MismatchError: the inputs that were told cannot be planned.
        InputChangedError, Interrupted.
    """
    path, depth = Path(path), Depth(depth)
    reading = Reading(progress, stop or threading.Event())
    list_names(path)
    try:
        record = open_record(path, reading)
    except (CheckFailed, UnsafeInputError) as error:
        return Verification(depth, (Check("record", False, f"ingot.json: {told(error)}"),), 0, reading.nbytes, None)
    places = inputs_of(record, base, adapters) if depth is Depth.AGAINST_INPUTS else None
    with ExitStack() as stack:
        artifact = open_artifact(path, record, stack)
        checks = list(answer("record", (), f"sealed, of ingot {record.internals.ingot}"))
        structure, table = check_structure(artifact, reading)
        checks += structure
        if depth is not Depth.STRUCTURE:
            checks += check_contents(artifact, table, reading, jobs or os.cpu_count() or 1)
        if places is not None:
            checks += check_against(artifact, *places, reading, imatrix=imatrix, llama_cpp=llama_cpp)
    return Verification(depth, tuple(checks), len(artifact.files) + 1, reading.nbytes, record.identity)
