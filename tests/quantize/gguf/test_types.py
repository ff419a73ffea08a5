"""Types and file types against the `gguf` library."""

from __future__ import annotations

import gguf
import pytest

from ingot.errors import UsageError
from ingot.quantize.gguf.types import FILE_TYPES, TYPES, file_type_id, ggml_type


@pytest.mark.parametrize("name", TYPES)
def test_numbers_and_blocks_are_those_of_the_library(name: str) -> None:
    member, of = gguf.GGMLQuantizationType[name], ggml_type(name)
    assert (of.id, (of.block, of.nbytes)) == (int(member), gguf.GGML_QUANT_SIZES[member])


def test_file_types_are_those_of_the_library() -> None:
    ids = {name: file_type_id(name) for name in FILE_TYPES}
    assert ids == {name: gguf.LlamaFileType[("ALL_" if name == "F32" else "MOSTLY_") + name] for name in FILE_TYPES}
    assert set(FILE_TYPES.values()) <= set(TYPES)


def test_a_row_holds_whole_blocks() -> None:
    assert ggml_type("Q4_K").row_nbytes(512) == 288
    with pytest.raises(ValueError, match="no whole blocks of Q4_K"):
        ggml_type("Q4_K").row_nbytes(320)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Q4_K_M"):
        file_type_id("Q4_K_X")
    with pytest.raises(UsageError, match="Q4_K"):
        ggml_type("Q4_K_M")
