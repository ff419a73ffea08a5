"""Who quantizes: ggml's own code where it passed, numpy where it can, and a clear refusal for the rest."""

from __future__ import annotations

import pytest

from ingot.errors import MissingComponent, UsageError
from ingot.quantize.gguf import selftest
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.native import Found, Library, Refusal, find
from ingot.quantize.gguf.types import TYPES

NOTHING = Found(None, (Refusal("another 1.0", "its Q4_0 is odd"),))
BY_NUMPY = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "Q4_K", "Q5_K", "Q6_K"}


def test_without_a_library_numpy_makes_what_it_can() -> None:
    made = set()
    for name in TYPES:
        try:
            made.add(quantizer_for(name, native=NOTHING).type.name)
        except (MissingComponent, UsageError):
            continue
    assert made == BY_NUMPY


@pytest.mark.parametrize(("name", "weighted"), [("Q2_K", False), ("IQ4_XS", False), ("IQ2_XS", True), ("Q4_K", True)])
def test_what_only_ggml_makes_is_refused_with_the_reason_and_the_command(name: str, weighted: bool) -> None:
    with pytest.raises(MissingComponent, match=r"found another 1\.0: its Q4_0 is odd") as error:
        quantizer_for(name, weighted=weighted, native=NOTHING)
    assert name in error.value.what
    assert ("importance matrix" in error.value.what) == weighted
    assert error.value.hint == "Run `pip install 'ingot-merge[gguf]'`."


@pytest.mark.parametrize("name", ["Q8_0", "MXFP4", "BF16"])
def test_types_that_know_no_importance_need_no_library_for_it(name: str) -> None:
    assert quantizer_for(name, weighted=True, native=NOTHING).backend == "numpy"


def test_a_library_that_passed_goes_first() -> None:
    assert quantizer_for("Q4_K").backend.startswith("xllamacpp")
    assert quantizer_for("Q2_K", weighted=True).backend.startswith("xllamacpp")
    assert quantizer_for("F16").backend == "numpy"


def test_a_type_that_fails_its_own_test_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find().library
    assert found is not None
    fresh = Found(Library("fresh", found.code), ())
    with monkeypatch.context() as patch:
        odd = dict.fromkeys(("Q5_K", "Q3_K"), ("0" * 16, "0" * 16))
        patch.setattr(selftest, "DIGESTS", {**selftest.DIGESTS, **odd})
        with pytest.raises(MissingComponent, match="fresh: its Q3_K is not that"):
            quantizer_for("Q3_K", native=fresh)
        with pytest.raises(MissingComponent, match="fresh: its Q5_K is not that"):
            quantizer_for("Q5_K", native=fresh)
    assert quantizer_for("Q5_K", native=fresh).backend == "numpy"


def test_numpy_is_tested_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "DIGESTS", {**selftest.DIGESTS, "Q6_K": ("0" * 16, "0" * 16)})
    assert quantizer_for("Q4_K", native=Found(None, ())).backend == "numpy"
    with pytest.raises(MissingComponent, match=r"found numpy 2.*: its sums are taken in another order here"):
        quantizer_for("Q6_K", native=Found(None, ()))


@pytest.mark.parametrize("name", ["IQ1_S", "IQ2_XXS", "IQ2_XS"])
def test_the_smallest_types_need_an_importance_matrix(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} needs an importance matrix"):
        quantizer_for(name)


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Q4_K"):
        quantizer_for("Q4_K_M")
