"""GPTQ and AWQ written by the definition of their layouts, with numpy alone: one number and one bit at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.errors import BaseError
from tests.checkpoint.quantized.folders import shown, write

Array = np.ndarray[Any, np.dtype[Any]]


def stream(numbers: Array, bits: int) -> Array:
    """numbers[n, m] along the first axis as one stream of bits, the lowest first, in int32 words[n * bits / 32, m]."""
    n, m = numbers.shape
    flat = (numbers[:, None, :].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)[None, :, None]) & np.uint64(1)
    words = flat.reshape(n * bits // 32, 32, m) << np.arange(32, dtype=np.uint64)[None, :, None]
    return words.sum(1).astype(np.uint32).view(np.int32)


class Made:
    """Random integers, zero points and scales of W[out, in], and W in float64 arithmetic, rounded once."""

    def __init__(
        self, out: int, inputs: int, bits: int, group: int, *, order: str = "", scale: str = "float16"
    ) -> None:
        random = np.random.default_rng(bits * 1000 + out)
        groups = -(-inputs // group)
        self.bits, self.group = bits, group
        self.q = random.integers(0, 2**bits, (inputs, out))
        self.z = random.integers(1, 2**bits, (groups, out))
        self.s = torch.tensor(random.uniform(0.001, 0.1, (groups, out))).to(getattr(torch, scale))
        self.g = np.arange(inputs) // group
        if order == "act":
            self.g = random.permutation(self.g)
        elif order == "group":  # whole groups change places
            self.g = random.permutation(groups)[self.g]
        exact = (self.q - self.z[self.g]) * self.s.double().numpy()[self.g]
        self.expected = torch.tensor(exact.T.copy()).float().to(self.s.dtype)

    def gptq(self, *, version: int = 1, g_idx: bool = True) -> dict[str, torch.Tensor]:
        stored = self.z - 1 if version == 1 else self.z
        parts = {
            "a.qweight": torch.tensor(stream(self.q, self.bits)),
            "a.qzeros": torch.tensor(stream(stored.T, self.bits).T.copy()),
            "a.scales": self.s,
        }
        return parts | ({"a.g_idx": torch.tensor(self.g, dtype=torch.int32)} if g_idx else {})

    def awq(self) -> dict[str, torch.Tensor]:
        def packed(numbers: Array) -> torch.Tensor:
            eights = numbers.reshape(len(numbers), -1, 8)
            words = sum(
                eights[:, :, column].astype(np.uint64) << np.uint64(4 * nibble)
                for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7))
            )
            return torch.tensor(np.asarray(words).astype(np.uint32).view(np.int32))

        return {"a.qweight": packed(self.q), "a.qzeros": packed(self.z), "a.scales": self.s}


def settings(made: Made, **more: object) -> dict[str, object]:
    return {"quant_method": "gptq", "bits": made.bits, "group_size": made.group, "desc_act": False, **more}


def awq_settings(**more: object) -> dict[str, object]:
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", **more}


@pytest.mark.parametrize("order", ["", "act", "group"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_what_its_definition_says(tmp_path: Path, bits: int, version: int, order: str) -> None:
    made = Made(96, 128, bits, 32, order=order)
    layout = "gptq" if version == 1 else "gptq_v2"
    folder = write(tmp_path / "base", made.gptq(version=version), settings(made, checkpoint_format=layout), "float16")
    assert torch.equal(shown(folder)["a.weight"], made.expected)


@pytest.mark.parametrize("scale", ["bfloat16", "float32"])
def test_the_product_is_rounded_to_the_dtype_of_the_scales_first(tmp_path: Path, scale: str) -> None:
    made = Made(64, 96, 4, 32, scale=scale)
    found = shown(write(tmp_path / "base", made.gptq(), settings(made)))["a.weight"]
    assert torch.equal(found, made.expected.to(torch.bfloat16))


def test_without_g_idx_the_groups_are_in_order_and_one_of_all_inputs_has_the_size_minus_one(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 16)
    folder = write(tmp_path / "base", made.gptq(g_idx=False), settings(made), "float16")
    assert torch.equal(shown(folder)["a.weight"], made.expected)
    whole = Made(32, 64, 4, 64)
    folder = write(tmp_path / "one", whole.gptq(g_idx=False), settings(whole, group_size=-1), "float16")
    assert torch.equal(shown(folder)["a.weight"], whole.expected)


def test_a_zero_point_of_zero_in_version_1_carries_as_gptqmodel_writes_it(tmp_path: Path) -> None:
    """GPTQModel takes 1 from all numbers of a word at once, so that a zero borrows from its neighbour."""
    made = Made(32, 64, 4, 16)
    made.z[:, ::5] = 0
    exact = (made.q - made.z[made.g]) * made.s.double().numpy()[made.g]
    parts = made.gptq(version=2)
    parts["a.qzeros"] = parts["a.qzeros"] - 0x1111_1111
    found = shown(write(tmp_path / "base", parts, settings(made), "float16"))["a.weight"]
    assert torch.equal(found, torch.tensor(exact.T.copy()).half())


@pytest.mark.parametrize("out", [40, 64])
def test_awq_is_what_its_definition_says(tmp_path: Path, out: int) -> None:
    made = Made(out, 96, 4, 32)
    assert torch.equal(
        shown(write(tmp_path / "base", made.awq(), awq_settings(), "float16"))["a.weight"], made.expected
    )


def test_awq_is_what_compressed_tensors_makes_of_it(tmp_path: Path) -> None:
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters")
    made = Made(64, 96, 4, 32)
    found = shown(write(tmp_path / "base", made.awq(), awq_settings(), "float16"))["a.weight"]
    converter = converters.AutoAWQConverter(bits=4, group_size=32)
    q, scale, zero = converter._convert_gemm_module(
        *(made.awq()[f"a.{part}"] for part in ("qweight", "scales", "qzeros"))
    )
    group = torch.arange(96) // 32
    assert torch.equal(found, (q.half() - zero.half()[:, group]) * scale[:, group])


# -- what is wrong ---------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(BaseError) as error:
        shown(folder)
    assert error.value.exit_code == 10
    return error.value.message


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    made = Made(32, 64, 4, 16)
    parts = made.gptq()
    del parts[f"a.{part}"]
    assert f"a.{part}" in refused(write(tmp_path / "base", parts, settings(made)))


def test_a_missing_qweight_leaves_parts_that_belong_to_no_weight(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 16)
    parts = made.gptq()
    other = {f"b{name[1:]}": part for name, part in made.gptq().items()}
    del parts["a.qweight"]
    assert "belong to no weight" in refused(write(tmp_path / "base", parts | other, settings(made)))


def test_a_part_of_another_shape_is_named(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 16)
    parts = made.gptq() | {"a.qweight": torch.zeros(8, 31, dtype=torch.int32)}
    assert "a.qweight" in refused(write(tmp_path / "base", parts, settings(made)))


@pytest.mark.parametrize("said", [{"bits": 8}, {"group_size": 128}])
def test_a_config_that_says_something_else_is_a_contradiction(tmp_path: Path, said: dict[str, object]) -> None:
    made = Made(32, 64, 4, 16)
    message = refused(write(tmp_path / "base", made.gptq(g_idx=False), settings(made, **said)))
    assert "contradict" in message


def test_settings_for_some_modules_may_differ_from_the_rest(tmp_path: Path) -> None:
    made = Made(32, 64, 8, 16)
    said = settings(made, bits=4, dynamic={"+:a": {"bits": 8}})
    assert torch.equal(shown(write(tmp_path / "base", made.gptq(), said, "float16"))["a.weight"], made.expected)


def test_a_group_that_has_no_scale_is_refused(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 16)
    parts = made.gptq()
    parts["a.g_idx"][5] = 4
    assert "no scale" in refused(write(tmp_path / "base", parts, settings(made)))


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 16)
    parts = made.gptq()
    parts["a.scales"][1, 1] = float("inf")
    assert "decodes to a NaN" in refused(write(tmp_path / "base", parts, settings(made)))


def test_3_bits_of_version_1_by_gptqmodel_are_refused_since_its_ones_are_others(tmp_path: Path) -> None:
    made = Made(32, 64, 3, 16)
    said = settings(made, meta={"quantizer": ["gptqmodel:7.6.0"]})
    assert "gptq_v2" in refused(write(tmp_path / "base", made.gptq(), said))


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    made = Made(32, 64, 4, 32)
    assert "marlin" in refused(write(tmp_path / "g", made.gptq(), settings(made, checkpoint_format="marlin")))
    assert "gemv" in refused(write(tmp_path / "a", made.awq(), awq_settings(version="gemv")))
