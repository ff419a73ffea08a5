"""Whole merges in each rounding mode: the same bytes however they are cut, and a small update that survives."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.engine import chunk as chunk_module
from ingot.errors import Interrupted, NonFiniteError
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.record import verify
from tests import toy
from tests.engine.test_run import bytes_of, merge, weights_of

MODES = ("stochastic", "preserve", "auto")
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A bf16 base, an adapter whose update is a fifth of half an ulp, and a place for the output."""
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter", scale=0.003)
    return tmp_path / "base", tmp_path / "adapter", tmp_path / "out"


def survival(base: Path, adapter: Path, out: Path) -> float:
    """<W' - W, Δ> / <Δ, Δ> over all changed weights, in float64."""
    from safetensors.torch import load_file

    before, after = weights_of(base), weights_of(out)
    exact = toy.merged(before, load_file(adapter / "adapter_model.safetensors"))
    kept = total = 0.0
    for path in toy.MODULES:
        name = f"{path}.weight"
        delta = exact[name] - before[name].double()
        kept += float(((after[name].double() - before[name].double()) * delta).sum())
        total += float(delta.square().sum())
    return kept / total


@pytest.mark.parametrize("dtype", [None, "F16"])
def test_nearest_loses_a_small_update_and_the_others_keep_it(
    places: tuple[Path, Path, Path], dtype: str | None, tmp_path: Path
) -> None:
    base, adapter, _ = places
    if dtype == "F16":  # three bits more: an eighth of the update is as small
        toy.make_adapter(adapter, scale=0.001)
    kept = {}
    for mode in ("nearest", *MODES):
        out = tmp_path / mode
        merge(base, adapter, out, options=Options(dtype=dtype, rounding=mode))
        kept[mode] = survival(base, adapter, out)
    assert kept["nearest"] < 0.5
    assert all(0.8 < kept[mode] < 1.2 for mode in MODES), kept


@every_mode
@pytest.mark.parametrize("tile_elements", [1000, 1 << 18])
def test_chunks_and_workers_change_no_bit(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, mode: str, tile_elements: int
) -> None:
    base, adapter, out = places
    monkeypatch.setattr("ingot.kernels.grid.TILE_ELEMENTS", tile_elements)
    merge(base, adapter, out, jobs=1, options=Options(rounding=mode))
    monkeypatch.setattr(chunk_module, "CHUNK_NBYTES", 4096)
    merge(base, adapter, out.with_name("again"), jobs=5, options=Options(rounding=mode))
    assert bytes_of(out) == bytes_of(out.with_name("again"))


@every_mode
def test_a_resumed_run_has_the_same_bytes(places: tuple[Path, Path, Path], mode: str) -> None:
    base, adapter, out = places
    options = Options(rounding=mode)
    merge(base, adapter, out, options=options)
    stop, again, written = threading.Event(), out.with_name("again"), []

    def stop_in_the_second_shard(nbytes: int) -> None:
        written.append(nbytes)
        if len(written) == 2:
            stop.set()

    with pytest.raises(Interrupted):
        merge(base, adapter, again, jobs=1, stop=stop, progress=stop_in_the_second_shard, options=options)
    assert merge(base, adapter, again, options=options).resumed[0] == "model-00001-of-00003.safetensors"
    assert bytes_of(out) == bytes_of(again)


@every_mode
def test_what_was_rounded_can_be_computed_again(places: tuple[Path, Path, Path], mode: str) -> None:
    base, adapter, out = places
    with prepare(str(base), [(str(adapter), 0.5)], Options(rounding=mode, seed=4), target=out) as job:
        job.run()
    found = verify(out, depth="against-inputs", base=str(base), adapters=[str(adapter)])
    assert [check.detail for check in found.failures] == []
    assert "recomputed" in {check.name for check in found.checks}


def test_the_seed_is_part_of_the_plan_and_of_the_bytes(places: tuple[Path, Path, Path]) -> None:
    base, adapter, out = places
    one = merge(base, adapter, out, options=Options(rounding="stochastic"))
    other = merge(base, adapter, out.with_name("other"), options=Options(rounding="stochastic", seed=1))
    assert one.plan.digest != other.plan.digest
    name = "block.1.up.weight"
    assert not torch.equal(weights_of(out)[name], weights_of(out.with_name("other"))[name])


@pytest.mark.parametrize(("mode", "seed"), [("stochastic", 7), ("preserve", None), ("auto", None)])
def test_record_and_table_tell_mode_and_seed(places: tuple[Path, Path, Path], mode: str, seed: int | None) -> None:
    base, adapter, out = places
    merge(base, adapter, out, options=Options(rounding=mode, seed=7))
    build: Any = json.loads((out / "ingot.json").read_bytes())["predicate"]["buildDefinition"]
    assert (build["internalParameters"]["rounding"], build["internalParameters"]["seed"]) == (mode, seed)
    options = build["externalParameters"]["options"]
    assert (options["rounding"], options["seed"]) == (mode, 7)
    rows = [json.loads(line) for line in (out / "ingot.tensors.jsonl").read_text().splitlines()]
    told = {row["name"]: row["rounding"] for row in rows if "rounding" in row}
    used = "preserve" if mode == "auto" else mode
    assert told == {f"{path}.weight": used for path in toy.MODULES}
    assert f"--rounding {mode} --seed 7" in (out / "README.md").read_text()


def test_a_conversion_without_terms_stays_nearest(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, adapter, out = places
    base = tmp_path / "wide"
    before = toy.make_base(base, torch.float32)
    merge(base, adapter, out, options=Options(dtype="BF16", rounding="stochastic"))
    after = weights_of(out)
    for name in before.keys() - {f"{path}.weight" for path in toy.MODULES}:
        if before[name].is_floating_point():
            assert torch.equal(after[name], before[name].to(torch.bfloat16))


@every_mode
def test_float32_output_is_the_same_in_every_mode(places: tuple[Path, Path, Path], mode: str) -> None:
    base, adapter, out = places
    merge(base, adapter, out, options=Options(dtype="F32"))
    merge(base, adapter, out.with_name("other"), options=Options(dtype="F32", rounding=mode))
    one, other = weights_of(out), weights_of(out.with_name("other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("mode", ["stochastic", "preserve"])
def test_a_sum_that_overflows_float16_is_refused(tmp_path: Path, mode: str) -> None:
    toy.make_base(tmp_path / "base", torch.float16)
    toy.make_adapter(tmp_path / "adapter", scale=200.0)
    with pytest.raises(NonFiniteError, match=r"F16.*block\.0\.up\.weight"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", jobs=1, options=Options(rounding=mode))


def test_two_adapters_are_preserved_together(tmp_path: Path) -> None:
    base = toy.make_base(tmp_path / "base")
    one = toy.make_adapter(tmp_path / "one", scale=0.003)
    other = toy.make_adapter(tmp_path / "other", rank=7, seed=5, scale=0.003)
    adapters = [(str(tmp_path / "one"), 1.0), (str(tmp_path / "other"), -1.0)]
    inside = {}
    for mode in ("nearest", "preserve"):
        with prepare(str(tmp_path / "base"), adapters, Options(rounding=mode), target=tmp_path / mode) as job:
            job.run()
        found = weights_of(tmp_path / mode)["block.1.up.weight"].double()
        exact = toy.merged(toy.merged(base, one), other, -2.0)["block.1.up.weight"]
        rows = [a["base_model.model.block.1.up.lora_A.weight"].double() for a in (one, other)]
        inside[mode] = float(((found - exact) @ torch.linalg.qr(torch.cat(rows).T)[0]).norm())
    assert inside["preserve"] < 0.7 * inside["nearest"]
