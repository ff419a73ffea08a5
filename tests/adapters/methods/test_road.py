"""RoAd against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest

from ingot.adapters.terms import Needs
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, NUMBER, check_refusals

LAYERS = ["q_proj", "down_proj"]


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
@pytest.mark.parametrize("group", [2, 4, 16])
def test_weights_and_biases_are_pefts(judge: Judge, variant: str, group: int) -> None:
    plan = judge.check("llama_bias", peft.RoadConfig(variant=variant, group_size=group, target_modules=LAYERS))
    needs = {op.name.rpartition(".")[2]: placed.term.needs for op in plan.ops for placed in op.terms}
    assert needs == {"weight": Needs.TILES, "bias": Needs.TILE}


def test_layers_without_a_bias_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.RoadConfig(group_size=8, target_modules=LAYERS))


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_cuts_through_groups_do_not_matter_and_read_no_more_than_the_rest_of_a_group(
    judge: Judge, variant: str
) -> None:
    config = peft.RoadConfig(variant=variant, group_size=8, target_modules=LAYERS)
    for weight in check_cuts(judge, "llama_bias", config):
        assert all(0 < end - begin < 8 for begin, end in weight.seen)


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    config = peft.RoadConfig(variant="road_2", group_size=4, target_modules=["q_proj"])
    settings = {"group_size": (*INTEGER, 3), "variant": (*NUMBER, "road_3")}
    sound = check_refusals(judge, "llama_bias", config, settings)
    sound.refusal(settings={"variant": "road_1"})
    assert "group_size 6" in str(sound.refusal(settings={"group_size": 6}))
