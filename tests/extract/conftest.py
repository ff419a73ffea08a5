"""One small pair of checkpoints that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """BASE and TUNED: float32, a LoRA of rank 4 merged into every Linear layer. Not to be written to."""
    from tests.extract.judge import add_low_rank, make

    return make(tmp_path_factory.mktemp("llama"), "llama", add_low_rank)
