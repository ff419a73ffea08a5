from __future__ import annotations

from pathlib import Path

import pytest

from tests.record.makers import merge, write_adapter, write_base


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/ and adapter/."""
    root = tmp_path_factory.mktemp("registry")
    write_base(root / "base")
    write_adapter(root / "adapter")
    return root


@pytest.fixture(scope="session")
def artifact(root: Path) -> Path:
    """The merge of the two. Do not change it: take `copy_of`."""
    merge(root, root / "out")
    return root / "out"
