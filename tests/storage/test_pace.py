from __future__ import annotations

from pathlib import Path

import pytest

from ingot.storage import pace


def test_a_big_run_is_remembered(tmp_path: Path) -> None:
    pace.remember(3 << 30, 2.0, tmp_path / "cache")
    assert pace.recall(tmp_path / "cache") == (3 << 30) / 2


@pytest.mark.parametrize(("nbytes", "seconds"), [(1 << 20, 1.0), (3 << 30, 0.0), (3 << 30, float("nan"))])
def test_a_run_that_says_nothing_of_the_disk_is_not(tmp_path: Path, nbytes: int, seconds: float) -> None:
    pace.remember(nbytes, seconds, tmp_path)
    assert pace.recall(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"nbytes_per_second": true}', '{"nbytes_per_second": 0}', "\xff", '{"a": 1}']
)
def test_a_damaged_memory_means_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "pace.json").write_text(text, encoding="latin-1")
    assert pace.recall(tmp_path) is None


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pace.remember(3 << 30, 2.0, tmp_path / "file" / "cache")
    assert pace.recall(tmp_path / "file" / "cache") is None
