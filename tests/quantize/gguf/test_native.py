"""ggml's own code from the installed library: its bytes against the reference build's, and why one is refused."""

from __future__ import annotations

import ctypes.util
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ingot.errors import NonFiniteError, UsageError
from ingot.quantize.gguf import native, selftest
from ingot.quantize.gguf.native import NEED_IMPORTANCE, Found, Library, Refusal, find, open_library
from ingot.quantize.gguf.types import TYPES, ggml_type
from tests.quantize.gguf.reference.bytes import RECORD, case_name, digest, kinds

RECORDED: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8"))
#: Their tables take ggml seconds to make.
SLOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S")
QUICK = [name for name in TYPES if name not in SLOW]


def library() -> Library:
    found = find().library
    assert found is not None
    return found


def compare(name: str) -> None:
    quantizer = library().quantizer(ggml_type(name))
    some = list(kinds())[:: 4 if name.startswith("IQ") else 1]
    for weighted in (False, True):
        if weighted or name not in NEED_IMPORTANCE:
            found = {kind: digest(quantizer, rows, weighted=weighted) for kind, rows in some}
            assert found == {kind: RECORDED[case_name(name, kind, weighted=weighted)] for kind in found}


@pytest.mark.parametrize("name", QUICK)
def test_bytes_are_those_of_the_reference(name: str) -> None:
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_bytes_of_the_smallest_types_are_those_of_the_reference(name: str) -> None:
    compare(name)


def test_the_installed_library_passes_and_says_its_name() -> None:
    assert find().lines()[0].startswith("ggml's own code from xllamacpp 2")
    for weighted in (False, True):
        assert library().refuses(ggml_type("Q3_K"), weighted=weighted) is None


def test_a_library_without_the_functions_is_refused() -> None:
    path = ctypes.util.find_library("m")
    assert path is not None
    refused = open_library("libm", Path(path))
    assert isinstance(refused, Refusal)
    assert "ggml_type_name" in refused.reason


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"\x7fELF and nothing more")
    refused = open_library("broken", path)
    assert isinstance(refused, Refusal)
    assert refused.reason.startswith("it cannot be used")


def test_a_library_that_makes_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "DIGESTS", {**selftest.DIGESTS, "Q4_K": ("0" * 16, "0" * 16)})
    path = Path(next(path for name, path in native.installed() if name.startswith("xllamacpp")))
    refused = open_library("other", path)
    assert isinstance(refused, Refusal)
    assert refused.reason.startswith("its Q4_K is not that of llama.cpp's default x86-64 build")
    assert Found(None, (refused,)).lines() == [
        "numpy; importance matrices, IQ types, Q2_K and Q3_K need ggml's own code",
        f"not used: {refused.name}: {refused.reason}",
    ]


def test_a_library_that_numbers_its_types_otherwise_is_refused() -> None:
    of = ggml_type("Q4_K")
    moved = replace(of, id=13)
    assert Library("moved", library().code).refuses(moved, weighted=False) == "its type 13 is b'q5_K', not Q4_K"
    larger = replace(of, nbytes=146)
    assert Library("larger", library().code).refuses(larger, weighted=False) == "a block of its Q4_K has another size"


@pytest.mark.parametrize("name", sorted(NEED_IMPORTANCE))
def test_ggml_is_not_asked_for_what_would_stop_the_process(name: str) -> None:
    with pytest.raises(UsageError, match="needs an importance matrix"):
        library().quantizer(ggml_type(name)).quantize(np.ones((1, 256), np.float32))


@pytest.mark.parametrize("name", QUICK)
def test_what_has_no_place_in_a_type_is_refused(name: str) -> None:
    rows = np.ones((3, 256), np.float32)
    rows[2, 200] = np.nan
    with pytest.raises(NonFiniteError, match="row 2, column 200"):
        library().quantizer(ggml_type(name)).quantize(rows)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_0", "Q4_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S"])
def test_a_scale_beyond_half_floats_is_refused_with_its_place(name: str) -> None:
    rows = np.ones((3, 256), np.float32)
    rows[1, 77] = -3e38
    with pytest.raises(NonFiniteError, match="row 1, column 77"):
        library().quantizer(ggml_type(name)).quantize(rows)


def test_threads_share_a_library() -> None:
    rows = [rows for _, rows in kinds() if np.abs(rows).max() < 100]
    quantizer = library().quantizer(ggml_type("Q4_K"))
    alone = [quantizer.quantize(part) for part in rows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(quantizer.quantize, rows))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_no_rows_are_no_bytes() -> None:
    assert library().quantizer(ggml_type("Q2_K")).quantize(np.empty((0, 256), np.float32)).shape == (0, 84)
