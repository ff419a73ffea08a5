"""The demo's files: a 256-wide Llama with its tokenizer, two adapters trained by PEFT, and held-out samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import MissingComponent

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Sample:
    """A user's message, and what the answer must contain."""

    prompt: str
    expected: str


@dataclass(frozen=True)
class Task:
    """One adapter and the samples that it is scored on."""

    name: str
    adapter: Path
    file: Path
    samples: tuple[Sample, ...]


def base() -> Path:
    """The directory of the base model."""
    if not (DATA / "ingot-demo-base" / "config.json").is_file():
        raise MissingComponent(
            "the demo's model did not come with this installation", where="ingot/demo/data",
            hint="Install ingot from a full checkout or a wheel: the weights are part of the package.",
        )  # fmt: skip
    return DATA / "ingot-demo-base"


def tasks() -> list[Task]:
    """Every task, in alphabetical order."""
    adapters = [path for path in sorted((DATA / "adapters").iterdir()) if (path / "adapter_config.json").is_file()]
    files = [DATA / "samples" / f"{path.name}.jsonl" for path in adapters]
    return [Task(path.name, path, file, _samples(file)) for path, file in zip(adapters, files, strict=True)]


def _samples(path: Path) -> tuple[Sample, ...]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return tuple(Sample(row["prompt"], row["expected"]) for row in rows)
