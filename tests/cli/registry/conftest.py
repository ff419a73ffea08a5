"""The small registry of tests/registry, and the command line upon it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ingot.cli import main
from tests.registry.conftest import Library, library, made_library

__all__ = ["library", "made_library"]


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.json[-1]


Ingot = Callable[..., Said]


@pytest.fixture
def ingot(library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ingot:
    """`ingot registry ...` on the library."""
    monkeypatch.setenv("INGOT_REGISTRY", str(library.registry.layout.root))

    def run(*arguments: str) -> Said:
        return said(["registry", *arguments], capsys)

    return run


def said(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Said:
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return Said(code, captured.out, captured.err)
