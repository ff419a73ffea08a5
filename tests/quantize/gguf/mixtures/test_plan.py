"""The types of every skeleton against those that llama.cpp gave it, and what the planner refuses."""

from __future__ import annotations

import json

import pytest

from ingot.errors import BaseError, IngotError, UsageError
from ingot.quantize.gguf.mixtures import Model, output_order, plan_types, unquantized_type
from ingot.quantize.gguf.types import FILE_TYPES
from tests.quantize.gguf.reference.plans import RECORD, REFUSED, SOURCE, case_name, digest
from tests.quantize.gguf.skeletons import SKELETONS, Skeleton

RECORDED: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
LLAMA = Model("llama", 4, 8, 8)


def ours(skeleton: Skeleton, file_type: str, *, weighted: bool) -> str:
    tensors = skeleton.tensors()
    importance = [name for name, shape in tensors.items() if len(shape) > 1] if weighted else None
    try:
        return digest(plan_types(skeleton.model, tensors, file_type, source=SOURCE, importance=importance))
    except IngotError:
        return REFUSED


@pytest.mark.parametrize("name", SKELETONS)
def test_every_mixture_is_llama_cpps(name: str) -> None:
    cases = {case_name(file_type, weighted=weighted): ours(SKELETONS[name], file_type, weighted=weighted)
             for file_type in FILE_TYPES for weighted in (False, True)}  # fmt: skip
    assert cases == RECORDED[name]


def test_the_record_refuses_what_has_no_importance_matrix_and_nothing_else() -> None:
    refused = {case for cases in RECORDED.values() for case, found in cases.items() if found == REFUSED}
    assert refused == {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}


def test_llamas_q4_k_m_has_more_bits_for_values_and_mlp_outputs_of_some_layers() -> None:
    types = plan_types(Model("llama", 16, 32, 8), SKELETONS["llama-1b"].tensors(), "Q4_K_M", source="F16")
    more = [int(name.split(".")[1]) for name, of in types.items() if "attn_v" in name and of == "Q6_K"]
    assert more == [0, 1, 4, 7, 10, 13, 14, 15]
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.3.attn_q.weight"] == "Q4_K"
    assert types["blk.3.attn_norm.weight"] == types["rope_freqs.weight"] == "F32"


def test_tensors_without_an_importance_matrix_are_named() -> None:
    tensors = {"token_embd.weight": (8, 256), "blk.0.attn_q.weight": (8, 256), "blk.0.attn_k.weight": (8, 256)}
    with pytest.raises(UsageError, match=r"IQ2_XS .* for 2 tensors") as error:
        plan_types(LLAMA, tensors, "IQ2_XS", source="F16")
    assert "blk.0.attn_k.weight (IQ2_XS), blk.0.attn_q.weight (IQ2_XS)" in str(error.value)
    assert "--imatrix" in str(error.value.hint)
    with pytest.raises(UsageError, match=r"found none for blk.0.attn_k.weight \(IQ2_XS\)"):
        plan_types(LLAMA, tensors, "IQ2_XS", source="F16", importance={"blk.0.attn_q.weight"})


def test_an_expert_model_must_say_which_layer_a_matrix_is_of() -> None:
    model = Model("llama", 4, 8, 8, n_expert=4)
    with pytest.raises(BaseError, match=r"blk.4.ffn_down"):
        plan_types(model, {"blk.4.ffn_down.weight": (8, 256)}, "Q4_K_M", source="F16")


def test_an_unknown_file_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Q5_K_S"):
        plan_types(LLAMA, {}, "Q4_K", source="F16")


@pytest.mark.parametrize(("columns", "of"), [(512, "Q4_K"), (320, "Q5_0"), (80, "F16")])
def test_rows_that_are_no_whole_blocks_fall_back(columns: int, of: str) -> None:
    tensors = {"output.weight": (8, 256), "blk.0.attn_q.weight": (8, columns)}
    assert plan_types(LLAMA, tensors, "Q4_K_M", source="BF16")["blk.0.attn_q.weight"] == of


def test_the_order_is_blocks_by_number_and_names_by_bytes() -> None:
    names = ["token_embd.weight", "blk.10.a", "blk.9.z", "blk.9.B", "output.weight"]
    assert output_order(names) == ["output.weight", "token_embd.weight", "blk.9.B", "blk.9.z", "blk.10.a"]


@pytest.mark.parametrize(
    ("name", "shape", "of"),
    [
        ("blk.0.attn_q.weight", (8, 8), "BF16"), ("blk.0.attn_norm.weight", (8,), "F32"),
        ("blk.0.attn_q_norm.weight", (8, 8), "F32"), ("blk.0.attn_q.bias", (8,), "F32"),
        ("blk.0.ffn_gate_inp.weight", (8, 8), "F32"), ("blk.0.ffn_gate_inp_shexp.weight", (1, 8), "F32"),
        ("position_embd.weight", (8, 8), "F32"), ("blk.11.ffn_gate.weight", (8, 8), "BF16"),
    ],
)  # fmt: skip
def test_what_stays_in_float32(name: str, shape: tuple[int, ...], of: str) -> None:
    assert unquantized_type(name, shape, "BF16") == of
