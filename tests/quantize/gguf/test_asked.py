"""From what users type to a GGUF's options."""

from __future__ import annotations

import pytest

from ingot.errors import UsageError
from ingot.quantize.gguf.asked import file_types, refuse_poor, split_nbytes


@pytest.mark.parametrize(
    ("formats", "types"),
    [
        ([], ()),
        (["safetensors"], ()),
        (["gguf:q4_k_m"], ("Q4_K_M",)),
        (["GGUF:Q4_K_M, gguf:Q8_0", "gguf:Q4_K_M"], ("Q4_K_M", "Q8_0")),
    ],
)
def test_types_are_llama_cpps_and_stand_once(formats: list[str], types: tuple[str, ...]) -> None:
    assert file_types(formats) == types


@pytest.mark.parametrize(
    ("formats", "word"),
    [
        (["gguf:Q9_X"], "no such GGUF type"),
        (["safetensors,gguf:Q8_0"], "two artifacts"),
        (["awq"], "later version"),
        (["onnx"], "no such format"),
    ],
)
def test_another_format_is_refused(formats: list[str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        file_types(formats)


@pytest.mark.parametrize(
    ("text", "nbytes"), [("4G", 4 * 10**9), ("500 MB", 5 * 10**8), ("1.5k", 1500), ("17", 17), ("1t", 10**12)]
)
def test_sizes_are_decimal(text: str, nbytes: int) -> None:
    assert split_nbytes(text, "--split-size") == nbytes


@pytest.mark.parametrize("text", ["", "0", "-1", "4 GiB", "much", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--split-size is no size"):
        split_nbytes(text, "--split-size")


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K_M", "IQ1_S", "IQ2_M", "IQ3_XXS"])
def test_types_that_lose_an_adapter_are_refused_with_the_way_around(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_poor(["Q8_0", name], "pass --accept-quality-loss")
    assert "--accept-quality-loss" in (caught.value.hint or "")
    refuse_poor(["Q4_K_M", "IQ4_XS", "MXFP4_MOE", "BF16"], "")
