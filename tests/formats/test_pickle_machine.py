"""Evil pickles and zips: nothing is imported or run, and a real unpickler proves that the evil ones are evil."""

from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.errors import AdapterError, IngotError, UnsafeInputError

from .evil_case import CANARY, Case, torch_case
from .evil_pickles import PICKLES, RUNNABLE
from .evil_zips import ZIPS
from .pickle_assembler import PROTO, archive, whole

_audit: list[str] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _audit is not None:
        _audit.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_record)


def audited(attempt: Callable[[], object]) -> tuple[IngotError | None, list[str]]:
    """The refusal, and every audit event that happened on the way: an import, an open, a call of the system."""
    global _audit
    events: list[str] = []
    _audit = events
    try:
        attempt()
    except IngotError as refusal:
        return refusal, events
    finally:
        _audit = None
    return None, events


@pytest.mark.parametrize("case", PICKLES + ZIPS, ids=repr)
def test_an_evil_file_is_refused_and_nothing_is_imported_or_run(case: Case, tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    canary.write_text("sings")
    attempt = case.prepare(tmp_path)
    before, modules = canary.stat(), set(sys.modules)
    refusal, events = audited(attempt)
    assert isinstance(refusal, (UnsafeInputError, AdapterError))
    assert refusal.message.isprintable()
    assert events == []
    assert set(sys.modules) == modules
    assert canary.read_text() == "sings"
    assert canary.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("case", [case for case in PICKLES if case.name.startswith(("runs: ", "global "))], ids=repr)
def test_what_asks_for_code_is_unsafe_rather_than_unusable(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        case.prepare(tmp_path)()


def test_a_refused_global_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError, match=r"found os\.system - at byte \d+ of data.pkl in evil"):
        torch_case("x", archive(whole(b"cos\nsystem\n"))).prepare(tmp_path)()


def test_the_opcodes_that_run_code_are_named_as_python_names_them(tmp_path: Path) -> None:
    for opcode in pickletools.opcodes:
        if opcode.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"):
            with pytest.raises(UnsafeInputError, match=f"not allowed: found {opcode.name} "):
                torch_case("x", archive(whole(opcode.code.encode("latin-1")))).prepare(tmp_path)()


def test_the_audit_hook_does_see_imports_and_opens(tmp_path: Path) -> None:
    _, events = audited(lambda: (tmp_path / "x").write_text("y"))
    assert any(event.startswith("open ") for event in events)
    _, events = audited(lambda: pickle.loads(b"cos\nlistdir\n(X\1\0\0\0.tR."))
    assert any(event.startswith("pickle.find_class") for event in events)
    assert any(event.startswith("os.listdir") for event in events)


_UNPICKLE = """
import sys, pickle
class Unpickler(pickle.Unpickler):
    def persistent_load(self, pid): return pid
    def find_class(self, module, name):
        return (lambda *arguments: arguments) if module.startswith("torch") else super().find_class(module, name)
try: Unpickler(open(sys.argv[1], "rb")).load()
except Exception as error: print(type(error).__name__, error)
"""


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_real_unpickler_would_have_run_it(name: str, tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    canary.write_text("sings")
    (tmp_path / "p").write_bytes(PROTO + RUNNABLE[name](tmp_path) + b".")
    subprocess.run([sys.executable, "-S", "-c", _UNPICKLE, str(tmp_path / "p")], check=True, capture_output=True)
    assert not canary.exists() or canary.read_text() != "sings"
