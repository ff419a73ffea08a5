"""Merges onto quantized bases: the plan, the bytes, the record, and what a loader makes of the output."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("bitsandbytes")
pytest.importorskip("compressed_tensors")

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import Location
from ingot.cli import main
from ingot.errors import BaseError, Interrupted
from ingot.inspect import inspect_path
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.plan.render import as_json, as_lines
from ingot.record import Depth, verify
from ingot.storage.digest_memory import DigestMemory
from ingot.validate.weights.compare import compare
from tests.checkpoint.quantized import llama

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {"all": llama.adapter(root / "all", ALL), "some": llama.adapter(root / "some", ["q_proj", "v_proj"])}


def merge(base: Path, adapter: Path, out: Path, **options: object) -> None:
    with prepare(str(base), [(str(adapter), 1.0)], Options(**options), target=out, jobs=2) as job:  # type: ignore[arg-type]
        job.run(memory=DigestMemory(out.parent / "memory"))


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("form", llama.FORMATS)
def test_a_merge_is_what_peft_merges_into_the_weights_that_the_library_dequantized(
    tmp_path: Path, form: str, adapters: dict[str, Path]
) -> None:
    dense = llama.write(tmp_path / "base", form)
    merge(tmp_path / "base", adapters["all"], tmp_path / "out", dtype="F32")
    found, expected = tensors_of(tmp_path / "out"), llama.by_peft(dense, adapters["all"])
    assert found.keys() == dense.keys()
    for name, tensor in found.items():
        assert tensor.dtype is torch.float32
        error = (tensor - expected[name]).abs().max() / expected[name].abs().max()
        assert error <= 1e-6, f"{name} is {error:.1e} off"


@pytest.mark.parametrize("form", ["nf4 nested", "gptq", "fp8"])
def test_weights_that_no_adapter_changes_are_decoded_too_and_dense_ones_keep_their_bytes(
    tmp_path: Path, form: str, adapters: dict[str, Path]
) -> None:
    dense = llama.write(tmp_path / "base", form, shards=3)
    merge(tmp_path / "base", adapters["some"], tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    for name, tensor in found.items():
        assert tensor.dtype is torch.bfloat16
        changed = "q_proj" in name or "v_proj" in name
        assert torch.equal(tensor, dense[name]) is not changed, name


def test_the_output_is_a_standard_dense_checkpoint(tmp_path: Path, adapters: dict[str, Path]) -> None:
    import transformers

    dense = llama.write(tmp_path / "base", "nf4 nested", shards=3)
    (tmp_path / "base" / "hf_quant_config.json").write_text("{}")
    merge(tmp_path / "base", adapters["all"], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == dense.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in dense.values())
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.dtype is torch.bfloat16


def test_a_merge_is_checked_and_computed_again_from_the_quantized_base(
    tmp_path: Path, adapters: dict[str, Path]
) -> None:
    llama.write(tmp_path / "base", "gptq", shards=2)
    merge(tmp_path / "base", adapters["all"], tmp_path / "out")
    for depth in Depth:
        found = verify(tmp_path / "out", depth=depth, base=str(tmp_path / "base"), adapters=[str(adapters["all"])])
        assert found.ok, found
    record = json.loads((tmp_path / "out" / "ingot.json").read_text())
    assert record["predicate"]["runDetails"]["ingot_checks"]["base_decoded"] == {"GPTQ 4-bit, g_idx": 14}


def test_an_interrupted_merge_is_taken_up_again(tmp_path: Path, adapters: dict[str, Path]) -> None:
    llama.write(tmp_path / "base", "nf4 nested", shards=4)
    merge(tmp_path / "base", adapters["all"], tmp_path / "whole")
    stop = threading.Event()
    memory = DigestMemory(tmp_path / "memory")
    with prepare(str(tmp_path / "base"), [(str(adapters["all"]), 1.0)], target=tmp_path / "out", jobs=1) as job:
        sizes = [shard.nbytes for shard in job.plan.shards]
        written: list[int] = []

        def count(nbytes: int) -> None:
            written.append(nbytes)
            if sum(written) >= sum(sizes[:3]):
                stop.set()

        with pytest.raises(Interrupted):
            job.run(stop=stop, progress=count, memory=memory)
    with prepare(str(tmp_path / "base"), [(str(adapters["all"]), 1.0)], target=tmp_path / "out", jobs=1) as job:
        outcome = job.run(memory=memory)
    assert outcome.resumed
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize("form", ["nf4 nested", "gptq", "compressed nvfp4"])
def test_the_weights_of_a_merge_are_measured_against_the_decoded_base(
    tmp_path: Path, form: str, adapters: dict[str, Path]
) -> None:
    llama.write(tmp_path / "base", form)
    merge(tmp_path / "base", adapters["some"], tmp_path / "out")
    candidate = Checkpoint.open(Location(tmp_path / "out", "out"))
    with prepare(str(tmp_path / "base"), [(str(adapters["some"]), 1.0)]) as job:
        found = compare(job, candidate)
    candidate.close()
    assert len(found.modules) == 4
    assert found.worst_ulp <= 1
    assert found.equal > 0.999
    assert found.untouched
    assert (found.untouched_differ, found.missing, found.extra) == ((), (), ())


def test_the_plan_says_what_is_decoded_and_what_is_dropped(tmp_path: Path, adapters: dict[str, Path]) -> None:
    llama.write(tmp_path / "base", "nf4 nested")
    with prepare(str(tmp_path / "base"), [(str(adapters["some"]), 1.0)]) as job:
        text, data = "\n".join(as_lines(job.plan, 100)), as_json(job.plan)
    assert "Decoded to BF16: bitsandbytes nf4, nested absmax" in text
    assert "W decoded from bitsandbytes nf4, nested absmax" in text
    assert "70 tensors such as model.layers.0" in text
    assert "quantization_config is taken out" in text
    assert "not known here: the 16-bit original would tell" in text.replace("\n" + " " * 11, " ")
    tensors = data["tensors"]
    assert isinstance(tensors, dict)
    assert tensors["decoded"]["count"] == 10
    assert tensors["changed"]["count"] == 4


def test_inspect_says_what_a_merge_would_decode(tmp_path: Path) -> None:
    dense = llama.write(tmp_path / "base", "nf4 nested")
    report = inspect_path(tmp_path / "base")
    assert report.facts["decoded"] == {"bitsandbytes nf4, nested absmax": 14}
    assert report.facts["parameters"] == sum(tensor.numel() for tensor in dense.values())
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    report = inspect_path(tmp_path / "base")
    assert report.facts["decoded"] is None
    assert "hqq" in "\n".join(report.as_lines(100))


# -- what is wrong ---------------------------------------------------------------------------------------------------


def with_config(base: Path, said: object) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": said}))


@pytest.mark.parametrize("said", [{"quant_method": "hqq"}, {}, {"bits": 4}, "nf4"])
def test_an_unknown_method_is_refused_before_anything_is_written(
    tmp_path: Path, said: object, adapters: dict[str, Path]
) -> None:
    llama.write(tmp_path / "base", "nf4")
    with_config(tmp_path / "base", said)
    with pytest.raises(BaseError) as error:
        prepare(str(tmp_path / "base"), [(str(adapters["all"]), 1.0)], target=tmp_path / "out")
    assert error.value.exit_code == 10
    assert not (tmp_path / "out").exists()


def test_a_config_that_says_quantized_of_dense_weights_is_a_contradiction(
    tmp_path: Path, adapters: dict[str, Path]
) -> None:
    llama.model().save_pretrained(tmp_path / "base")
    with_config(tmp_path / "base", {"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(BaseError, match="none of its tensors is"):
        prepare(str(tmp_path / "base"), [(str(adapters["all"]), 1.0)])


def test_a_broken_scale_ends_the_run_with_the_exit_code_of_the_base_and_no_output(
    tmp_path: Path, adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    llama.write(tmp_path / "base", "fp8")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    stored["model.layers.1.mlp.up_proj.weight_scale_inv"][0, 0] = float("nan")
    save_file(stored, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    assert main(["merge", str(tmp_path / "base"), str(adapters["some"]), "-o", str(tmp_path / "out")]) == 10
    assert "up_proj.weight_scale_inv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
