"""The pump on a checkpoint whose offsets are awkward: same bytes however it is cut, and nothing half-done."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.engine import chunk as chunk_module
from ingot.engine.outcome import Outcome
from ingot.errors import InputChangedError, Interrupted, NonFiniteError, OutputError, ResourceError
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.staged_file import StagedFile
from ingot.storage.staging import Staging
from tests import toy


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter", tmp_path / "out"


def merge(
    base: Path, adapter: Path, out: Path, *, jobs: int = 2, options: Options | None = None, **how: object
) -> Outcome:
    with prepare(str(base), [(str(adapter), 1.0)], options, target=out, jobs=jobs) as job:
        return job.run(memory=DigestMemory(out.parent / "memory"), **how)  # type: ignore[arg-type]


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()
    }


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "ingot.json"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_changed_tensors_are_the_float64_result_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    base = toy.make_base(tmp_path / "base", dtype)
    adapter = toy.make_adapter(tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    exact, found = toy.merged(base, adapter), weights_of(tmp_path / "out")
    assert found.keys() == base.keys()
    for path in toy.MODULES:
        name = f"{path}.weight"
        assert not torch.equal(found[name], base[name])
        if dtype is torch.float32:
            torch.testing.assert_close(found[name].double(), exact[name], rtol=1e-6, atol=1e-8)
        else:
            assert (found[name] == exact[name].to(dtype)).float().mean() >= 0.999


def test_untouched_tensors_and_headers_keep_their_bytes(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    merge(base, adapter, out)
    before, after = weights_of(base), weights_of(out)
    for name in before.keys() - {f"{path}.weight" for path in toy.MODULES}:
        assert before[name].dtype == after[name].dtype
        assert (
            before[name].numpy(force=True).tobytes() == after[name].numpy(force=True).tobytes()
            if (before[name].dtype is not torch.bfloat16)
            else torch.equal(before[name], after[name])
        )
    for path in base.glob("*.safetensors"):
        length = int.from_bytes(path.read_bytes()[:8], "little") + 8
        assert path.read_bytes()[:length] == (out / path.name).read_bytes()[:length]
    assert json.loads((out / "model.safetensors.index.json").read_text()) == json.loads(
        (base / "model.safetensors.index.json").read_text()
    )


@pytest.mark.parametrize("chunk_nbytes", [4096, 3 * 4096, 1 << 20])
@pytest.mark.parametrize("tile_elements", [64, 1000, 1 << 18])
def test_chunks_and_workers_change_no_bit(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, chunk_nbytes: int, tile_elements: int
) -> None:
    base, adapter, out = places
    monkeypatch.setattr("ingot.kernels.grid.TILE_ELEMENTS", tile_elements)
    merge(base, adapter, out, jobs=1)
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", chunk_nbytes)
    merge(base, adapter, out.with_name("again"), jobs=5)
    assert bytes_of(out) == bytes_of(out.with_name("again"))


def test_the_digests_are_those_of_the_files(places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter, out = places
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", 4096)
    outcome = merge(base, adapter, out, jobs=3)
    for digest in outcome.files:
        data = (out / digest.name).read_bytes()
        assert (digest.nbytes, digest.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    for digest in outcome.base_files:
        assert digest.sha256 == hashlib.sha256((base / digest.name).read_bytes()).hexdigest()
    for digest in outcome.adapter_files[0]:
        assert digest.sha256 == hashlib.sha256((adapter / digest.name).read_bytes()).hexdigest()
    for shard in outcome.plan.shards:
        data = (out / shard.file).read_bytes()
        ends = [ref.end for ref in shard.header.tensors]
        assert outcome.running[shard.file] == tuple(hashlib.sha256(data[:end]).hexdigest() for end in ends)


def test_another_dtype_casts_every_float_and_no_integer(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    merge(base, adapter, out, options=Options(dtype="F32"))
    before, after = weights_of(base), weights_of(out)
    assert {t.dtype for t in after.values() if t.is_floating_point()} == {torch.float32}
    for name in before.keys() - {f"{path}.weight" for path in toy.MODULES}:
        assert torch.equal(before[name].to(after[name].dtype), after[name])
    exact = toy.merged(before, load_file(adapter / "adapter_model.safetensors"))
    for path in toy.MODULES:
        torch.testing.assert_close(after[f"{path}.weight"].double(), exact[f"{path}.weight"], rtol=1e-6, atol=1e-8)
    total = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert total == sum(tensor.nbytes for tensor in after.values())
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_an_interrupted_run_is_resumed_to_the_same_bytes(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter, out = places
    whole = merge(base, adapter, out)
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", 4096)
    *earlier, last = [shard.nbytes for shard in whole.plan.shards]
    assert last > 8 * 4096
    stop, again, written = threading.Event(), out.with_name("again"), []

    def stop_in_the_last_shard(nbytes: int) -> None:
        written.append(nbytes)
        if sum(written) > sum(earlier) + last / 2:
            stop.set()

    with pytest.raises(Interrupted):
        merge(base, adapter, again, jobs=1, stop=stop, progress=stop_in_the_last_shard)
    assert not again.exists()
    outcome = merge(base, adapter, again)
    assert outcome.resumed == ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
    assert bytes_of(out) == bytes_of(again)


def test_a_failing_write_ends_the_run_with_its_own_error_whichever_shard_it_hits(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter, out = places
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", 4096)
    write_at = StagedFile.write_at

    def fail_in_the_second_shard(file: StagedFile, data: memoryview, offset: int) -> None:
        if "00002" in file.name and offset:
            raise ResourceError("no room")
        write_at(file, data, offset)

    monkeypatch.setattr(StagedFile, "write_at", fail_in_the_second_shard)
    with pytest.raises(ResourceError, match="no room"):
        merge(base, adapter, out, jobs=3)
    assert not out.exists()
    monkeypatch.undo()
    assert merge(base, adapter, out).plan.shards


def test_a_resume_with_another_adapter_is_refused(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    stop = threading.Event()
    with pytest.raises(Interrupted):
        merge(base, adapter, out, jobs=1, stop=stop, progress=lambda _: stop.set())
    toy.make_adapter(adapter, seed=7)
    with pytest.raises(OutputError) as refusal:
        merge(base, adapter, out)
    assert refusal.value.exit_code == 15
    merge(base, adapter, out, restart=True)
    assert out.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_in_the_adapter_is_refused(places: tuple[Path, Path, Path], bad: float) -> None:
    base, adapter, out = places
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.block.1.up.lora_B.weight"
    tensors[name][5, 1] = bad
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"block\.1\.up\.lora_B\.weight"):
        merge(base, adapter, out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["norm.weight", "block.0.down.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_value_that_is_not_finite_in_the_base_is_refused(
    places: tuple[Path, Path, Path], name: str, bad: float
) -> None:
    base, adapter, out = places
    for path in base.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name].view(-1)[11] = bad
            save_file(tensors, path, {"format": "pt"})
    with pytest.raises(NonFiniteError, match=rf"{name}.*element 11"):
        merge(base, adapter, out)


def test_a_base_that_is_meant_to_hold_infinities_can_be_accepted(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    path = base / "model-00003-of-00003.safetensors"
    tensors = load_file(path)
    tensors["norm.weight"][3] = float("-inf")
    save_file(tensors, path, {"format": "pt"})
    merge(base, adapter, out, options=Options(accept_nonfinite_base=True))
    assert weights_of(out)["norm.weight"][3] == float("-inf")


def test_a_sum_that_overflows_float16_is_refused_with_its_tensor(tmp_path: Path) -> None:
    base = toy.make_base(tmp_path / "base", torch.float16)
    toy.make_adapter(tmp_path / "adapter", scale=200.0)
    assert all(torch.isfinite(t).all() for t in base.values())
    with pytest.raises(NonFiniteError, match=r"F16.*block\.0\.up\.weight"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", jobs=1)


def test_a_base_that_changes_during_the_run_is_noticed(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    shard, calls = base / "model-00003-of-00003.safetensors", itertools.count()

    def touch(nbytes: int) -> None:
        if next(calls) == 0:
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(bytes(data))

    with pytest.raises(InputChangedError) as refusal:
        merge(base, adapter, out, jobs=1, progress=touch)
    assert refusal.value.exit_code == 17
    assert not out.exists()


def test_a_progress_that_fails_ends_the_run_with_its_error_and_no_hang(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places

    def fail(nbytes: int) -> None:
        raise LookupError("no terminal")

    with pytest.raises(LookupError, match="no terminal"):
        merge(base, adapter, out, jobs=2, progress=fail)
    assert not out.exists()


def test_an_adapter_that_changes_nothing_is_seen(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    tensors = {
        n: t if "lora_A" in n else torch.zeros_like(t)
        for n, t in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    outcome = merge(base, adapter, out)
    assert {name: sampled.changed for name, sampled in outcome.sampled.items()} == {
        f"{p}.weight": 0 for p in toy.MODULES
    }
    assert all(sampled.seen > 0 for sampled in outcome.sampled.values())


def test_two_adapters_add_up_and_are_rounded_once(tmp_path: Path) -> None:
    base = toy.make_base(tmp_path / "base")
    one, other = toy.make_adapter(tmp_path / "one"), toy.make_adapter(tmp_path / "other", rank=7, seed=5)
    out = tmp_path / "out"
    with prepare(
        str(tmp_path / "base"), [(str(tmp_path / "one"), 0.7), (str(tmp_path / "other"), -0.3)], target=out
    ) as job:
        job.run(memory=DigestMemory(tmp_path / "memory"))
    exact = toy.merged(toy.merged(base, one, 1.4), other, -0.6)
    found = weights_of(out)
    for path in toy.MODULES:
        assert np.mean((found[f"{path}.weight"] == exact[f"{path}.weight"].to(torch.bfloat16)).numpy()) >= 0.999


def test_a_single_file_base_has_no_index(tmp_path: Path) -> None:
    base = toy.make_base(tmp_path / "base", index=False)
    adapter = toy.make_adapter(tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.index.json"))
    exact, found = toy.merged(base, adapter), weights_of(tmp_path / "out")
    assert (found["block.1.up.weight"] == exact["block.1.up.weight"].to(torch.bfloat16)).float().mean() >= 0.999


def test_a_shard_that_no_adapter_touches_is_copied_whole(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter, out = places
    tensors = {n: t for n, t in load_file(adapter / "adapter_model.safetensors").items() if "block.0.up" in n}
    toy.write_adapter(adapter, tensors, {"r": 4, "lora_alpha": 8, "target_modules": ["block.0.up"]})
    copied, copy = [], Staging.copy

    def spy(self: Staging, name: str, source: int, **how: object) -> object:
        copied.append(name)
        return copy(self, name, source, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Staging, "copy", spy)
    outcome = merge(base, adapter, out)
    assert copied == ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    for name in copied:
        assert (out / name).read_bytes() == (base / name).read_bytes()
    digests = {digest.name: digest.sha256 for digest in outcome.files}
    assert all(digests[name] == hashlib.sha256((base / name).read_bytes()).hexdigest() for name in copied)
    assert (out / "model-00001-of-00003.safetensors").read_bytes() != (
        base / "model-00001-of-00003.safetensors"
    ).read_bytes()
