"""Artifacts are freed, their inputs move and are renamed, and the same bytes are made again: or nothing is."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ingot.errors import BaseError, CheckFailed, Interrupted, OutputError
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.run import digest_of
from ingot.record import add_evaluation, read_record, verify
from ingot.record.form import AdapterLabel, Release
from ingot.record.statement import seal
from ingot.registry.finding import find_inputs
from ingot.registry.keeping import keep
from ingot.registry.rebuilding import rebuild
from ingot.storage import PosixDisk
from tests.oracle.reference import unheard
from tests.quantize.gguf.models import save_adapter, save_model
from tests.quantize.gguf.reference.files import write_imatrix
from tests.registry.inputs import contents, merge, record_of, scatter
from tests.tiny_models import MODELS
from tests.toy import make_adapter, make_base

LINEAR = ["q_proj", "v_proj", "down_proj"]


# -- inputs, each made once


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


def once(path: Path, make: Callable[[Path], object]) -> Path:
    if not path.exists():
        make(path)
    return path


def toy(shelf: Path) -> Path:
    return once(shelf / "toy", make_base)


def toy_in_one_file(shelf: Path) -> Path:
    return once(shelf / "toy-single", lambda path: make_base(path, torch.float16, index=False))


def tiny(shelf: Path) -> Path:
    return once(shelf / "tiny", lambda path: MODELS["llama"]().bfloat16().save_pretrained(path))


def loras(*seeds: int) -> Callable[[Path], list[Path]]:
    """LoRAs for the toy."""

    def make(shelf: Path) -> list[Path]:
        return [once(shelf / f"lora-{n}", lambda path, n=n: make_adapter(path, seed=n, rank=2 + n)) for n in seeds]

    return make


def with_tokenizer(shelf: Path) -> list[Path]:
    def make(path: Path) -> None:
        make_adapter(path)
        (path / "tokenizer.json").write_text('{"of": "the adapter"}')
        (path / "chat_template.jinja").write_text("{{ messages }}")

    return [once(shelf / "with-tokenizer", make)]


def trained(name: str, config: peft.PeftConfig) -> Callable[[Path], list[Path]]:
    """What PEFT saves of a tiny Llama, its parameters moved off their beginnings."""

    def make(path: Path) -> None:
        with unheard():
            wrapped = peft.get_peft_model(MODELS["llama"](), config)
            generator = torch.Generator().manual_seed(5)
            for parameter in (one for one in wrapped.parameters() if one.requires_grad):
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
            wrapped.save_pretrained(path)

    return lambda shelf: [once(shelf / name, make)]


def both(one: Callable[[Path], list[Path]], other: Callable[[Path], list[Path]]) -> Callable[[Path], list[Path]]:
    return lambda shelf: [*one(shelf), *other(shelf)]


LORA = trained("lora", peft.LoraConfig(r=4, target_modules=LINEAR))
DORA = trained("dora", peft.LoraConfig(r=4, target_modules=LINEAR, use_dora=True))
IA3 = trained("ia3", peft.IA3Config(target_modules=LINEAR, feedforward_modules=["down_proj"]))
OFT = trained("oft", peft.OFTConfig(r=0, oft_block_size=4, target_modules=LINEAR))
LOKR = trained("lokr", peft.LoKrConfig(r=2, target_modules=LINEAR))
HEAD = trained("head", peft.LoraConfig(r=4, target_modules=LINEAR, modules_to_save=["lm_head"]))


@dataclass(frozen=True)
class Case:
    """`base` and `adapters` make theirs on the shelf, once."""

    options: Options
    base: Callable[[Path], Path]
    adapters: Callable[[Path], list[Path]]
    weights: tuple[float, ...]
    release: Release | None = None


def of(
    adapters: Callable[[Path], list[Path]], *weights: float, base: Callable[[Path], Path] = toy, **options: Any
) -> Case:
    return Case(Options(**options), base, adapters, weights)


CASES = {
    "linear": of(loras(1), 1.0),
    "linear with weights": of(loras(1, 2, 3), 0.7, 0.5, -0.2),
    "one file": of(loras(1), 1.0, base=toy_in_one_file),
    "sequential": of(both(LORA, DORA), 1.0, 0.5, base=tiny, method="sequential"),
    "ties": of(loras(1, 2), 1.0, 0.6, method="ties", density=0.4),
    "magnitude_prune": of(loras(1, 2), 1.0, 1.0, method="magnitude_prune", density=0.3),
    "dare_linear": of(loras(1, 2), 1.0, 1.0, method="dare_linear", density=0.5, seed=7),
    "dare_ties": of(loras(1, 2), 1.0, 1.0, method="dare_ties", density=0.5, seed=8),
    "della": of(loras(1, 2), 1.0, 1.0, method="della", density=0.5, epsilon=0.1, seed=9),
    "breadcrumbs_ties": of(loras(1, 2), 1.0, 1.0, method="breadcrumbs_ties", density=0.5, gamma=0.05),
    "sce": of(loras(1, 2), 1.0, 1.0, method="sce", density=0.5),
    "stochastic rounding": of(loras(1), 1.0, rounding="stochastic", seed=3),
    "stochastic rounding and chance": of(loras(1, 2), 1.0, 1.0, rounding="stochastic", seed=3, method="dare_ties",
                                         density=0.5),
    "preserving rounding": of(loras(1), 0.01, rounding="preserve"),
    "rounding of its choice": of(loras(1), 0.01, rounding="auto"),
    "float16": of(loras(1), 1.0, dtype="F16"),
    "float32": of(loras(1), 1.0, dtype="F32"),
    "a tokenizer of the adapter": of(with_tokenizer, 1.0),
    "DoRA": of(DORA, 0.5, base=tiny),
    "IA3": of(IA3, 1.0, base=tiny),
    "OFT": of(OFT, 1.0, base=tiny),
    "LoKr and LoRA": of(both(LOKR, LORA), 1.0, 0.3, base=tiny),
    "a saved head": of(HEAD, 1.0, base=tiny),
    "a release": replace(
        of(loras(1, 2), 1.0, 0.5),
        release=Release(
            "support", "1.2", adapters=(AdapterLabel("v3", "run-17"), AdapterLabel()), recipe={"name": "support"},
            recipe_sha256="0" * 64,
        ),
    ),
}  # fmt: skip


def make_again(record_bytes: bytes, target: Path, places: dict[str, Path], search: list[Path], **more: Any) -> Any:
    """Find the inputs and rebuild."""
    work = target.parent / "work"
    work.mkdir(exist_ok=True)
    record = read_record(record_bytes)
    try:
        return rebuild(record_bytes, find_inputs(record, places, search), target, work, **more)
    finally:
        assert list(work.iterdir()) == []


def freed(case: Case, shelf: Path, tmp_path: Path) -> tuple[dict[str, bytes], Path, list[Path]]:
    """The bytes of an artifact that is there no more, and copies of its inputs."""
    base = Path(shutil.copytree(case.base(shelf), tmp_path / "base-v1"))
    adapters = [Path(shutil.copytree(path, tmp_path / path.name)) for path in case.adapters(shelf)]
    target = tmp_path / "artifact"
    merge(base, list(zip(adapters, case.weights, strict=True)), target, case.options, release=case.release)
    made = contents(target)
    shutil.rmtree(target)
    return made, base, adapters


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_are_made_of_renamed_and_scattered_inputs(name: str, shelf: Path, tmp_path: Path) -> None:
    made, base, adapters = freed(CASES[name], shelf, tmp_path)
    (base / "preprocessor_config.json").write_text("{}")  # came later: it is no part of the artifact
    base = base.rename(tmp_path / "llama-base")
    for adapter in adapters:
        scatter(adapter, tmp_path / "attic")
    rebuilt = make_again(made["ingot.json"], tmp_path / "again", {"base": base}, [tmp_path / "attic"])
    assert contents(tmp_path / "again") == made
    assert rebuilt.differences == ()
    assert rebuilt.identity == record_of(tmp_path / "again").identity


def test_a_quantized_base_is_decoded_to_the_same_bytes(shelf: Path, tmp_path: Path) -> None:
    llama = pytest.importorskip("tests.checkpoint.quantized.llama", exc_type=ImportError)
    for form in ("fp8", "gptq"):
        case = of(
            lambda shelf: [once(shelf / "q-lora", lambda path: llama.adapter(path, ["q_proj", "up_proj"]))],
            1.0,
            base=lambda shelf, form=form: once(shelf / form, lambda path: llama.write(path, form)),
        )
        made, base, adapters = freed(case, shelf, tmp_path / form)
        scatter(base, tmp_path / form / "attic")
        make_again(made["ingot.json"], tmp_path / form / "again", {"0": adapters[0]}, [tmp_path / form / "attic"])
        assert contents(tmp_path / form / "again") == made


# -- GGUF


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base, an adapter, and an importance matrix."""
    root = tmp_path_factory.mktemp("wide")
    base = save_model("llama", root / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, root / "adapter")
    with prepare(str(base), [], Options(gguf=GgufOptions(("BF16",)))) as job:
        assert job.document is not None
        shapes = {tensor.name: tensor.shape for tensor in job.document.tensors}
    return base, adapter, write_imatrix(shapes, root / "imatrix.gguf")


@pytest.mark.parametrize("name", ["Q8_0 and F16", "Q4_K_M, weighted", "split", "quantized alone"])
def test_gguf_files_are_made_again(name: str, wide: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, adapter, imatrix = wide
    options = {
        "Q8_0 and F16": GgufOptions(("Q8_0", "F16")),
        "Q4_K_M, weighted": GgufOptions(("Q4_K_M",), imatrix_sha256=digest_of(imatrix)),
        "split": GgufOptions(("Q4_K_M",), split_nbytes=500_000),
        "quantized alone": GgufOptions(("Q8_0",)),
    }[name]
    adapters = [] if name == "quantized alone" else [(adapter, 1.0)]
    more = {"imatrix": imatrix} if options.imatrix_sha256 else {}
    merge(base, adapters, tmp_path / "artifact", Options(gguf=options), **more)
    made = contents(tmp_path / "artifact")
    moved = Path(shutil.copytree(base, tmp_path / "moved" / "renamed-base"))
    shutil.copytree(adapter, tmp_path / "moved" / "renamed-adapter")
    shutil.copy(imatrix, tmp_path / "moved" / "renamed.dat")
    make_again(made["ingot.json"], tmp_path / "again", {}, [tmp_path / "moved"])
    assert contents(tmp_path / "again") == made
    if name == "Q8_0 and F16":  # a GGUF holds names and the plan's digest, which the names are a part of
        told = {"base": str(moved), "adapters": [str(tmp_path / "moved" / "renamed-adapter")]}
        found = verify(tmp_path / "artifact", depth="against-inputs", **told)
        assert found.ok, found.verdict


# -- the record


def test_the_old_record_is_put_back_with_its_evaluations(shelf: Path, tmp_path: Path) -> None:
    base, (lora,) = toy(shelf), loras(1)(shelf)
    merge(base, [(lora, 1.0)], tmp_path / "artifact")
    add_evaluation(tmp_path / "artifact", {"ok": True})
    data = (tmp_path / "artifact" / "ingot.json").read_bytes()
    shutil.rmtree(tmp_path / "artifact")
    make_again(data, tmp_path / "artifact", {"base": base, "0": lora}, [])
    assert (tmp_path / "artifact" / "ingot.json").read_bytes() == data
    assert len(record_of(tmp_path / "artifact").statement.predicate.run.evaluations) == 1
    assert verify(tmp_path / "artifact", depth="read").ok


def test_an_adapter_that_only_the_registry_still_has_is_enough(shelf: Path, tmp_path: Path) -> None:
    made, base, (lora,) = freed(CASES["a tokenizer of the adapter"], shelf, tmp_path)
    keep(lora, tmp_path / "kept", PosixDisk())
    shutil.rmtree(lora)
    (tmp_path / "work").mkdir()
    record = read_record(made["ingot.json"])
    found = find_inputs(record, {"base": base, "0": lora}, kept=tmp_path / "kept")
    rebuild(made["ingot.json"], found, tmp_path / "again", tmp_path / "work")
    assert contents(tmp_path / "again") == made


# -- what cannot be made again


def changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    value = json.loads(data)
    change(value)
    return seal(value)


def rest(tmp_path: Path) -> list[str]:
    """What lies beside the target and is not an input."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "again")))


def test_other_bytes_than_recorded_leave_nothing_and_name_the_first_tensor(shelf: Path, tmp_path: Path) -> None:
    """As another library's arithmetic would give them: here by a record of another number of one weight."""
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)
    table = [json.loads(line) for line in made["ingot.tensors.jsonl"].splitlines()]
    rows = [row for row in table if row["file"] == "model-00002-of-00003.safetensors"]
    for row in rows[2:]:  # the running digests from one tensor on
        row["sha256"] = "f" * 64
    old_table = b"".join(json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n" for row in table)

    def change(value: Any) -> None:
        for subject in value["subject"]:
            if subject["name"] == "model-00002-of-00003.safetensors":
                subject["digest"]["sha256"] = "f" * 64
            if subject["name"] == "ingot.tensors.jsonl":
                subject["digest"]["sha256"] = hashlib.sha256(old_table).hexdigest()
        value["predicate"]["buildDefinition"]["internalParameters"]["libraries"]["torch"] = "1.0"

    small = {"ingot.tensors.jsonl": old_table}
    with pytest.raises(CheckFailed) as caught:
        make_again(changed(made["ingot.json"], change), tmp_path / "again", {"base": base, "0": lora}, [], small=small)
    assert caught.value.where == f"model-00002-of-00003.safetensors, tensor {rows[2]['name']}"
    assert f"torch 1.0, here {torch.__version__.partition('+')[0]}" in str(caught.value.hint)
    assert rest(tmp_path) == []


def test_another_plan_is_refused_before_a_byte_is_written(shelf: Path, tmp_path: Path) -> None:
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)

    def change(value: Any) -> None:
        value["predicate"]["buildDefinition"]["internalParameters"]["plan_digest"] = "f" * 64

    with pytest.raises(CheckFailed, match="plans something else"):
        make_again(changed(made["ingot.json"], change), tmp_path / "again", {"base": base, "0": lora}, [])
    assert rest(tmp_path) == []


def test_without_an_input_nothing_is_begun(shelf: Path, tmp_path: Path) -> None:
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)
    (base / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BaseError, match=r"model-00002-of-00003.safetensors \(sha256:"):
        make_again(made["ingot.json"], tmp_path / "again", {"base": base, "0": lora}, [])
    assert rest(tmp_path) == []


def test_what_is_at_the_target_is_left_as_it_is(shelf: Path, tmp_path: Path) -> None:
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        make_again(made["ingot.json"], tmp_path / "again", {"base": base, "0": lora}, [])
    assert contents(tmp_path / "again") == {"mine": b"mine"}


def test_a_stopped_rebuild_is_resumed(shelf: Path, tmp_path: Path) -> None:
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)
    places, stop = {"base": base, "0": lora}, threading.Event()

    def progress(_: int) -> None:
        stop.set()

    with pytest.raises(Interrupted):
        make_again(made["ingot.json"], tmp_path / "again", places, [], stop=stop, progress=progress)
    assert not (tmp_path / "again").exists()
    make_again(made["ingot.json"], tmp_path / "again", places, [])
    assert contents(tmp_path / "again") == made
    assert rest(tmp_path) == ["again"]


def test_another_version_of_ingot_makes_the_same_weights_and_puts_the_old_card_back(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, base, (lora,) = freed(CASES["linear"], shelf, tmp_path)
    for module in ("record.card", "record.record", "registry.rebuilding"):
        monkeypatch.setattr(f"ingot.{module}.__version__", "99.0")
    places = {"base": base, "0": lora}
    with pytest.raises(CheckFailed) as caught:
        make_again(made["ingot.json"], tmp_path / "again", places, [])
    assert caught.value.where == "README.md"
    rebuilt = make_again(made["ingot.json"], tmp_path / "again", places, [], small={"README.md": made["README.md"]})
    assert contents(tmp_path / "again") == made
    assert [text.split()[0] for text in rebuilt.differences] == ["ingot"]
