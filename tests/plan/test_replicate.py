from __future__ import annotations

import pytest

from ingot.errors import MismatchError
from ingot.plan.configs import replicated
from ingot.plan.replicate import Replication

NAMES = [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)] + ["model.norm.weight"]


def test_ranges_become_a_list_of_source_layers() -> None:
    assert Replication.of([[0, 2], [1, 3]], NAMES).sources == (0, 1, 1, 2)


def test_every_copy_of_a_tensor_gets_its_new_number() -> None:
    replication = Replication.of([[0, 2], [1, 3]], NAMES)
    assert replication.copies(NAMES[1]) == [
        "model.layers.1.self_attn.q_proj.weight", "model.layers.2.self_attn.q_proj.weight"
    ]  # fmt: skip
    assert replication.copies("model.norm.weight") == ["model.norm.weight"]


def test_a_layer_that_no_range_names_has_no_copies() -> None:
    assert Replication.of([[0, 1]], NAMES).copies(NAMES[2]) == []


def test_an_adapters_path_leads_to_the_base_layer_and_keeps_its_number() -> None:
    replication = Replication.of([[0, 2], [1, 3]], NAMES)
    assert replication.base_path("model.layers.3.mlp.up_proj") == ("model.layers.2.mlp.up_proj", 3)
    assert replication.base_path("model.norm") == ("model.norm", None)
    assert replication.renamed("model.layers.2.mlp.up_proj.weight", 3) == "model.layers.3.mlp.up_proj.weight"


def test_without_ranges_nothing_changes() -> None:
    replication = Replication.of(None, NAMES)
    assert replication.copies(NAMES[0]) == [NAMES[0]]
    assert replication.base_path("model.layers.9.x") == ("model.layers.9.x", None)


@pytest.mark.parametrize("ranges", [[[0, 4]], [[2, 2]]])
def test_ranges_beyond_the_base_are_refused(ranges: list[list[int]]) -> None:
    with pytest.raises(MismatchError, match="layers that the base does not have"):
        Replication.of(ranges, NAMES)


def test_a_path_beyond_the_new_layers_is_refused() -> None:
    with pytest.raises(MismatchError, match="beyond"):
        Replication.of([[0, 2]], NAMES).base_path("model.layers.2.mlp.up_proj")


def test_the_config_counts_the_new_layers_and_repeats_their_kinds() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "architectures": ["X", "Y", "Z"], "eos": [1, 2]}
    assert replicated(config, (0, 1, 1, 2)) == {"num_hidden_layers": 4, "layer_types": ["a", "b", "b", "c"]}
