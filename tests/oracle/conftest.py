"""Every base, adapter and merge of the oracle is made once a session; each test compares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle.reference import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    root = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_CACHE", str(root / "cache"))
        yield Workshop(root)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where an artifact may be made; its parent is otherwise empty."""
    parent = tmp_path / "made"
    parent.mkdir()
    return parent / "artifact"
