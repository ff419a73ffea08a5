"""Garbage collection: what the policy lets go and could be made again is freed; every reason to keep holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from ingot.errors import CheckFailed, Interrupted, MissingComponent, UsageError
from ingot.plan.model import GgufOptions, Options
from ingot.record.statement import seal
from ingot.registry import collect as module
from ingot.registry.collect import Fate, Looking, Policy, collect, decide, duration
from ingot.registry.entry import Entry, State
from ingot.registry.keeping import keep
from ingot.registry.places import Places
from ingot.registry.returning import bring_back
from ingot.registry.store import Registry
from ingot.storage import PosixDisk
from tests.quantize.gguf.models import save_model
from tests.registry.conftest import Library
from tests.registry.inputs import merge
from tests.registry.shelf import content_of, variant

ALL = Policy(newest=0)


def verdicts(library: Library, policy: Policy = ALL, **looking: object) -> dict[str, tuple[str, str]]:
    return {
        one.entry.name: (str(one.fate), one.why)
        for one in decide(library.registry, policy, Looking(**looking))  # type: ignore[arg-type]
    }


def freed(library: Library, policy: Policy = ALL, **looking: object) -> set[str]:
    """Collect what may go; the names of what went."""
    how = Looking(**looking)  # type: ignore[arg-type]
    wanted = [one.entry for one in decide(library.registry, policy, how) if one.fate is Fate.FREE]
    told: list[Entry] = []
    collect(library.registry, policy, how, wanted, told.append)
    gone = {entry.name for entry in library.registry.entries() if entry.state is State.FREED}
    assert {entry.name for entry in told} <= gone
    return gone


def own_inputs(library: Library, tmp_path: Path) -> None:
    """Let support-v1 have inputs of its own, that may be changed."""
    for name in ("base", "lora-1"):
        shutil.copytree(library.root / name, tmp_path / name)
    entry = library.entry("support-v1")
    places = replace(
        library.registry.places(entry), inputs={"base": str(tmp_path / "base"), "0": str(tmp_path / "lora-1")}
    )
    library.registry.add(library.folder("support-v1"), places)


def change_record(library: Library, name: str, change: Callable[[dict[str, object]], None]) -> None:
    path = library.folder(name) / "ingot.json"
    value = json.loads(path.read_bytes())
    change(value["predicate"]["buildDefinition"]["internalParameters"])
    path.write_bytes(seal(value))


def test_what_others_were_made_of_stays_and_the_rest_goes_and_comes_back(library: Library) -> None:
    whole = {name: content_of(library.folder(name)) for name in ("support-v1", "upon-v3")}
    assert verdicts(library) == {
        "upon-v3": ("free", ""), "support-v2": ("keep", "upon-v3 was made of it"), "support-v1": ("free", ""),
    }  # fmt: skip
    assert freed(library) == {"support-v1", "upon-v3"}
    assert verdicts(library) == {"support-v2": ("keep", "upon-v3 was made of it")}  # freed, it needs it all the more
    for name in whole:
        bring_back(library.registry, library.entry(name))
        assert content_of(library.folder(name)) == whole[name]


def test_tags_keep(library: Library) -> None:
    library.registry.tag([(tag, library.entry("support-v1").identity) for tag in ("champion", "prod/eu")])
    assert verdicts(library)["support-v1"] == ("keep", "tagged champion, prod/eu")
    library.registry.tag([("champion", None), ("prod/eu", None)])
    assert verdicts(library)["support-v1"] == ("free", "")


def test_the_newest_of_each_title_and_format_are_kept(library: Library) -> None:
    for version, year in (("7", 2090), ("8", 2070), ("9", 2080)):
        made = variant(library.folder("support-v1"), library.registry.layout.work / version, version=version,
                       made_on=f"{year}-01-01T00:00:00Z")  # fmt: skip
        places = library.registry.places(library.entry("support-v1"))
        library.registry.publish(made, replace(places, name=f"support-v{version}"))
    found = verdicts(library, Policy(newest=2))
    assert found["support-v7"] == ("keep", "number 1 of the newest 2")
    assert found["support-v9"] == ("keep", "number 2 of the newest 2")
    assert found["upon-v3"] == ("keep", "number 1 of the newest 2")
    assert found["support-v8"][0] == found["support-v1"][0] == "free"
    assert verdicts(library, Policy(newest=1))["support-v9"][0] == "free"


def test_the_young_are_kept(library: Library) -> None:
    policy = Policy(younger=timedelta(days=30))
    now = datetime.now(UTC)
    assert {fate for fate, _ in verdicts(library, policy, now=now + timedelta(days=29)).values()} == {"keep"}
    assert verdicts(library, policy, now=now + timedelta(days=31))["support-v1"] == ("free", "")
    assert {fate for fate, _ in verdicts(library, policy, now=now - timedelta(days=900)).values()} == {"keep"}


def test_one_reason_to_keep_suffices(library: Library) -> None:
    later = datetime.now(UTC) + timedelta(days=31)
    policy = Policy(newest=5, younger=timedelta(days=30))
    assert {fate for fate, _ in verdicts(library, policy, now=later).values()} == {"keep"}


def test_a_name_limits_what_is_looked_at_and_not_what_is_known(library: Library) -> None:
    assert set(verdicts(library, Policy(newest=0, pattern="UPON*"))) == {"upon-v3"}
    assert verdicts(library, Policy(newest=0, pattern="support-v2")) == {
        "support-v2": ("keep", "upon-v3 was made of it")
    }


def test_a_policy_that_says_nothing_is_none(library: Library) -> None:
    for policy in (Policy(), Policy(pattern="*")):
        with pytest.raises(UsageError, match="nothing says what is to be kept"):
            decide(library.registry, policy, Looking())
        with pytest.raises(UsageError, match="nothing says what is to be kept"):
            collect(library.registry, policy, Looking(), [library.entry("support-v1")])


@pytest.mark.parametrize("loss", ["an adapter", "a changed adapter", "a file of the base", "all"])
def test_what_could_not_be_made_again_is_refused(library: Library, tmp_path: Path, loss: str) -> None:
    own_inputs(library, tmp_path)
    assert verdicts(library)["support-v1"] == ("free", "")
    if loss in ("an adapter", "all"):
        shutil.rmtree(tmp_path / "lora-1")
    if loss == "a changed adapter":
        path = tmp_path / "lora-1" / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    if loss in ("a file of the base", "all"):
        (tmp_path / "base" / "tokenizer.json").unlink()
    fate, why = verdicts(library)["support-v1"]
    assert (fate, "not found" in why) == ("refuse", True)
    assert ("lora-1" in why) == (loss != "a file of the base")
    assert "support-v1" not in freed(library)
    assert verdicts(library, search=[library.root / "lora-1", library.root / "base"])["support-v1"] == ("free", "")


def test_a_kept_adapter_is_an_input_that_is_there(library: Library, tmp_path: Path) -> None:
    own_inputs(library, tmp_path)
    keep(tmp_path / "lora-1", library.registry.layout.adapters, library.registry.disk)
    shutil.rmtree(tmp_path / "lora-1")
    before = content_of(library.registry.layout.adapters)
    assert "support-v1" in freed(library)
    assert content_of(library.registry.layout.adapters) == before


def test_an_input_in_a_folder_that_goes_too_is_no_input(library: Library, tmp_path: Path) -> None:
    """Its tokenizer is a copy of the base's: searching the artifacts would find it there, and then free it."""
    own_inputs(library, tmp_path)
    (tmp_path / "base" / "tokenizer.json").unlink()
    library.registry.tag([("champion", library.entry("support-v2").identity)])
    going = [library.folder("support-v1"), library.folder("upon-v3"), library.registry.layout.work]
    shutil.copytree(library.folder("upon-v3"), library.registry.layout.work / "rebuilding")
    assert verdicts(library, search=going)["support-v1"][0] == "refuse"
    assert verdicts(library, search=[library.registry.layout.artifacts])["support-v1"][0] == "free"  # support-v2 stays


@pytest.mark.parametrize(("part", "value", "why"), [
    ("plan_version", 99, "plan version 99"), ("device", "cuda", "the device cuda, which is not here"),
    ("cpu_capability", "AVX9000", "AVX9000 instructions"),
])  # fmt: skip
def test_what_might_get_other_bytes_here_is_refused(library: Library, part: str, value: object, why: str) -> None:
    def change(internals: dict[str, object]) -> None:
        assert part in internals
        internals[part] = value

    change_record(library, "support-v1", change)
    fate, said = verdicts(library)["support-v1"]
    assert fate == "refuse"
    assert why in said


def test_also_with_another_torch_but_not_with_another_ingot(library: Library) -> None:
    def change(internals: dict[str, object]) -> None:
        internals["ingot"] = "0.0.1"

    change_record(library, "support-v1", change)
    assert verdicts(library, search=[library.root])["support-v1"] == ("free", "")

    def older(internals: dict[str, object]) -> None:
        internals["libraries"]["torch"] = "1.0"  # type: ignore[index]

    change_record(library, "support-v1", older)
    assert verdicts(library)["support-v1"][1].startswith("it was made with torch 1.0, and here is")


def test_a_gguf_goes_only_where_it_could_be_quantized_again(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    work = library.registry.layout.work / "making"
    merge(base, [], work, Options(gguf=GgufOptions(("Q8_0",))))
    library.registry.publish(work, Places("tiny-q8_0", inputs={"base": str(base)}))
    assert verdicts(library)["tiny-q8_0"] == ("free", "")

    def refuse(name: str, **_: object) -> None:
        raise MissingComponent(f"{name} needs ggml's own code")

    monkeypatch.setattr(module, "quantizer_for", refuse)
    assert verdicts(library)["tiny-q8_0"] == ("refuse", "F32 needs ggml's own code")


def test_a_folder_with_something_else_in_it_is_refused(library: Library) -> None:
    (library.folder("support-v1") / "notes.txt").write_text("x")
    assert verdicts(library)["support-v1"] == ("refuse", "its folder holds notes.txt, which is not of the artifact")


def test_damaged_tags_stop_everything(library: Library) -> None:
    entry = library.entry("support-v1")
    library.registry.tag([("champion", entry.identity)])
    library.registry.tag([("other", entry.identity)])
    data = library.registry.layout.tags.read_bytes()
    library.registry.layout.tags.write_bytes(data.replace(b"champion", b"champiom", 1))
    with pytest.raises(CheckFailed, match="tags are damaged"):
        decide(library.registry, ALL, Looking())
    with pytest.raises(CheckFailed, match="tags are damaged"):
        collect(library.registry, ALL, Looking(), [entry])
    assert library.folder("support-v1").exists()


def test_a_record_that_cannot_be_read_stops_everything(library: Library) -> None:
    entry = library.entry("support-v1")
    path = library.folder("upon-v3") / "ingot.json"
    path.write_bytes(path.read_bytes().replace(b"run-3", b"run-4"))
    with pytest.raises(CheckFailed, match="record cannot be read"):
        decide(library.registry, ALL, Looking())
    with pytest.raises(CheckFailed, match="record cannot be read"):
        collect(library.registry, ALL, Looking(), [entry])
    assert library.folder("support-v1").exists()


def test_a_tag_that_is_set_between_looking_and_freeing_counts(library: Library) -> None:
    wanted = [one.entry for one in decide(library.registry, ALL, Looking()) if one.fate is Fate.FREE]
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    final = {one.entry.name: (one.fate, one.why) for one in collect(library.registry, ALL, Looking(), wanted)}
    assert final["support-v1"] == (Fate.KEEP, "tagged champion")
    assert final["upon-v3"][0] is Fate.FREE
    assert library.folder("support-v1").exists()


def test_an_input_that_goes_between_looking_and_freeing_counts(library: Library, tmp_path: Path) -> None:
    own_inputs(library, tmp_path)
    wanted = [library.entry("support-v1")]
    shutil.rmtree(tmp_path / "lora-1")
    (verdict,) = collect(library.registry, ALL, Looking(), wanted)
    assert verdict.fate is Fate.REFUSE
    assert library.folder("support-v1").exists()


def test_what_was_freed_by_another_meanwhile_is_no_fault(library: Library) -> None:
    wanted = [library.entry("support-v1")]
    library.free("support-v1")
    (verdict,) = collect(library.registry, ALL, Looking(), wanted)
    assert (verdict.fate, verdict.why) == (Fate.KEEP, "it is not there any more")


def test_it_stops_between_two_when_told(library: Library) -> None:
    looking = Looking()
    wanted = [one.entry for one in decide(library.registry, ALL, looking) if one.fate is Fate.FREE]
    with pytest.raises(Interrupted):
        collect(library.registry, ALL, looking, wanted, lambda _: looking.stop.set())
    states = [entry.state for entry in library.registry.entries()]
    assert sorted(states) == [State.FREED, State.HERE, State.HERE]


class Watching(PosixDisk):
    """Notes every path that is taken away."""

    def __init__(self) -> None:
        self.gone: list[Path] = []

    def rename(self, source: Path, target: Path) -> None:
        self.gone.append(source)
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self.gone.append(path)
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        self.gone.append(path)
        super().remove_directory(path)


def test_nothing_is_taken_away_but_the_artifact_itself(library: Library) -> None:
    keep(library.root / "lora-1", library.registry.layout.adapters, library.registry.disk)
    disk = Watching()
    registry = Registry.open(library.registry.layout.root, disk=disk)
    collect(registry, ALL, Looking(), [library.entry("support-v1")])
    layout = registry.layout
    trash = next(path for path in disk.gone if path.parent == layout.work)
    assert {path for path in disk.gone if trash not in (path, path.parent)} == {library.folder("support-v1")}
    assert trash.name.startswith("freed-")


@pytest.mark.parametrize(("text", "expected"), [
    ("12h", timedelta(hours=12)), ("30d", timedelta(days=30)), ("8W", timedelta(weeks=8)), ("0d", timedelta()),
])  # fmt: skip
def test_lengths_of_time(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 days", "1m", "999999d", "٣d"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match="no length of time"):
        duration(text)
