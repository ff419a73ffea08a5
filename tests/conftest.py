"""For all tests: no cache of the user's is read or written, and no hub is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import dispositions

dispositions.restore()


@pytest.fixture(scope="session", autouse=True)
def _apart_from_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_CACHE", str(tmp_path_factory.mktemp("ingot-cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
