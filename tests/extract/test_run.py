"""Extracted, merged back, loaded by PEFT: every kind of layer and model, and what is not low-rank."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.adapters.adapter import Adapter
from ingot.errors import (
    BaseError,
    Interrupted,
    MismatchError,
    NonFiniteError,
    OutputError,
    ResourceError,
    UsageError,
)
from ingot.extract.model import Budget, Request
from ingot.extract.result import Extraction
from ingot.extract.run import extract
from ingot.storage import PosixDisk, Staging
from ingot.storage.disk import OutputFile
from tests import toy
from tests.extract.judge import (
    add_low_rank,
    by_peft,
    check,
    config,
    extracted,
    layers,
    load,
    low_rank,
    make,
    save,
    shake,
    stored,
)
from tests.oracle.reference import assert_close, merged, on_disk, unheard
from tests.tiny_models import MODELS

Pair = tuple[Path, Path]


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "gemma", "gemma3_text", "phi3", "qwen2_vl", "t5"])
def test_a_merged_lora_comes_out_again_and_merges_back(name: str, tmp_path: Path) -> None:
    base, tuned = make(tmp_path, name, add_low_rank)
    found = extracted(base, tuned)
    assert all(fit.rank == 4 for fit in found.fits)
    assert all(fit.energy > 1 - 1e-12 for fit in found.fits)
    assert max(fit.left / fit.total for fit in found.fits) ** 0.5 < 1e-6
    check(base, tuned, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_comes_out_again_where_everything_was_trained(name: str, tmp_path: Path) -> None:
    base, tuned = make(tmp_path, name, lambda model: shake(*model.parameters()))
    check(base, tuned, extracted(base, tuned, rank=64))


@pytest.mark.parametrize("name", ["llama_bias", "gpt2", "t5", "vit"])
def test_whatever_is_not_low_rank_is_saved_whole(name: str, tmp_path: Path) -> None:
    base, tuned = make(tmp_path, name, lambda model: shake(*model.parameters()))
    found = extracted(base, tuned, rank=64)
    assert {one.reason for one in found.whole} > {"of a kind that has no factors"}
    check(base, tuned, found)


def test_norms_go_to_modules_to_save_under_the_shortest_exact_names(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        add_low_rank(model, "q_proj", "v_proj")
        shake(*(weight for name, weight in model.named_parameters() if "layernorm" in name))

    base, tuned = make(tmp_path, "llama", change)
    found = extracted(base, tuned)
    assert config(found)["modules_to_save"] == ["input_layernorm", "post_attention_layernorm"]
    assert config(found)["target_modules"] == ["q_proj", "v_proj"]
    check(base, tuned, found)


@pytest.mark.parametrize(("changed", "setting"), [("q_proj", "lora_only"), ("o_proj", "all"), ("mlp.up_proj", "all")])
def test_biases_are_saved_by_the_narrowest_setting_of_peft(changed: str, setting: str, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        add_low_rank(model, "q_proj", "v_proj")
        shake(*(layer.bias for _, layer in layers(model, changed)))

    base, tuned = make(tmp_path, "llama_bias", change)
    found = extracted(base, tuned)
    assert config(found)["bias"] == setting
    assert config(found)["modules_to_save"] is None
    check(base, tuned, found)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_an_adapter_of_biases_alone_has_no_layers(name: str, tmp_path: Path) -> None:
    base, tuned = make(
        tmp_path, name, lambda model: shake(*(layer.bias for _, layer in layers(model, "q_proj", "c_fc")))
    )
    found = extracted(base, tuned)
    assert not found.fits
    assert config(found)["bias"] == "all"
    check(base, tuned, found)


def test_a_tied_embedding_is_saved_with_its_head_and_stays_tied(tmp_path: Path) -> None:
    base, tuned = make(tmp_path, "gemma", lambda model: shake(model.model.embed_tokens.weight))
    found = extracted(base, tuned)
    assert config(found)["modules_to_save"] == ["embed_tokens", "lm_head"]
    check(base, tuned, found)


def test_a_head_that_was_untied_is_saved_alone(tmp_path: Path) -> None:
    base, _ = make(tmp_path, "llama_tied", lambda _: None)
    model = load(base)
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        shake(model.lm_head.weight)
    tuned = save(model, tmp_path / "untied")
    found = extracted(base, tuned)
    assert config(found)["modules_to_save"] == ["lm_head"]
    ours = tmp_path / "merged"
    merged(base, found.target, ours)
    assert_close(on_disk(ours), on_disk(tuned), 1e-6)


def test_embedding_and_head_that_are_not_tied_get_factors(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight.add_(low_rank(weight.shape, 4, generator))

    base, tuned = make(tmp_path, "llama", change)
    found = extracted(base, tuned)
    assert config(found)["target_modules"] == ["embed_tokens", "lm_head"]
    assert {name for name in stored(found) if "embedding" in name}
    check(base, tuned, found)


def test_a_resized_vocabulary_is_saved_whole_with_the_tokenizer(tmp_path: Path) -> None:
    base, _ = make(tmp_path, "llama", lambda _: None)
    model = load(base)
    with unheard():
        model.resize_token_embeddings(71, mean_resizing=False)
    with torch.no_grad():
        add_low_rank(model)
    tuned = save(model, tmp_path / "larger")
    (base / "tokenizer.json").write_text('{"of": "the base"}')
    (tuned / "tokenizer.json").write_text('{"of": "the tuned model"}')
    found = extracted(base, tuned)
    assert config(found)["modules_to_save"] == ["embed_tokens", "lm_head"]
    assert (found.target / "tokenizer.json").read_text() == '{"of": "the tuned model"}'
    assert any("resize_token_embeddings(71)" in note for note in found.notes)
    check(base, tuned, found, prepare=lambda base: base.resize_token_embeddings(71, mean_resizing=False))
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == '{"of": "the tuned model"}'


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text"])
def test_stacks_of_experts_get_factors_of_bare_parameters(name: str, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        add_low_rank(model)
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            if weight.ndim == 3:
                weight.add_(low_rank(weight.shape, 2, generator))

    base, tuned = make(tmp_path, name, change)
    found = extracted(base, tuned)
    assert config(found)["target_parameters"] == ["down_proj", "gate_up_proj"]
    assert any(name.endswith("experts.base_layer.lora_A.weight") for name in stored(found))
    check(base, tuned, found)


def test_a_convolution_gets_a_kernel_for_a(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        weight = model.vit.embeddings.patch_embeddings.projection.weight
        weight.add_(low_rank(weight.shape, 4, torch.Generator().manual_seed(1)))

    base, tuned = make(tmp_path, "vit", change)
    found = extracted(base, tuned)
    (a,) = (tensor for name, tensor in stored(found).items() if name.endswith("lora_A.weight"))
    assert a.shape == (4, 3, 4, 4)
    check(base, tuned, found)


def test_a_named_module_is_saved_whole_only_where_it_differs(llama: Pair, tmp_path: Path) -> None:
    found = _beside(llama, tmp_path, save=("layers.0.mlp", "lm_head"))
    assert {one.path for one in found.whole} == {f"model.layers.0.mlp.{name}_proj" for name in ("up", "gate", "down")}
    assert {one.reason for one in found.whole} == {"named by --save-module"}
    assert set(config(found)["target_modules"]) >= {"q_proj", "model.layers.1.mlp.up_proj"}
    check(llama[0], llama[1], found)


def test_the_smallest_rank_that_holds_the_energy_is_taken_for_each_module(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        add_low_rank(model, "q_proj", rank=2)
        add_low_rank(model, "down_proj", rank=5)

    base, tuned = make(tmp_path, "llama", change)
    found = extracted(base, tuned, rank=None, energy=1 - 1e-9)
    ranks = {fit.name.rpartition(".")[2]: fit.rank for fit in found.fits}
    assert ranks == {"q_proj": 2, "down_proj": 5}
    assert len(config(found)["rank_pattern"]) == 2
    assert config(found)["rank_pattern"] == config(found)["alpha_pattern"]
    check(base, tuned, found)


def test_a_rank_above_the_largest_is_said_and_not_exceeded(tmp_path: Path) -> None:
    base, tuned = make(tmp_path, "llama", add_low_rank)
    found = extracted(base, tuned, rank=None, energy=1.0, max_rank=2)
    assert {fit.rank for fit in found.fits} == {2}
    (said,) = found.warnings
    assert said.startswith("14 of 14 modules hold less than the 1 that was asked for, at the largest rank of 2")
    assert "Raise --max-rank, or --save-module" in said


def test_rounding_of_the_tuned_model_is_what_no_rank_holds(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        add_low_rank(model, rank=1)

    base, tuned = make(tmp_path, "llama", change, torch.bfloat16)
    found = extracted(base, tuned, rank=1)
    lost = sum(fit.total - fit.held for fit in found.fits)
    expected = sum(fit.rounding * _share_outside(load(base), fit.name) for fit in found.fits)
    assert 0.7 < lost / expected < 1.1


def test_experts_share_a_rank_that_holds_the_energy_of_all_of_them(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        weight = model.model.layers[0].mlp.experts.down_proj
        for expert, rank in enumerate((1, 3, 2)):
            weight[expert].add_(low_rank(weight[expert].shape, rank, generator))

    base, tuned = make(tmp_path, "mixtral", change)
    found = extracted(base, tuned, rank=None, energy=1 - 1e-9)
    assert [(fit.name, fit.rank) for fit in found.fits] == [("model.layers.0.mlp.experts.down_proj", 3)]
    check(base, tuned, found)


def test_checkpoints_of_two_layouts_are_compared_in_the_models_names(tmp_path: Path) -> None:
    base, tuned = make(tmp_path, "mixtral", add_low_rank)
    with unheard():
        load(tuned).save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert on_disk(tmp_path / "stacked").keys() != on_disk(base).keys()
    found = extracted(base, tmp_path / "stacked")
    assert {fit.name.rpartition(".")[2] for fit in found.fits} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    check(base, tuned, found)


def test_a_base_in_another_dtype_than_the_tuned_model_is_compared_by_value(tmp_path: Path) -> None:
    base, _ = make(tmp_path, "llama", lambda _: None, torch.bfloat16)
    model = load(base)
    with torch.no_grad():
        add_low_rank(model)
    tuned = save(model, tmp_path / "wide")
    found = extracted(base, tuned)
    assert found.equal == found.parameters - len(found.fits)
    target = tmp_path / "merged"
    from ingot.merge import prepare
    from ingot.plan.model import Options

    with prepare(str(base), [(str(found.target), 1.0)], Options(dtype="F32"), target=target) as job:
        job.run()
    assert_close(on_disk(target), on_disk(tuned), 1e-5)


def test_shards_and_a_model_that_transformers_does_not_know(tmp_path: Path) -> None:
    tensors = toy.make_base(tmp_path / "base", torch.float32)
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    generator = torch.Generator().manual_seed(3)
    for path in sorted((tmp_path / "tuned").glob("*.safetensors")):
        part = load_file(path)
        for name, tensor in part.items():
            if tensor.ndim == 2 and tensor.numel():
                part[name] = tensor + low_rank(tensor.shape, 4, generator)
        save_file(part, path, {"format": "pt"})
    found = extracted(tmp_path / "base", tmp_path / "tuned")
    assert {fit.name for fit in found.fits} == set(toy.MODULES)
    merged(tmp_path / "base", found.target, tmp_path / "merged")
    assert_close(on_disk(tmp_path / "merged"), on_disk(tmp_path / "tuned"), 1e-5)
    assert on_disk(tmp_path / "merged").keys() == tensors.keys()


# -- what is refused -------------------------------------------------------------------------------------------------


def test_the_same_weights_twice_leave_nothing_to_extract(llama: Pair, tmp_path: Path) -> None:
    shutil.copytree(llama[0], tmp_path / "copy")
    for tuned, word in ((llama[0], "one directory"), (tmp_path / "copy", "the same weights")):
        with pytest.raises(MismatchError, match=word):
            _extract(llama[0], tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_kind_is_named(llama: Pair, tmp_path: Path) -> None:
    other = save(MODELS["qwen2"](), tmp_path / "qwen2")
    with pytest.raises(MismatchError, match="two kinds"):
        _extract(llama[0], other, tmp_path / "out")


def test_a_missing_parameter_and_another_shape_are_named(llama: Pair, tmp_path: Path) -> None:
    norm = "model.layers.1.input_layernorm.weight"
    for change, word in (
        (lambda tensors: tensors.pop(norm), "BASE has parameters that TUNED lacks.*layers.1.input_layernorm"),
        (lambda tensors: tensors.update({norm: torch.ones(15)}), r"expected \[16\], found \[15\]"),
    ):
        tuned = _copy(llama[1], tmp_path / "changed", change)
        with pytest.raises(MismatchError, match=word):
            _extract(llama[0], tuned, tmp_path / "out")
        shutil.rmtree(tuned)


@pytest.mark.parametrize("role", ["BASE", "TUNED"])
def test_a_value_that_is_not_finite_is_named(role: str, llama: Pair, tmp_path: Path) -> None:
    spoilt = _copy(llama[role == "TUNED"], tmp_path / "spoilt", _spoil)
    base, tuned = (spoilt, llama[1]) if role == "BASE" else (llama[0], spoilt)
    with pytest.raises(NonFiniteError, match=f"{role} holds a value that is not finite.*model.norm.weight.*element 3"):
        _extract(base, tuned, tmp_path / "out")


def test_an_adapter_in_the_place_of_the_tuned_model_is_recognised(llama: Pair, tmp_path: Path) -> None:
    found = _beside(llama, tmp_path)
    with pytest.raises(BaseError, match="TUNED is an adapter already"):
        _extract(llama[0], found.target, tmp_path / "out")


def test_an_unknown_module_has_near_matches(llama: Pair, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no module is called qproj") as caught:
        _extract(llama[0], llama[1], tmp_path / "out", save=("qproj",))
    assert "q_proj" in str(caught.value.hint)


def test_a_target_that_exists_is_refused_before_anything_is_read(llama: Pair, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError, match="exists"):
        extract(Request("nowhere", "nowhere either", tmp_path / "out", Budget()))


def test_a_model_with_other_settings_is_said_to_need_them(llama: Pair, tmp_path: Path) -> None:
    tuned = shutil.copytree(llama[1], tmp_path / "tuned")
    text = (tuned / "config.json").read_text()
    (tuned / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    found = extracted(llama[0], tuned)
    assert [text for text in found.warnings if "rms_norm_eps" in text]


# -- whole or absent -------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_leaves_nothing_at_the_target(llama: Pair, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        _extract(llama[0], llama[1], tmp_path / "out", stop=stop)
    assert not (tmp_path / "out").exists()


def test_a_run_that_failed_is_swept_away_by_the_next(llama: Pair, tmp_path: Path) -> None:
    with pytest.raises(ResourceError):
        _extract(llama[0], llama[1], tmp_path / "out", disk=_FullDisk())
    assert not (tmp_path / "out").exists()
    _extract(llama[0], llama[1], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_merge_of_the_same_name_is_left_to_be_resumed(llama: Pair, tmp_path: Path) -> None:
    with Staging.open(PosixDisk(), tmp_path / "out", {"plan": "of a merge"}) as staging:
        staging.write("config.json", b"{}")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="an interrupted run of another kind"):
        _extract(llama[0], llama[1], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_same_extraction_twice_has_the_same_bytes_and_identity(llama: Pair, tmp_path: Path) -> None:
    one, other = (_extract(llama[0], llama[1], tmp_path / name) for name in ("one", "other"))
    assert one.identity == other.identity
    for name in set(one.files) - {"ingot.json"}:
        assert (one.target / name).read_bytes() == (other.target / name).read_bytes()


def test_ingot_reads_the_adapter_as_one_that_can_be_merged(llama: Pair, tmp_path: Path) -> None:
    found = _beside(llama, tmp_path)
    with Adapter.open(found.target, adapter_index=0) as adapter:
        assert adapter.ranks == (4,)
        assert not adapter.explained


def test_the_adapter_in_half_precision_is_measured_as_it_is_stored(llama: Pair, tmp_path: Path) -> None:
    found = _extract(llama[0], llama[1], tmp_path / "half", dtype="BF16")
    assert {tensor.dtype for tensor in stored(found).values()} == {torch.bfloat16}
    assert all(fit.energy > 1 - 1e-9 for fit in found.fits)
    assert all(1e-3 < (fit.left / fit.total) ** 0.5 < 1e-2 for fit in found.fits)
    by_peft(llama[0], found)


def _share_outside(model: Any, path: str) -> float:
    """Of white noise on a layer's weight, what a product of rank 1 that points elsewhere leaves."""
    rows, columns = model.get_submodule(path).weight.shape
    return float(1 - (rows + columns - 1) / (rows * columns))


class _FullDisk(PosixDisk):
    """Has no room for weights."""

    def create(self, path: Path, *, nbytes: int, direct: bool) -> OutputFile:
        if nbytes > 10_000:
            raise ResourceError("the disk is full", where=path)
        return super().create(path, nbytes=nbytes, direct=direct)


def _beside(pair: Pair, root: Path, **settings: Any) -> Extraction:
    return _extract(pair[0], pair[1], root / "adapter", **settings)


def _extract(base: Path, tuned: Path, target: Path, **settings: Any) -> Extraction:
    runs = {key: settings.pop(key) for key in ("stop", "disk") if key in settings}
    return extract(Request(str(base), str(tuned), target, Budget.of(4, None, None), **settings), **runs)


def _copy(source: Path, target: Path, change: Any) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def _spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = torch.nan
