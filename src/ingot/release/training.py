"""What an adapter's folder tells of its making: a version, the run that trained it. Guesses, for people to look at."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import AdapterError, IngotError
from ingot.formats import strict_json
from ingot.storage.inputs import InputFile

_README, _STATE = "README.md", "trainer_state.json"
_MAX_README_NBYTES = 1 << 20
_IN_NAME = re.compile(r"[-_.](v\d+(?:\.\d+)*)$", re.IGNORECASE)
_IN_README = re.compile(r"^version:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9._+-]{0,31})[\"']?[ \t]*$", re.MULTILINE)
#: The card that TRL and transformers write links the run.
_WANDB = re.compile(r"https?://wandb\.ai/([\w.-]+)/([\w.-]+)/runs/([\w-]+)")
#: What wandb calls the folder of a run: run-20260131_120000-abc123.
_RUN = re.compile(r"run-\d{8}_\d{6}-(\w+)")


@dataclass(frozen=True)
class Origin:
    """What was found; None for what was not.

    Attributes:
        version: from the end of the folder's name, or the README's first lines.
        run: "wandb:team/project/runs/ID", or "wandb:ID" where only the run's folder was found.
        steps: that the trainer counted.
    """

    version: str | None = None
    run: str | None = None
    steps: int | None = None


def origin_of(folder: Path) -> Origin:
    """What the folder of an adapter says; a file that cannot be read says nothing."""
    readme = _text(folder, _README)
    head = readme.partition("---")[2].partition("\n---")[0] if readme.startswith("---") else ""
    in_name, in_head = _IN_NAME.search(folder.resolve().name), _IN_README.search(head)
    version = in_name[1] if in_name else in_head[1] if in_head else None
    return Origin(version, _run(folder, readme), _steps(folder))


def _run(folder: Path, readme: str) -> str | None:
    linked = {match.groups() for match in _WANDB.finditer(readme)}
    if len(linked) == 1:
        team, project, run = linked.pop()
        return f"wandb:{team}/{project}/runs/{run}"
    for place in (folder / "wandb", folder.resolve().parent / "wandb"):
        runs = {match[1] for name in _names(place) if (match := _RUN.fullmatch(name))}
        if len(runs) == 1:
            return f"wandb:{runs.pop()}"
    return None


def _steps(folder: Path) -> int | None:
    data = _read(folder, _STATE, strict_json.MAX_NBYTES)
    if data is None:
        return None
    try:
        state = strict_json.loads(data, where=_STATE)
    except IngotError:
        return None
    steps = state.get("global_step") if isinstance(state, dict) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) else None


def _text(folder: Path, name: str) -> str:
    return (_read(folder, name, _MAX_README_NBYTES) or b"").decode("utf-8", "replace").replace("\r\n", "\n")


def _read(folder: Path, name: str, most: int) -> bytes | None:
    if not (folder / name).is_file():
        return None
    try:
        with InputFile.open(folder, name, error=AdapterError) as file:
            return file.read(0, file.nbytes) if file.nbytes <= most else None
    except IngotError:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
