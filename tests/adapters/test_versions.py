"""What a release says of the meaning of a tensor."""

from __future__ import annotations

import pytest

from ingot.adapters.versions import last_cayley_term


@pytest.mark.parametrize(
    ("version", "coefficient"),
    [
        ("0.16.0", 2), ("0.17.1", 2), ("0.16.1.dev0", 2), ("0.18.0", 1), ("0.18.0.post1", 1), ("0.21.2", 1), ("1.0", 1),
        ("0.18.2.dev0@UNKNOWN", 1), ("0.17.2.dev0", None), ("0.18.0.dev0", None), ("0.18.0rc1", None), (None, None),
        ("", None), ("new", None),
    ],
)  # fmt: skip
def test_the_last_term_of_the_series_counts_twice_up_to_0_17(version: str | None, coefficient: float | None) -> None:
    assert last_cayley_term(version) == coefficient
