"""Rooms import only rooms that stand before them in docs/design.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "ingot"
#: From left to right: a room may import itself and what stands before it.
ORDER = (
    "version", "errors", "formats", "storage", "kernels", "checkpoint", "adapters", "naming", "combine", "plan",
    "engine", "quantize", "record", "merge", "registry", "extract", "export_lora", "validate", "pages",
    "imatrix", "release", "inspect", "doctor", "demo", "cli", "__main__",
)  # fmt: skip
#: The main job assembles the rooms, and `verify --against-inputs` must run it again.
ALLOWED = {("record", "merge")}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "ingot" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("ingot.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ORDER, f"{room} is not in the order of rooms"
    backward = {
        other
        for other in imported_rooms(path)
        if ORDER.index(other) > ORDER.index(room) and (room, other) not in ALLOWED
    }
    assert not backward, f"{room} imports {sorted(backward)}, which stand to its right"


def test_evidence_knows_nothing_of_the_record() -> None:
    rooms = {"record", "registry"}
    knowing = [path.name for path in (SOURCE / "validate").rglob("*.py") if imported_rooms(path) & rooms]
    assert not knowing


def test_only_one_file_touches_the_unstable_calls_of_transformers() -> None:
    touching = {
        str(path.relative_to(SOURCE))
        for path in FILES
        if "conversion_mapping" in path.read_text(encoding="utf-8") or "core_model_loading" in path.read_text("utf-8")
    }
    assert touching <= {"naming/transformers_map.py"}
