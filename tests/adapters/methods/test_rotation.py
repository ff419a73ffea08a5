"""Blocks of orthogonal matrices against torch's own dense ones."""

from __future__ import annotations

import pytest
import torch

from ingot.adapters.factor import Factor
from ingot.adapters.methods.method import Layer, MethodConfig
from ingot.adapters.methods.rotation import cayley, refuse_convolution, skew, skew_size, times_blocks
from ingot.adapters.module import Module, ModuleKind
from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", range(1, 40))
def test_the_size_of_a_block_follows_from_its_stored_values(size: int) -> None:
    assert skew_size(size * (size - 1) // 2) == size


def test_no_size_fits_a_number_between() -> None:
    assert [skew_size(n) for n in (2, 4, 5, 7, 8, 9, 11)] == [None] * 7


def test_a_cayley_transform_is_orthogonal() -> None:
    packed = torch.randn(3, 10, generator=GENERATOR, dtype=torch.float64)
    rotation = cayley(skew(packed, 5))
    identity = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    assert torch.allclose(rotation @ rotation.transpose(1, 2), identity)
    assert torch.equal(skew(packed, 5)[:, 0, 1:], packed[:, :4])


def test_blocks_are_those_of_a_block_diagonal_matrix() -> None:
    tile = torch.randn(7, 12, generator=GENERATOR)
    blocks = torch.randn(3, 4, 4, generator=GENERATOR)
    assert torch.allclose(times_blocks(tile, blocks), tile @ torch.block_diag(*blocks), atol=1e-6)
    shared = torch.block_diag(*[blocks[0]] * 3)
    assert torch.allclose(times_blocks(tile[:, :], blocks[:1]), tile @ shared, atol=1e-6)
    columns = torch.randn(7, 20, generator=GENERATOR)[:, 3:15]
    assert torch.allclose(times_blocks(columns, blocks[:1]), columns @ shared, atol=1e-5)


@pytest.mark.parametrize(("shape", "groups"), [((8, 2, 3, 3), 2), ((8, 4, 3, 2), 1)])
def test_a_convolution_on_which_peft_fails_is_refused(shape: tuple[int, ...], groups: int) -> None:
    ref = TensorRef("conv.hra_u", "F32", (36, 4), "adapter_model.safetensors", 0, 576)
    layer = Layer("conv", {"hra_u": Factor(0, ref)}, {}, MethodConfig(name="HRA"))
    module = Module("conv", ModuleKind.CONV, {"weight": shape}, groups=groups)
    with pytest.raises(AdapterError, match="no merged form"):
        refuse_convolution(layer, "hra_u", module)
