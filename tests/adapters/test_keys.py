"""The grammar of tensor names: what is read, what is refused."""

from __future__ import annotations

import pytest

from ingot.adapters.keys import Key, Role, parse_keys
from ingot.errors import AdapterError
from ingot.formats import TensorRef


def parsed(*names: str) -> list[tuple[str, Role, int, str]]:
    return [(key.path, key.role, key.depth, key.parameter) for key in keys_of(*names)]


def keys_of(*names: str) -> tuple[Key, ...]:
    return parse_keys([TensorRef(name, "F32", (2, 2), "f", 0, 16) for name in names])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.q.lora_A.weight", ("m.q", Role.A, 0, "")),
        ("m.q.lora_B.weight", ("m.q", Role.B, 0, "")),
        ("m.q.lora_B.bias", ("m.q", Role.B_BIAS, 0, "")),
        ("m.e.lora_embedding_A", ("m.e", Role.EMBEDDING_A, 0, "")),
        ("m.e.lora_embedding_B", ("m.e", Role.EMBEDDING_B, 0, "")),
        ("m.q.lora_magnitude_vector", ("m.q", Role.MAGNITUDE, 0, "")),
        ("m.q.lora_magnitude_vector.weight", ("m.q", Role.MAGNITUDE, 0, "")),
        ("m.e.token_adapter.trainable_tokens_delta", ("m.e", Role.TOKENS, 0, "")),
        ("m.e.token_adapter.base_layer.weight", ("m.e", Role.TOKENS_BASE, 0, "weight")),
        ("m.e.base_layer.weight", ("m.e", Role.BASE, 0, "weight")),
        ("m.q.base_layer.bias", ("m.q", Role.BASE, 0, "bias")),
        ("m.mha.base_layer.in_proj_bias", ("m.mha", Role.BASE, 0, "in_proj_bias")),
        ("m.experts.base_layer.base_layer.up_bias", ("m.experts", Role.BASE, 0, "up_bias")),
        ("m.experts.base_layer.lora_A.weight", ("m.experts", Role.A, 1, "")),
        ("m.experts.base_layer.base_layer.lora_B.weight", ("m.experts", Role.B, 2, "")),
        ("m.mha.base_layer.out_proj.lora_A.weight", ("m.mha.base_layer.out_proj", Role.A, 0, "")),
        ("score.weight", ("score", Role.FULL, 0, "weight")),
        ("score.modules_to_save.default.dense.weight", ("score.dense", Role.FULL, 0, "weight")),
        ("lora_A_block.q.lora_A.weight", ("lora_A_block.q", Role.A, 0, "")),
    ],
)
@pytest.mark.parametrize("prefix", ["base_model.model.", "", "base_model.model.base_model.model.",
                                    "module.base_model.model.", "base_model.model._orig_mod."])  # fmt: skip
def test_every_role_is_read_under_every_prefix(prefix: str, name: str, expected: tuple[str, Role, int, str]) -> None:
    assert parsed(prefix + name) == [expected]


@pytest.mark.parametrize("name", ["default", "my-adapter", "lora_A"])
def test_an_adapters_name_that_was_kept_is_read_past(name: str) -> None:
    names = (f"q.lora_A.{name}.weight", f"q.lora_B.{name}.weight", f"e.lora_embedding_A.{name}")
    assert parsed(*names) == [("q", Role.A, 0, ""), ("q", Role.B, 0, ""), ("e", Role.EMBEDDING_A, 0, "")]


@pytest.mark.parametrize(
    "names",
    [
        ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight", "q.lora_A.weight"),
        ("q.lora_A.default.weight", "q.lora_B.default.weight", "k.lora_A.weight"),
        ("q.lora_A.first.weight", "q.lora_B.first.weight", "k.lora_A.second.weight"),
        ("q.lora_A.weight", "q.lora_A.bias"),
        ("q.lora_A",),
        ("q.lora_C.weight",),
        ("q.lora_A.weight.weight.weight",),
        ("q.lora_embedding_A.default.weight",),
        ("lora_A.weight",),
        ("weight",),
        ("base_model.vera_A",),
        ("q.lora_magnitude_vector", "q.lora_magnitude_vector.weight"),
        ("score.weight", "score.modules_to_save.default.weight"),
    ],
)
def test_a_name_with_no_reading_or_two_is_refused_by_name(names: tuple[str, ...]) -> None:
    with pytest.raises(AdapterError) as caught:
        parsed(*names)
    assert any(name in caught.value.message for name in names)


def test_an_empty_file_is_no_adapter() -> None:
    with pytest.raises(AdapterError, match="no tensors"):
        parse_keys([])
