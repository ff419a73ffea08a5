"""Each dialect's merge is that of the library that owns it, which `tests/reference` keeps: none is needed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ingot.merge import prepare
from ingot.plan.model import Options
from tests.reference.kept import cases, kept

#: Largest difference, relative to the largest element of a tensor.
TOLERANCE = 1e-6


@pytest.mark.parametrize("case", cases())
def test_a_merge_is_what_the_library_makes_of_it(case: str, tmp_path: Path) -> None:
    spec, expected = kept(case)
    base, adapter = spec.write(tmp_path)
    with prepare(str(base), [(str(adapter), 1.0)], Options(**spec.options), target=tmp_path / "out", jobs=1) as job:
        total = len(spec.adapter)
        assert len(job.plan.claims) + len(job.plan.explained.keys() - job.plan.claims.keys()) == total
        job.run()
    merged, stored = load_file(tmp_path / "out" / spec.base_name), spec.base_tensors()
    assert merged.keys() == stored.keys()
    for name, value in merged.items():
        if name in expected:
            scale = max(1.0, float(np.abs(expected[name]).max()))
            assert np.abs(value - expected[name]).max() <= TOLERANCE * scale, name
        else:
            assert np.array_equal(value, stored[name]), name
