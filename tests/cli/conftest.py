"""Every test of the command line has a digest cache of its own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("INGOT_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
