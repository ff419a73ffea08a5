"""Every base, adapter and merge of the oracle is made once a session; each test compares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is on the Hub; PEFT asks it for a base's config all the same

from tests.oracle.reference import Workshop  # noqa: E402 - the variable must be set before huggingface_hub is imported


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
