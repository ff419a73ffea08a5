"""One registry for all tests that only look."""

from __future__ import annotations

import pytest

from ingot.registry.store import Registry
from tests.pages import example


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return example.several(tmp_path_factory.mktemp("pages"))
