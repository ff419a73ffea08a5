"""Inputs are found by what they are, wherever they are and whatever they are called; nothing else is taken for them."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import constants

from ingot.errors import AdapterError, BaseError, Interrupted, UsageError
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.record import Record
from ingot.record.form import DependencyNotes
from ingot.registry import walking
from ingot.registry.finding import assembled, can_rebuild, find_inputs
from ingot.registry.keeping import keep
from ingot.registry.sought import LLAMA_CPP, Found
from ingot.storage import DigestMemory, PosixDisk
from tests.registry.inputs import merge, scatter
from tests.toy import make_adapter, make_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """base/, lora/, and the record of their merge."""
    root = tmp_path_factory.mktemp("made")
    make_base(root / "base")
    make_adapter(root / "lora")
    return root, merge(root / "base", [(root / "lora", 1.0)], root / "out")


@pytest.fixture
def record(made: tuple[Path, Record]) -> Record:
    return made[1]


@pytest.fixture
def places(made: tuple[Path, Record], tmp_path: Path) -> dict[str, Path]:
    """A copy of the inputs, to be changed."""
    for name in ("base", "lora"):
        shutil.copytree(made[0] / name, tmp_path / name)
    return {"base": tmp_path / "base", "0": tmp_path / "lora"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_whole(found: Found, record: Record) -> bool:
    """Whether every recorded file was found and is it."""
    every = record.statement.predicate.build.dependencies
    return not found.missing and all(
        sha256(found.files[entry.annotations.of][entry.name]) == entry.digest.sha256 for entry in every
    )


def test_inputs_are_found_where_they_were(places: dict[str, Path], record: Record) -> None:
    found = find_inputs(record, places)
    assert is_whole(found, record)
    assert found.files["base"]["config.json"] == places["base"] / "config.json"
    assert can_rebuild(record, places) is None


def test_files_renamed_in_their_folder_are_found_there(places: dict[str, Path], record: Record) -> None:
    (places["0"] / "adapter_model.safetensors").rename(places["0"] / "old.safetensors")
    (places["base"] / "config.json").rename(places["base"] / "config.json.bak")
    assert is_whole(find_inputs(record, places), record)


def test_scattered_files_are_found_in_a_folder_to_search(
    places: dict[str, Path], record: Record, tmp_path: Path
) -> None:
    for place in places.values():
        scatter(place, tmp_path / "attic")
    assert can_rebuild(record, places) is not None
    assert is_whole(find_inputs(record, places, [tmp_path / "attic"]), record)
    assert is_whole(find_inputs(record, {}, [tmp_path]), record)


def test_a_changed_file_is_missing_by_name_and_digest(places: dict[str, Path], record: Record) -> None:
    path = places["0"] / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    missing = can_rebuild(record, places)
    assert missing is not None
    (file,) = missing.files
    assert (file.of, file.name) == ("0", path.name)
    assert file.sha256 == record.dependencies("0")[path.name].digest.sha256
    (line,) = missing.lines(record)
    assert line == f"adapter lora: {path.name} (sha256:{file.sha256[:12]})"
    with pytest.raises(AdapterError, match=path.name):
        find_inputs(record, places).check(record)
    with pytest.raises(BaseError, match="base base"):
        find_inputs(record, {}).check(record)


def test_kept_adapters_stand_in_for_lost_ones(places: dict[str, Path], record: Record, tmp_path: Path) -> None:
    keep(places["0"], tmp_path / "kept", PosixDisk())
    shutil.rmtree(places["0"])
    found = find_inputs(record, places, kept=tmp_path / "kept")
    assert is_whole(found, record)
    (path,) = (tmp_path / "kept").glob("*/adapter_model.safetensors")
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    assert can_rebuild(record, places, kept=tmp_path / "kept") is not None


def test_what_is_about_to_go_does_not_count(places: dict[str, Path], record: Record, tmp_path: Path) -> None:
    assert can_rebuild(record, {}, [tmp_path], excluded=[tmp_path / "lora"]) is not None
    assert can_rebuild(record, places, excluded=[tmp_path / "base"]) is not None
    (tmp_path / "link").symlink_to(tmp_path / "base")
    assert can_rebuild(record, {**places, "base": tmp_path / "link"}, excluded=[tmp_path / "base"]) is not None


def test_hidden_folders_and_links_to_folders_are_passed_over(
    places: dict[str, Path], record: Record, tmp_path: Path
) -> None:
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    places["0"].rename(hidden / "lora")
    search = tmp_path / "search"
    places["base"].rename(search)
    (search / "loop").symlink_to(search)
    (search / "elsewhere").symlink_to(hidden / "lora")
    missing = can_rebuild(record, {}, [tmp_path])
    assert missing is not None
    assert {file.of for file in missing.files} == {"0"}
    assert can_rebuild(record, {}, [search, hidden / "lora"]) is None


def test_a_search_ends_at_its_limit_and_says_so(
    places: dict[str, Path], record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "MAX_FILES", 3)
    found = find_inputs(record, {}, [tmp_path])
    assert found.missing.limited
    with pytest.raises(AdapterError) as caught:
        found.check(record)
    assert "limit" in str(caught.value.hint)


def test_a_search_can_be_stopped(places: dict[str, Path], record: Record, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        find_inputs(record, {}, [tmp_path], stop=stop)


def test_the_second_look_reads_no_byte_of_a_settled_file(
    places: dict[str, Path], record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingot.storage.digest_memory.RACY_NS", 0)
    memory, read = DigestMemory(tmp_path / "cache"), [0]

    def progress(nbytes: int) -> None:
        read[0] += nbytes

    find_inputs(record, places, memory=memory, progress=progress)
    total = sum(entry.annotations.size for entry in record.statement.predicate.build.dependencies)
    assert read[0] == total
    find_inputs(record, places, memory=memory, progress=progress)
    assert read[0] == total


def test_an_assembled_input_holds_what_was_recorded_and_nothing_beside_it(
    places: dict[str, Path], record: Record, tmp_path: Path
) -> None:
    (places["base"] / "tokenizer_config.json").write_text("{}")  # came later
    work = tmp_path / "work"
    work.mkdir()
    with assembled(record, find_inputs(record, places), work, PosixDisk()) as specs:
        assert {path.name for path in Path(specs.base).iterdir()} == record.dependencies("base").keys()
        assert Path(specs.adapters[0]).name == "adapter_model.safetensors"
    assert list(work.iterdir()) == []


# -- the Hub


def from_the_hub(record: Record, commit: str) -> Record:
    """The record as if the base had come from the Hub."""
    replace = msgspec.structs.replace
    build = record.statement.predicate.build
    dependencies = tuple(
        replace(entry, annotations=DependencyNotes("base", entry.annotations.size, None, commit))
        if entry.annotations.of == "base" else entry
        for entry in build.dependencies
    )  # fmt: skip
    external = replace(build.external, base=replace(build.external.base, name="org/base"))
    build = replace(build, external=external, dependencies=dependencies)
    statement = replace(record.statement, predicate=replace(record.statement.predicate, build=build))
    return Record(statement, record.sha256)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_hubs_cache_on_this_machine_is_looked_into_at_the_commit(
    places: dict[str, Path], record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--base"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in places["base"].iterdir():
        blob = path.rename(repository / "blobs" / sha256(path))
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    known = from_the_hub(record, COMMIT)
    assert is_whole(find_inputs(known, places), known)
    assert can_rebuild(known, places) is None
    assert can_rebuild(from_the_hub(record, COMMIT[::-1]), places) is not None
    # a name in the cache is a claim: who is about to free something looks at the bytes
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(bytes(blob.stat().st_size))
    assert not find_inputs(known, places).missing
    assert can_rebuild(known, places) is not None


def test_what_the_hub_has_at_the_commit_counts_when_asked(
    places: dict[str, Path], record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    remote = places["base"].rename(tmp_path / "remote")
    asked: list[tuple[str, str]] = []

    def infos(self: object, repo: str, paths: list[str], *, revision: str) -> list[RepoFile]:
        asked.append((repo, revision))
        found = []
        for name in paths:
            lfs: dict[str, Any] = {}
            if name.endswith(".safetensors"):
                lfs = {"lfs": {"size": 1, "oid": sha256(remote / name), "pointerSize": 1}}
            size = (remote / name).stat().st_size
            found.append(RepoFile(path=name, size=size, oid="0" * 40, type="file", **lfs))
        return found

    def download(repo: str, name: str, *, revision: str) -> str:
        assert (repo, revision) == ("org/base", COMMIT)
        return str(remote / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "get_paths_info", infos)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    known = from_the_hub(record, COMMIT)
    assert can_rebuild(known, places) is not None
    assert asked == []
    assert can_rebuild(known, places, hub=True) is None
    assert asked == [("org/base", COMMIT)]
    found = find_inputs(known, places, hub="ask")
    assert {file.name for file in found.on_the_hub} == {
        name for name in known.dependencies("base") if name.endswith(".safetensors")
    }
    assert is_whole(find_inputs(known, places, hub="download"), known)
    (remote / "tokenizer.json").write_text('{"of": "somebody"}')
    assert can_rebuild(known, places, hub=True) is not None


def test_offline_the_hub_has_nothing(places: dict[str, Path], record: Record) -> None:
    shutil.rmtree(places["base"])
    assert can_rebuild(from_the_hub(record, COMMIT), places, hub=True) is not None


# -- llama.cpp


def test_a_checkout_of_llama_cpp_is_found_by_the_digest_of_its_code(
    places: dict[str, Path], record: Record, tmp_path: Path
) -> None:
    checkout = tmp_path / "src" / "llama.cpp"
    for name in ("convert_hf_to_gguf.py", "gguf-py/gguf/gguf_writer.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(f"# {name}")
    replace = msgspec.structs.replace
    build = record.statement.predicate.build
    gguf = GgufOptions(("Q8_0",), llama_cpp_sha256=Checkout.open(checkout).digest)
    external = replace(build.external, options=Options(gguf=gguf))
    predicate = replace(record.statement.predicate, build=replace(build, external=external))
    wanting = Record(replace(record.statement, predicate=predicate), record.sha256)
    missing = can_rebuild(wanting, places)
    assert missing is not None
    assert list(missing.lines(wanting)) == [f"the checkout of llama.cpp with sha256:{str(gguf.llama_cpp_sha256)[:12]}"]
    for found in (find_inputs(wanting, {**places, LLAMA_CPP: checkout}), find_inputs(wanting, places, [tmp_path])):
        assert (found.llama_cpp, bool(found.missing)) == (checkout, False)
    (checkout / "convert_hf_to_gguf.py").write_text("# newer")
    assert can_rebuild(wanting, {**places, LLAMA_CPP: checkout}, [tmp_path]) is not None
    with pytest.raises(UsageError, match=r"llama\.cpp"):
        find_inputs(wanting, places).check(wanting)
