"""ingot.json against the rules of in-toto and SLSA, and against what was merged."""

from __future__ import annotations

import copy
import getpass
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import msgspec
import pytest

from ingot.errors import CheckFailed, IngotError, Interrupted, UnsafeInputError
from ingot.plan.model import Options
from ingot.record import read_record
from ingot.record.statement import MAX_RECORD_NBYTES, seal
from tests.record.makers import SHARDS, merge, sha256, write_adapter, write_base

HEX = re.compile(r"[0-9a-f]{64}\Z")
URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+\Z")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")


@pytest.fixture(scope="module")
def value(artifact: Path) -> Any:
    return json.loads((artifact / "ingot.json").read_bytes())


def test_the_statement_is_one_of_in_toto_v1(value: Any) -> None:
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(value) == {"_type", "subject", "predicateType", "predicate"}
    assert value["subject"]
    for subject in value["subject"]:
        assert HEX.match(subject["digest"]["sha256"])
        assert isinstance(subject["name"], str)
        assert isinstance(subject.get("annotations", {}), dict)
        assert set(subject) <= {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}
    names = [subject["name"] for subject in value["subject"]]
    assert len(names) == len(set(names))


def test_the_predicate_has_every_field_that_slsa_requires(value: Any) -> None:
    build, run = value["predicate"]["buildDefinition"], value["predicate"]["runDetails"]
    assert URI.match(build["buildType"])
    assert isinstance(build["externalParameters"], dict)
    assert isinstance(build["internalParameters"], dict)
    assert URI.match(run["builder"]["id"])
    for descriptor in [*build["resolvedDependencies"], *run["byproducts"]]:
        assert descriptor.keys() & {"uri", "digest", "content"}
        assert HEX.match(descriptor["digest"]["sha256"])
        assert "uri" not in descriptor or URI.match(descriptor["uri"])
    metadata = run["metadata"]
    UUID(metadata["invocationId"])
    assert RFC3339.match(metadata["startedOn"])
    assert RFC3339.match(metadata["finishedOn"])
    assert datetime.fromisoformat(metadata["startedOn"]) <= datetime.fromisoformat(metadata["finishedOn"])


def test_fields_that_slsa_does_not_know_bear_our_prefix(value: Any) -> None:
    predicate = value["predicate"]
    run = predicate["runDetails"]
    assert set(predicate) == {"buildDefinition", "runDetails"}
    known = {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert set(predicate["buildDefinition"]) == known
    extra = set(run) - {"builder", "metadata", "byproducts"}
    extra |= set(run["metadata"]) - {"invocationId", "startedOn", "finishedOn"}
    assert extra
    assert all(name.startswith("ingot_") for name in extra)


def test_the_subjects_are_all_files_but_the_record_sorted_by_name(value: Any, artifact: Path) -> None:
    on_disk = {p.name: (p.stat().st_size, sha256(p)) for p in artifact.iterdir() if p.name != "ingot.json"}
    told = {s["name"]: (s["annotations"]["size"], s["digest"]["sha256"]) for s in value["subject"]}
    assert told == on_disk
    assert list(told) == sorted(told)


def test_the_dependencies_are_the_files_of_base_and_adapter(value: Any, root: Path) -> None:
    listed = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    told = {(d["annotations"]["of"], d["name"]): (d["annotations"]["size"], d["digest"]["sha256"]) for d in listed}
    on_disk = {
        (of, p.name): (p.stat().st_size, sha256(p))
        for of, folder in (("base", "base"), ("0", "adapter"))
        for p in (root / folder).iterdir()
    }
    assert told == on_disk


def test_the_record_counts_what_was_consumed_changed_and_left_alone(value: Any) -> None:
    checks = value["predicate"]["runDetails"]["ingot_checks"]
    assert checks["adapter_tensors"] == {"total": 7, "consumed": 7, "explained": {}}
    idle = ["model.layers.1.down.weight"]  # its B is zero
    assert checks["tensors_changed"] == {"planned": 4, "changed": 3, "no_change_seen": idle}
    assert checks["tensors_untouched"] == {"planned": 2, "moved_as_bytes": 2}
    assert checks["finite"] == "every element"


def test_the_record_tells_how_the_bytes_were_made(value: Any) -> None:
    internal = value["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["formulas"] == {"W + s·B@A": 3, "the adapter's tensor": 1}
    assert internal["dtypes"] == {"compute": "F32", "accumulate": "F32", "output": ["F32"]}
    assert (internal["rounding"], internal["seed"], internal["device"]) == ("nearest", None, "cpu")
    assert {"python", "torch", "numpy", "safetensors"} <= set(internal["libraries"])


def test_inputs_from_the_hub_are_told_with_commit_and_package_url(root: Path, tmp_path: Path) -> None:
    commit, other = "a" * 40, "b" * 40
    adapter = {"name": "me/my-lora", "commit": other, "claimed_base": "org/base", "claimed_revision": commit}
    merge(root, tmp_path / "out", base={"name": "org/base", "revision": "v2", "commit": commit}, adapter=adapter)
    value = json.loads((tmp_path / "out" / "ingot.json").read_bytes())
    build = value["predicate"]["buildDefinition"]
    uris = {d["name"]: d.get("uri") for d in build["resolvedDependencies"]}
    assert uris[SHARDS[0]] == f"pkg:huggingface/org/base@{commit}#{SHARDS[0]}"
    assert uris["adapter_config.json"] == f"pkg:huggingface/me/my-lora@{other}#adapter_config.json"
    assert {d["annotations"]["commit"] for d in build["resolvedDependencies"]} == {commit, other}
    assert build["externalParameters"]["base"] == {"name": "org/base", "revision": "v2"}
    claim = {"adapter": 0, "base": "org/base", "revision": commit, "matches": True}
    assert value["predicate"]["runDetails"]["ingot_base_claims"] == [claim]


def test_no_path_user_or_host_stands_in_what_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/zaphod-beeblebrox")
    monkeypatch.setenv("USER", "zaphod-beeblebrox")
    monkeypatch.setenv("LOGNAME", "zaphod-beeblebrox")
    monkeypatch.setattr(socket, "gethostname", lambda: "heart-of-gold")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Q" * 30)
    claimed = "/home/zaphod-beeblebrox/models/tiny-base"
    merge(root, tmp_path / "out", adapter={"claimed_base": claimed})
    secrets = [
        "zaphod", "heart-of-gold", "Q" * 30, os.getcwd(), str(root), str(tmp_path), tmp_path.name, str(Path.home()),
        os.uname().nodename, getpass.getuser() + "/",
    ]  # fmt: skip
    for name in ("ingot.json", "README.md", "ingot.tensors.jsonl"):
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert [secret for secret in secrets if secret in text] == []
    record = read_record((tmp_path / "out" / "ingot.json").read_bytes())
    assert record.statement.predicate.run.base_claims[0].base == "tiny-base"


def test_two_runs_of_one_plan_have_one_identity_and_two_invocations(root: Path, artifact: Path, tmp_path: Path) -> None:
    merge(root, tmp_path / "again")
    one, two = (read_record((folder / "ingot.json").read_bytes()) for folder in (artifact, tmp_path / "again"))
    assert one.identity == two.identity
    ids = [r.statement.predicate.run.metadata.invocation_id for r in (one, two)]
    assert ids[0] != ids[1]


def test_a_resumed_run_writes_the_same_files_and_has_the_same_identity(
    root: Path, artifact: Path, tmp_path: Path
) -> None:
    with mock.patch("ingot.storage.Staging.publish", side_effect=Interrupted("ended")), pytest.raises(Interrupted):
        merge(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    outcome = merge(root, tmp_path / "out")
    assert outcome.resumed == list(SHARDS)
    for path in artifact.iterdir():
        if path.name != "ingot.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    one, two = (read_record((folder / "ingot.json").read_bytes()) for folder in (artifact, tmp_path / "out"))
    assert one.identity == two.identity


def test_the_identity_is_the_digest_of_everything_but_the_metadata(value: Any) -> None:
    kept = value["predicate"]["runDetails"]["metadata"]["ingot_identity"]
    rest = copy.deepcopy(value)
    del rest["predicate"]["runDetails"]["metadata"]
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hashlib.sha256(canonical).hexdigest() == kept


def test_another_weight_gives_another_identity(root: Path, artifact: Path, tmp_path: Path) -> None:
    merge(root, tmp_path / "out", adapter={"weight": 0.5})
    record = read_record((tmp_path / "out" / "ingot.json").read_bytes())
    assert record.recipe.adapters[0].weight == 0.5
    assert record.identity != read_record((artifact / "ingot.json").read_bytes()).identity


def test_a_record_reads_back_as_it_was_written(artifact: Path, value: Any) -> None:
    data = (artifact / "ingot.json").read_bytes()
    record = read_record(data)
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert json.loads(msgspec.json.encode(record.statement)) == value
    assert record.subjects["config.json"].sha256 == sha256(artifact / "config.json")
    assert set(record.dependencies("0")) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_changed_digit_anywhere_in_the_record_is_noticed(artifact: Path) -> None:
    data = (artifact / "ingot.json").read_bytes()
    for match in list(re.finditer(rb"[0-9]", data))[::7]:
        changed = bytearray(data)
        changed[match.start()] = ord("7") if changed[match.start()] != ord("7") else ord("8")
        with pytest.raises(CheckFailed):
            read_record(bytes(changed))


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


BUILD, RUN = ("predicate", "buildDefinition"), ("predicate", "runDetails")


@pytest.mark.parametrize(
    "change",
    [
        _set("_type", to="https://in-toto.io/Statement/v0.1"),
        _set("predicateType", to="https://slsa.dev/provenance/v0.2"),
        _set(*BUILD, "buildType", to="urn:other:merge:v1"),
        _set(*BUILD, "buildType", to=1),
        _set("subject", to={}),
        _set("subject", 0, "digest", "sha256", to="00"),
        _set("subject", 0, "digest", "sha256", to="0" * 64 + "\n"),
        _set("subject", 0, "digest", "sha256", to="A" * 64),
        _set("subject", 0, "annotations", "size", to=-1),
        _set("subject", 0, "annotations", "size", to=1.5),
        _set("subject", 0, "annotations", "size", to=True),
        _set("subject", 0, "name", to="zzz"),
        _set("subject", 1, "name", to="LICENSE"),
        _set(*BUILD, "externalParameters", "surprise", to=1),
        _set(*BUILD, "externalParameters", "options", "surprise", to=1),
        _set(*BUILD, "externalParameters", "adapters", 0, "weight", to="1"),
        _set(*RUN, "ingot_parents", to=["x"]),
    ],
)
def test_a_sealed_record_of_another_form_is_refused(value: Any, change: Callable[[Any], None]) -> None:
    changed = copy.deepcopy(value)
    change(changed)
    with pytest.raises(CheckFailed):
        read_record(seal(changed))


@pytest.mark.parametrize("name", ["../canary", "/etc/passwd", "a/b", "..", "", "C:x", "a\\b", "a\nb"])
@pytest.mark.parametrize("where", [("subject",), (*BUILD, "resolvedDependencies")])
def test_a_sealed_record_that_names_a_path_is_unsafe(value: Any, name: str, where: tuple[str, ...]) -> None:
    changed = copy.deepcopy(value)
    _set(*where, 0, "name", to=name)(changed)
    with pytest.raises(UnsafeInputError):
        read_record(seal(changed))


def test_the_record_of_a_later_major_version_asks_for_an_upgrade(value: Any) -> None:
    changed = copy.deepcopy(value)
    _set(*BUILD, "buildType", to="urn:ingot:merge:v2")(changed)
    with pytest.raises(CheckFailed) as caught:
        read_record(seal(changed))
    assert "pip install -U" in str(caught.value.hint)


def test_a_field_that_a_later_minor_version_adds_is_no_fault(value: Any) -> None:
    changed = copy.deepcopy(value)
    _set(*RUN, "ingot_signatures", to=[])(changed)
    assert read_record(seal(changed)).subjects


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"{", b'{"_type": NaN}', b"[" * 100_000, b"\xff\xfe", b"1" * 5000]
)
def test_what_is_no_record_is_refused_without_a_traceback(data: bytes) -> None:
    with pytest.raises(IngotError) as caught:
        read_record(data)
    assert caught.value.exit_code in (1, 16)


def test_a_record_that_is_too_large_is_refused() -> None:
    with pytest.raises(CheckFailed):
        read_record(b" " * (MAX_RECORD_NBYTES + 1))


def test_a_record_spelled_otherwise_is_refused(value: Any) -> None:
    with pytest.raises(CheckFailed):
        read_record(json.dumps(value).encode())


def test_the_recipe_has_every_option_of_a_plan(value: Any) -> None:
    options = value["predicate"]["buildDefinition"]["externalParameters"]["options"]
    assert set(options) == {option.name for option in fields(Options)}


def test_a_record_beside_an_input_becomes_a_parent(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter")
    (tmp_path / "base" / "ingot.json").write_bytes(b"an older record")
    merge(tmp_path, tmp_path / "out")
    record = read_record((tmp_path / "out" / "ingot.json").read_bytes())
    assert record.statement.predicate.run.parents == (hashlib.sha256(b"an older record").hexdigest(),)
