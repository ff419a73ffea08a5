"""A clean merge passes, a planted fault is named where it is, and the figures are those of the formula in float64."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import BaseError, Interrupted
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.validate.model import Unsupported
from ingot.validate.result import ModuleFidelity, Weights
from ingot.validate.weights.compare import compare
from tests.oracle.cases import Case
from tests.oracle.reference import Workshop, adapter_tensors, by_formula, load_base, merged, on_disk, write_adapter
from tests.validate import faults

PREFIX = "base_model.model."
LINEAR = {"target_modules": "all-linear"}
LLAMA = Case("llama", "all-linear", LINEAR)
GPT2 = Case("gpt2", "all-linear", LINEAR)
CLEAN = [
    LLAMA,
    GPT2,
    Case("gpt2", "dora", {"target_modules": ["c_attn"], "use_dora": True}),
    Case(
        "llama", "dora and a saved norm", {"target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["norm"]}
    ),
    Case("llama_tied", "embeddings", {"target_modules": ["embed_tokens", "q_proj"]}),
    Case("llama_tied", "head", {"target_modules": ["lm_head"]}),
    Case("llama_bias", "lora_bias", {"target_modules": ["q_proj"], "lora_bias": True}),
    Case("mixtral", "experts", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}),
    Case("qwen3_moe", "experts", {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}),
    Case("gpt_oss", "experts", {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}),
    Case("phi3", "fused", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
]
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("weights"))


def held(base: Path, adapter: Path | list[tuple[Path, float]], candidate: Path, **how: Any) -> Weights:
    """`candidate` against base + adapters."""
    listed = [(adapter, 1.0)] if isinstance(adapter, Path) else adapter
    with prepare(str(base), [(str(path), weight) for path, weight in listed]) as job:
        opened = Checkpoint.open(locate(str(candidate), what="candidate", error=BaseError))
        try:
            return compare(job, opened, **how)
        finally:
            opened.close()


def named(found: Weights) -> set[str]:
    """Every tensor of which something bad is said."""
    return {one.tensor for one in found.modules if one.said} | {*found.untouched_differ, *found.missing, *found.extra}


def of(found: Weights, tensor: str) -> ModuleFidelity:
    (one,) = [one for one in found.modules if one.tensor == tensor]
    return one


def clean_merge(workshop: Workshop, case: Case, target: Path, dtype: torch.dtype = torch.float32) -> faults.Clean:
    base, adapter = workshop.base(case.model, dtype), workshop.adapter(case)
    merged(base, adapter, target)
    return faults.Clean(base, adapter, target)


# -- clean merges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CLEAN, ids=lambda case: case.name)
def test_nothing_is_said_of_a_clean_merge(workshop: Workshop, tmp_path: Path, case: Case, dtype: str) -> None:
    clean = clean_merge(workshop, case, tmp_path / "out", DTYPES[dtype])
    found = held(clean.base, clean.adapter, clean.merged)
    assert named(found) == set()
    assert found.dtype == dtype
    assert found.survival == pytest.approx(1, abs=0.01)
    assert {one.tensor for one in found.modules} >= {*clean.changed}
    assert len(found.modules) + found.untouched == len(clean.after)
    if dtype != "F32":  # float32 sums round where the last bits of float32 are; 16 bits hardly ever show it
        assert found.equal >= 0.995


@pytest.mark.parametrize("case", [LLAMA, GPT2, CLEAN[7], CLEAN[8]], ids=lambda case: case.name)
def test_a_merge_that_peft_saved_is_clean_too(workshop: Workshop, case: Case) -> None:
    found = held(workshop.base(case.model), workshop.adapter(case), workshop.by_peft(case))
    assert named(found) == set()
    assert found.survival == pytest.approx(1, abs=1e-5)


def test_pefts_merge_of_a_tied_embedding_is_named_since_it_changes_the_head_too(workshop: Workshop) -> None:
    found = held(workshop.base("llama_tied"), workshop.adapter(CLEAN[4]), workshop.by_peft(CLEAN[4]))
    assert named(found) == {faults.HEAD}  # in training the head had no LoRA


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_merge_in_another_dtype_is_held_against_that_dtype(workshop: Workshop, tmp_path: Path, dtype: str) -> None:
    base, adapter = workshop.base("llama"), workshop.adapter(LLAMA)
    merged(base, adapter, tmp_path / "out", Options(dtype=dtype))
    found = held(base, adapter, tmp_path / "out")
    assert (named(found), found.dtype) == (set(), dtype)
    assert found.equal >= 0.999


def test_two_adapters_with_weights_are_one_sum(workshop: Workshop, tmp_path: Path) -> None:
    base = workshop.base("llama", torch.bfloat16)
    adapters = [
        (workshop.adapter(LLAMA), 0.5),
        (workshop.adapter(Case("llama", "q", {"target_modules": ["q_proj"]})), 2.0),
    ]
    merged(base, adapters, tmp_path / "out")
    assert named(held(base, adapters, tmp_path / "out")) == set()
    one_left_out = held(base, adapters[:1], tmp_path / "out")
    assert named(one_left_out) == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


def test_names_without_the_models_prefix_are_the_same_tensors(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, GPT2, tmp_path / "out")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in clean.before.items()}
    assert bare.keys() != clean.before.keys()
    old = write_checkpoint(tmp_path / "old", bare, clean.base)
    found = held(old, clean.adapter, clean.merged)
    assert named(found) == set()
    assert len(found.modules) == len(clean.changed)


def test_shards_and_threads_and_tiles_do_not_matter(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    expected = held(clean.base, clean.adapter, clean.merged)
    halves = sorted(clean.after)[::2], sorted(clean.after)[1::2]
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_bytes((clean.merged / "config.json").read_bytes())
    weight_map = {}
    for number, names in enumerate(halves, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: clean.after[name] for name in names}, sharded / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    (sharded / faults.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    monkeypatch.setattr("ingot.validate.weights.fidelity.TILE_ELEMENTS", 40)
    found = held(clean.base, clean.adapter, sharded, jobs=3)
    assert [one.tensor for one in found.modules] == [one.tensor for one in expected.modules]
    for one, other in zip(found.modules, expected.modules, strict=True):
        assert (one.equal, one.worst_ulp, one.said) == (other.equal, other.worst_ulp, other.said)
        for figure in ("delta_rms", "delta_ulps", "survival", "subspace_error"):
            assert getattr(one, figure) == pytest.approx(getattr(other, figure), rel=1e-12)


# -- figures -----------------------------------------------------------------------------------------------------------


def bfloat16_of(exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Nearest bfloat16, ties to even, of normal numbers: 8 bits of mantissa, by frexp and rint."""
    mantissa, exponent = np.frexp(exact)
    return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8)


def half_ulp_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ldexp(1.0, np.frexp(values)[1] - 9)


@pytest.mark.parametrize("case", [LLAMA, GPT2, CLEAN[4]], ids=lambda case: case.name)
def test_the_figures_are_those_of_the_formula(workshop: Workshop, tmp_path: Path, case: Case) -> None:
    base, adapter = workshop.base(case.model, torch.bfloat16), workshop.adapter(case)
    merged(base, adapter, tmp_path / "out")
    # the candidate is off by a little noise, so that every figure has something to show
    generator = torch.Generator().manual_seed(3)
    noisy = {
        name: (tensor * (1 + 0.01 * torch.randn(tensor.shape, generator=generator))).to(tensor.dtype)
        for name, tensor in on_disk(tmp_path / "out").items()
    }
    faults.rewrite(tmp_path / "out", noisy)
    before, factors = on_disk(base), adapter_tensors(adapter)
    exact = by_formula(load_base(case, base, torch.bfloat16), adapter)
    found = held(base, adapter, tmp_path / "out")
    assert exact.keys() <= {one.tensor for one in found.modules}
    for one in (of(found, name) for name in exact):
        W, V, E = (tensors[one.tensor].double().numpy() for tensors in (before, noisy, exact))
        delta, nearest = E - W, bfloat16_of(E)
        assert one.elements == W.size
        assert one.equal == (nearest == V).mean()
        bits = [torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().astype(int) for x in (nearest, V)]
        steps = [np.where(b < 0, -(b & 0x7FFF), b) for b in bits]
        assert one.worst_ulp == np.abs(steps[0] - steps[1]).max()
        assert one.delta_rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-9)
        assert one.delta_ulps == pytest.approx(np.sqrt((delta**2).sum() / (half_ulp_of(W) ** 2).sum()), rel=1e-9)
        assert one.survival == pytest.approx(((V - W) * delta).sum() / (delta**2).sum(), rel=1e-9)
        path = one.tensor.removesuffix(".weight")
        embedding = "embed_tokens" in path
        A = (
            factors[f"{PREFIX}{path}.lora_embedding_A" if embedding else f"{PREFIX}{path}.lora_A.weight"]
            .double()
            .numpy()
        )
        Q = np.linalg.qr(A.T)[0]
        turned = case is GPT2 or embedding  # stored [in, out]
        error, update = ((M.T if turned else M) for M in (V - E, delta))
        expected = np.linalg.norm(error @ Q) / np.linalg.norm(update @ Q)
        assert one.subspace_error == pytest.approx(expected, rel=1e-9)


def test_factors_in_float64_are_taken_as_they_are_stored(workshop: Workshop, tmp_path: Path) -> None:
    whole = workshop.adapter(LLAMA)
    tensors = {name: tensor.double() * (1 + 2**-30) for name, tensor in adapter_tensors(whole).items()}
    adapter = write_adapter(tmp_path / "a", tensors, json.loads((whole / "adapter_config.json").read_text()))
    base = workshop.base("llama")
    merged(base, adapter, tmp_path / "out")
    found = held(base, adapter, tmp_path / "out")
    assert named(found) == set()
    before = on_disk(base)
    for name, exact in by_formula(load_base(LLAMA, base), adapter).items():
        rms = (exact - before[name].double()).square().mean().sqrt().item()
        assert of(found, name).delta_rms == pytest.approx(rms, rel=1e-12)


def test_the_figures_over_all_tensors_weigh_them_by_their_size(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    planted = faults.delta_dropped(clean, tmp_path / "faulty", 2)
    found = held(clean.base, clean.adapter, planted.path)
    squares = [one.elements * one.delta_rms**2 for one in found.modules]
    survivals = [one.survival or 0.0 for one in found.modules]
    assert found.survival == pytest.approx(np.average(survivals, weights=squares), rel=1e-9)
    equals, sizes = [one.equal for one in found.modules], [one.elements for one in found.modules]
    assert found.equal == pytest.approx(np.average(equals, weights=sizes), rel=1e-12)
    assert found.worst_ulp == max(one.worst_ulp for one in found.modules)
    assert {one.layer for one in found.modules} == {0, 1}
    assert {one.module for one in found.modules} == {one.tensor.removesuffix(".weight") for one in found.modules}


def test_the_two_halves_of_a_fused_tensor_have_subspaces_of_their_own(workshop: Workshop, tmp_path: Path) -> None:
    case = CLEAN[7]  # gate and up of each expert share one A in memory, and stand in two tensors on disk
    clean = clean_merge(workshop, case, tmp_path / "out", torch.bfloat16)
    found = held(clean.base, clean.adapter, clean.merged)
    experts = [one for one in found.modules if ".experts." in one.tensor]
    assert len(experts) == 2 * 3 * 2  # layers, experts, gate and up
    assert all(one.subspace_error is not None and 0 < one.subspace_error < 0.05 for one in experts)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", faults.IN_WEIGHTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("case", [LLAMA, GPT2, CLEAN[5], CLEAN[7]], ids=lambda case: case.name)
def test_a_planted_fault_is_named_and_nothing_else(
    workshop: Workshop, tmp_path: Path, case: Case, plant: faults.Plant
) -> None:
    if case is CLEAN[5] and plant is faults.quantized:
        pytest.skip("this adapter changes no layer")
    clean = clean_merge(workshop, case, tmp_path / "out", torch.bfloat16)
    for seed in (0, 1, 5):
        planted = plant(clean, tmp_path / f"faulty{seed}", seed)
        found = held(clean.base, clean.adapter, planted.path)
        assert named(found) == {*planted.where}, seed


def test_what_is_said_names_the_mistake(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    for number, (plant, seed, expected) in enumerate(
        [
            (faults.delta_dropped, 0, "the update is not there (survival 0.00)"),
            (faults.merged_twice, 0, "the update was added twice"),
            (faults.scale_off, 0, "scaled by 1/√r, r = 4"),
            (faults.scale_off, 1, "scaled by √r, r = 4"),
        ]
    ):
        planted = plant(clean, tmp_path / str(number), seed)
        (said,) = [one.said for one in held(clean.base, clean.adapter, planted.path).modules if one.said]
        assert expected in said


def test_single_elements_are_counted_and_the_rest_is_fine(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    name = "model.layers.1.mlp.up_proj.weight"
    wrong = clean.after[name].clone()
    wrong.view(torch.int16)[3, 5] += 7
    faults.rewrite(clean.merged, {name: wrong})
    found = held(clean.base, clean.adapter, clean.merged)
    assert of(found, name).said == f"1 of {wrong.numel()} elements is off, by up to 7 ulp"
    wrong[2, 2] = torch.nan
    faults.rewrite(clean.merged, {name: wrong})
    found = held(clean.base, clean.adapter, clean.merged)
    assert of(found, name).said == f"1 of {wrong.numel()} elements is not finite"
    assert of(found, name).survival == pytest.approx(1, abs=0.01)


def test_an_update_that_rounding_took_is_told_from_one_that_is_not_there(workshop: Workshop, tmp_path: Path) -> None:
    base = workshop.base("llama", torch.bfloat16)
    adapter = workshop.adapter(LLAMA)
    tensors = {k: t * (0.003 if "lora_B" in k else 1) for k, t in adapter_tensors(adapter).items()}
    small = write_adapter(tmp_path / "small", tensors, json.loads((adapter / "adapter_config.json").read_text()))
    merged(base, small, tmp_path / "out")
    found = held(base, small, tmp_path / "out")
    lost = [one for one in found.modules if one.said]
    assert all(one.lost for one in lost)
    assert len(lost) > 5
    for one in lost:
        assert one.delta_ulps < 1
        assert (one.survival or 0) < 0.9
        assert "of the update was lost to rounding: merge with --rounding preserve" in one.said
    nothing_done = held(base, small, base)
    absent = [one for one in nothing_done.modules if one.said == "the update is not there (survival 0.00)"]
    assert absent
    assert not any(one.lost for one in absent)


@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_rounding_up_or_down_by_chance_is_not_a_fault(workshop: Workshop, tmp_path: Path, scale: float) -> None:
    base, whole = workshop.base("llama", torch.bfloat16), workshop.adapter(LLAMA)
    tensors = {k: t * (scale if "lora_B" in k else 1) for k, t in adapter_tensors(whole).items()}
    adapter = write_adapter(tmp_path / "a", tensors, json.loads((whole / "adapter_config.json").read_text()))
    merged(base, adapter, tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    stochastic = {}
    for name, exact in by_formula(load_base(LLAMA, base, torch.bfloat16), adapter).items():
        near = torch.from_numpy(bfloat16_of(exact.numpy()))
        ulp = torch.from_numpy(2 * half_ulp_of(exact.numpy()))
        low = torch.where(near > exact, near - ulp, near)
        up = torch.rand(exact.shape, generator=generator, dtype=torch.float64) < (exact - low) / ulp
        stochastic[name] = torch.where(up, low + ulp, low).to(torch.bfloat16)
    faults.rewrite(tmp_path / "out", stochastic)
    found = held(base, adapter, tmp_path / "out")
    assert named(found) == set()
    assert (found.worst_ulp, found.equal < 0.9) == (1, True)
    assert found.survival == pytest.approx(1, abs=0.05)


# -- ties, missing and extra tensors -----------------------------------------------------------------------------------


def write_checkpoint(target: Path, tensors: dict[str, torch.Tensor], like: Path, **config: object) -> Path:
    target.mkdir()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    settings = {**json.loads((like / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps(settings))
    return target


def test_a_tied_head_may_be_there_twice_or_once(workshop: Workshop, tmp_path: Path) -> None:
    case = Case("llama_tied", "q", {"target_modules": ["q_proj"]})
    clean = clean_merge(workshop, case, tmp_path / "out", torch.bfloat16)
    embedding = clean.after["model.embed_tokens.weight"]
    both = {**clean.after, faults.HEAD: embedding.clone()}
    twice = write_checkpoint(tmp_path / "twice", both, clean.merged)
    parted = write_checkpoint(tmp_path / "parted", both, clean.merged, tie_word_embeddings=False)
    for candidate in (twice, parted):
        assert named(held(clean.base, clean.adapter, candidate)) == set()
    before = clean.before | {faults.HEAD: clean.before["model.embed_tokens.weight"].clone()}
    base = write_checkpoint(tmp_path / "base", before, clean.base)
    assert named(held(base, clean.adapter, clean.merged)) == set()  # the base has both, the candidate one


def test_an_update_of_the_embedding_is_also_asked_of_the_head_that_is_tied_to_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    clean = clean_merge(workshop, CLEAN[5], tmp_path / "out", torch.bfloat16)  # the adapter unties the head
    assert faults.HEAD in clean.after
    tied = write_checkpoint(
        tmp_path / "tied",
        {name: tensor for name, tensor in clean.after.items() if name != faults.HEAD},
        clean.merged,
        tie_word_embeddings=True,
    )
    found = held(clean.base, clean.adapter, tied)
    assert of(found, faults.HEAD).said == "the update is not there (survival 0.00)"
    assert found.missing == ()


def test_missing_and_extra_tensors_and_other_shapes_are_listed(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    norm, up = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"
    faults.rewrite(clean.merged, {norm: None, up: clean.after[up][:-1].clone(), "surplus": torch.zeros(3)})
    found = held(clean.base, clean.adapter, clean.merged)
    assert found.missing == (f"{up} (its shape is [23, 16], not [24, 16])", norm)
    assert found.extra == ("surplus",)


def test_an_untouched_tensor_that_differs_in_one_bit_is_named(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out", torch.bfloat16)
    wrong = clean.after["model.norm.weight"].clone()
    wrong.view(torch.int16)[-1] ^= 1
    faults.rewrite(clean.merged, {"model.norm.weight": wrong})
    assert held(clean.base, clean.adapter, clean.merged).untouched_differ == ("model.norm.weight",)


# -- the run -----------------------------------------------------------------------------------------------------------


def test_progress_adds_up_to_the_candidates_bytes(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out")
    told: list[int] = []
    held(clean.base, clean.adapter, clean.merged, progress=told.append, jobs=2)
    assert sum(told) == sum(file.stat().st_size for file in clean.merged.glob("*.safetensors"))
    assert len(told) > len(clean.after) / 2


def test_a_stop_ends_it_and_torchs_threads_are_as_before(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out")
    stop, threads = threading.Event(), torch.get_num_threads()
    with pytest.raises(Interrupted):
        held(clean.base, clean.adapter, clean.merged, jobs=2, stop=stop, progress=lambda _: stop.set())
    assert torch.get_num_threads() == threads


def test_a_quantized_candidate_is_left_out_with_its_reason(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out")
    candidate = write_checkpoint(
        tmp_path / "q", clean.after, clean.merged, quantization_config={"quant_method": "gptq"}
    )
    with pytest.raises(Unsupported, match="gptq"):
        held(clean.base, clean.adapter, candidate)
    name = "model.layers.0.mlp.up_proj.weight"
    packed = {**clean.after, name: clean.after[name].to(torch.float8_e4m3fn)}
    with pytest.raises(Unsupported, match=f"{name} as F8_E4M3"):
        held(clean.base, clean.adapter, write_checkpoint(tmp_path / "f8", packed, clean.merged))


def test_the_result_is_plain_data(workshop: Workshop, tmp_path: Path) -> None:
    clean = clean_merge(workshop, LLAMA, tmp_path / "out")
    found = held(clean.base, clean.adapter, clean.merged)
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))["worst_ulp"] == found.worst_ulp
