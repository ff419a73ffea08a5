"""Pushes to a stand-in over real HTTP, by huggingface_hub's own client, which also reads back what arrived."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ingot.errors import (
    CheckFailed,
    IngotError,
    InputChangedError,
    Interrupted,
    OutputError,
    ResourceError,
)
from ingot.record import verify
from ingot.registry.push import HubTarget, Parcel, Pushed
from ingot.registry.push.hub import look, push
from ingot.registry.push.pushed import Proof, State
from tests.cli import toys
from tests.registry.push.conftest import packed
from tests.registry.push.hub_server import READ_ONLY, SIGNATURE, TOKEN, Blob, Hub

TARGET = HubTarget("acme/support")
SHARD = "model-00001-of-00002.safetensors"


def pushed(parcel: Parcel, target: HubTarget = TARGET, **asked: Any) -> Pushed:
    """Look, then push, as the command does."""
    looking = {key: asked.pop(key) for key in ("private", "create") if key in asked}
    others = asked.get("delete_others", False)
    return push(look(parcel, target, delete_others=others, **looking), **asked)


def refused(parcel: Parcel, kind: type[IngotError], target: HubTarget = TARGET, **asked: Any) -> IngotError:
    with pytest.raises(kind) as caught:
        pushed(parcel, target, **asked)
    assert type(caught.value) is kind
    return caught.value


def download(hub: Hub, to: Path, revision: str = "main") -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download("acme/support", revision=revision, cache_dir=to, endpoint=hub.endpoint))


def states(done: Pushed) -> dict[str, State]:
    return {file.name: file.state for file in done.files}


def test_what_was_pushed_downloads_verifies_and_loads(hub: Hub, parcel: Parcel, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    done = pushed(parcel)
    assert done.created
    assert done.changed
    assert done.private is True
    assert done.commit == hub.repositories["acme/support"].branches["main"]
    assert set(states(done).values()) == {State.SENT}
    assert {file.name: file.sha256 for file in done.files} == {file.name: file.sha256 for file in parcel.files}
    assert done.nbytes_sent == sum(path.stat().st_size for path in parcel.path.iterdir())
    there = download(hub, tmp_path / "cache")
    found = verify(there, depth="read")
    assert found.ok, found.verdict
    assert found.identity == parcel.identity
    words = torch.tensor([[3, 5, 8, 1]])
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (there, parcel.path)]
    assert torch.equal(*(model(words).logits for model in models))


def test_large_files_go_in_parts_where_the_hub_wants_that(hub: Hub, parcel: Parcel, tmp_path: Path) -> None:
    hub.part_nbytes = 1000
    pushed(parcel)
    large = parcel.by_name[SHARD]
    assert hub.count("PUT", large.sha256) == -(-large.nbytes // 1000)
    assert verify(download(hub, tmp_path / "cache"), depth="read").ok


def test_a_reader_never_sees_a_part_of_it(hub: Hub, parcel: Parcel) -> None:
    seen = []

    def watch(method: str, path: str) -> None:
        if method == "PUT" or "/commit/" in path:
            seen.append(set(hub.repositories["acme/support"].head().files))

    hub.faults.before = watch
    pushed(parcel)
    assert len(seen) == 5  # four large files and the commit
    assert all(files == {".gitattributes"} for files in seen)
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes", *parcel.by_name}


def test_the_same_again_sends_nothing_and_commits_nothing(hub: Hub, parcel: Parcel) -> None:
    first = pushed(parcel)
    before, commits = dict(hub.received), len(hub.repositories["acme/support"].commits)
    again = pushed(parcel)
    assert not again.changed
    assert not again.created
    assert again.commit == first.commit
    assert again.nbytes_sent == 0
    assert set(states(again).values()) == {State.THERE}
    assert (dict(hub.received), len(hub.repositories["acme/support"].commits)) == (before, commits)


def test_one_file_that_differs_is_the_one_that_is_sent(hub: Hub, artifact: Path, parcel: Parcel) -> None:
    pushed(parcel)
    (artifact / "model.sig").write_bytes(b"a signature, made later")
    done = pushed(packed(artifact))
    assert [name for name, state in states(done).items() if state is State.SENT] == ["model.sig"]
    assert done.nbytes_sent == 23


def test_a_push_that_was_cut_goes_on_with_what_is_missing(hub: Hub, parcel: Parcel, tmp_path: Path) -> None:
    large = parcel.by_name[SHARD]
    hub.faults.drop_of, hub.faults.drop_after, hub.faults.drops = large.sha256, 3000, 1000
    error = refused(parcel, ResourceError)
    assert error.exit_code == 14
    assert "Run the same command again" in (error.hint or "")
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes"}
    hub.faults.drops = 0
    before = dict(hub.received)
    done = pushed(parcel)
    assert {sha256 for sha256, nbytes in hub.received.items() if nbytes != before.get(sha256)} == {large.sha256}
    assert done.files[[file.name for file in done.files].index(SHARD)].state is State.SENT
    assert states(done)["model-00002-of-00002.safetensors"] is State.THERE
    assert verify(download(hub, tmp_path / "cache"), depth="read").ok


@pytest.mark.parametrize("part_nbytes", [0, 1000])
def test_a_short_disturbance_is_survived_and_counted_once(hub: Hub, parcel: Parcel, part_nbytes: int) -> None:
    hub.part_nbytes = part_nbytes
    hub.faults.drop_after, hub.faults.drops = 900, 3
    hub.faults.answers = [("PUT", "/store/", 500, "an internal error"), ("POST", "/lfs/objects/batch", 503, "busy")]
    steps: list[int] = []
    told: list[str] = []
    done = pushed(parcel, progress=steps.append, say=told.append)
    assert sum(steps) == parcel.nbytes == done.nbytes_sent
    assert any("Retrying" in line for line in told)
    assert not any(SIGNATURE in line for line in told)


def test_a_commit_whose_answer_was_lost_is_found(hub: Hub, parcel: Parcel) -> None:
    hub.faults.lose = ["/commit/main"]
    done = pushed(parcel)
    assert done.changed
    assert len(hub.repositories["acme/support"].commits) == 2


def test_a_commit_that_failed_is_made_by_the_same_command(hub: Hub, parcel: Parcel) -> None:
    hub.faults.answers = [("POST", "/commit/main", 500, "an internal error")]
    error = refused(parcel, ResourceError)
    assert "HTTP 500" in error.message
    before = dict(hub.received)
    assert pushed(parcel).changed
    assert dict(hub.received) == before


def test_somebody_elses_commit_in_between_is_not_overwritten(hub: Hub, parcel: Parcel) -> None:
    repository = hub.create("acme/support")

    def meddle(method: str, path: str) -> None:
        if "/commit/" in path:
            repository.add("main", {**repository.head().files, "README.md": Blob(b"# mine")}, "mine")

    hub.faults.before = meddle
    error = refused(parcel, OutputError)
    assert error.exit_code == 15
    assert "meanwhile" in error.message
    assert repository.head().files["README.md"].data == b"# mine"


def test_two_who_push_the_same_at_once_both_arrive(hub: Hub, parcel: Parcel) -> None:
    others: list[Pushed] = []

    def meddle(method: str, path: str) -> None:
        if "/commit/" in path:
            hub.faults.before = lambda method, path: None
            other = threading.Thread(target=lambda: others.append(push(look(parcel, TARGET))))
            other.start()
            other.join()

    hub.faults.before = meddle
    done = pushed(parcel)
    assert done.commit == others[0].commit == hub.repositories["acme/support"].branches["main"]
    assert len(hub.repositories["acme/support"].commits) == 2


def test_digests_that_came_out_wrong_fail_the_check(hub: Hub, parcel: Parcel) -> None:
    hub.faults.store_wrong = True
    error = refused(parcel, CheckFailed)
    assert error.exit_code == 1
    assert SHARD in error.message
    assert "README.md" not in error.message
    hub.faults.store_wrong = False
    assert pushed(parcel).changed


def test_bytes_that_came_out_wrong_are_found_by_reading_back(hub: Hub, parcel: Parcel) -> None:
    hub.faults.damage = True
    error = refused(parcel, CheckFailed, read_back=True)
    assert "other bytes come back" in error.message
    assert SHARD in error.message


def test_reading_back_proves_every_file(hub: Hub, parcel: Parcel) -> None:
    steps: list[int] = []
    done = pushed(parcel, read_back=True, progress=steps.append)
    assert {file.proof for file in done.files} == {Proof.READ_BACK}
    assert sum(steps) == 2 * parcel.nbytes
    assert {file.proof for file in pushed(parcel).files} == {Proof.SHA256, Proof.GIT_BLOB}


def old_model(hub: Hub) -> dict[str, Blob]:
    repository = hub.create("acme/support")
    old = {
        "model-00003-of-00003.safetensors": Blob(b"old"),
        "images/plot.png": Blob(b"old"),
        "config.json": Blob(b"{}"),
    }
    repository.add("main", {**repository.head().files, **old}, "the model before")
    return repository.head().files


def test_files_of_another_model_are_not_mixed_in(hub: Hub, parcel: Parcel) -> None:
    old = old_model(hub)
    error = refused(parcel, OutputError)
    assert "images/plot.png, model-00003-of-00003.safetensors" in error.message
    assert "--delete-others" in (error.hint or "")
    assert hub.repositories["acme/support"].head().files == old
    assert not hub.count("PUT", "/store/")


def test_others_are_deleted_in_the_very_commit(hub: Hub, parcel: Parcel, tmp_path: Path) -> None:
    old_model(hub)
    done = pushed(parcel, delete_others=True)
    assert done.deleted == ("images/plot.png", "model-00003-of-00003.safetensors")
    repository = hub.repositories["acme/support"]
    assert set(repository.head().files) == {".gitattributes", *parcel.by_name}
    assert len(repository.commits) == 3
    assert verify(download(hub, tmp_path / "cache"), depth="read").ok


def test_the_repositorys_gitignore_leaves_nothing_out(hub: Hub, parcel: Parcel) -> None:
    repository = hub.create("acme/support")
    repository.add("main", {**repository.head().files, ".gitignore": Blob(b"*.safetensors\n*.json\n")}, "ignore")
    pushed(parcel, delete_others=True)
    assert set(repository.head().files) == {".gitattributes", *parcel.by_name}


def test_a_branch_is_made_and_holds_the_artifact_alone(hub: Hub, parcel: Parcel, tmp_path: Path) -> None:
    old = old_model(hub)
    done = pushed(parcel, HubTarget("acme/support", "v2/q4"))
    repository = hub.repositories["acme/support"]
    assert repository.head().files == old
    assert set(repository.head("v2/q4").files) == {".gitattributes", *parcel.by_name}
    assert done.target == "hf://acme/support@v2/q4"
    assert verify(download(hub, tmp_path / "cache", "v2/q4"), depth="read").ok
    assert not pushed(parcel, HubTarget("acme/support", "v2/q4")).changed


def test_a_repository_and_a_branch_are_made_together(hub: Hub, parcel: Parcel) -> None:
    done = pushed(parcel, HubTarget("acme/support", "v2"), private=False)
    assert done.created
    assert done.private is False
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes"}
    assert set(hub.repositories["acme/support"].head("v2").files) == {".gitattributes", *parcel.by_name}


def test_nothing_is_made_that_was_not_to_be_made(hub: Hub, parcel: Parcel) -> None:
    assert "no such repository" in refused(parcel, OutputError, create=False).message
    hub.create("acme/support")
    error = refused(parcel, OutputError, HubTarget("acme/support", "v2"), create=False)
    assert "no such branch" in error.message
    assert not hub.count("POST", "/api/repos") + hub.count("POST", "/branch/")


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, parcel: Parcel) -> None:
    hub.create("acme/support", private=False)
    error = refused(parcel, OutputError, private=True)
    assert (error.expected, error.found) == ("private", "public")
    assert not hub.count("PUT", "")
    assert pushed(parcel).private is False


def test_no_token_is_told_before_anything_is_asked(hub: Hub, parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    error = refused(parcel, OutputError)
    assert "hf auth login" in (error.hint or "")
    assert hub.requests == []


@pytest.mark.parametrize(("exists", "word"), [(True, "accept the token"), (False, "accept the token")])
def test_a_token_that_is_not_known(
    hub: Hub, parcel: Parcel, monkeypatch: pytest.MonkeyPatch, exists: bool, word: str
) -> None:
    if exists:
        hub.create("acme/support")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    error = refused(parcel, OutputError)
    assert word in error.message
    assert "hf auth login" in (error.hint or "")


def test_a_token_that_only_reads_is_refused_before_anything_is_sent(
    hub: Hub, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("acme/support")
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    error = refused(parcel, OutputError)
    assert error.exit_code == 15
    assert "write" in error.message
    assert not hub.count("POST", "")
    refused(parcel, OutputError, HubTarget("somebody-else/support"))


@pytest.mark.parametrize(
    ("fault", "kind", "word"),
    [
        (("POST", "/preupload/", 403, "no"), OutputError, "may not do this"),
        (("POST", "/preupload/", 400, "bad name"), OutputError, "does not take this: bad name"),
        (("POST", "/preupload/", 429, "slow down"), None, ""),  # the client waits and tries again
        (("POST", "/lfs/objects/batch", 413, "too much"), ResourceError, "no room"),
        (("PUT", "/store/", 403, "Request has expired"), OutputError, "may not do this"),
        (("POST", "/commit/", 403, "Private repository storage limit reached"), ResourceError, "no room"),
        (("POST", "/commit/", 409, "conflict"), OutputError, "meanwhile"),
        (("POST", "/api/repos/create", 402, "Payment required"), ResourceError, "no room"),
        (("POST", "/api/repos/create", 500, "oh"), ResourceError, "HTTP 500"),
        (("GET", "/tree/", 502, "oh"), ResourceError, "HTTP 502"),
    ],
)
def test_every_refusal_has_its_class_and_leaves_nothing_visible(
    hub: Hub, parcel: Parcel, fault: tuple[str, str, int, str], kind: type[IngotError] | None, word: str
) -> None:
    hub.faults.answers = [fault]
    if kind is not None:
        error = refused(parcel, kind)
        assert word in error.message
        repository = hub.repositories.get("acme/support")
        assert repository is None or set(repository.head().files) == {".gitattributes"}
    hub.faults.answers = []
    assert pushed(parcel).changed


def test_metadata_that_the_hub_refuses_is_found_before_anything_is_sent(hub: Hub, parcel: Parcel) -> None:
    said = "license mine is not valid"
    hub.faults.answers = [("POST", "/api/validate-yaml", 400, said)]
    assert said in refused(parcel, OutputError).message
    assert {path for method, path in hub.requests if method != "GET"} == {"/api/validate-yaml"}


def test_a_base_in_a_folder_is_no_metadata_that_the_hub_refuses(hub: Hub, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "base", tmp_path / "my base")
    assert toys.run_here(f"merge 'my base' {made / 'lora'} -o out -q", tmp_path) == 0
    assert pushed(packed(tmp_path / "out")).changed


def test_a_full_account_is_told_as_such(hub: Hub, parcel: Parcel) -> None:
    hub.faults.no_lfs_room = True
    error = refused(parcel, ResourceError)
    assert "no room for this" in error.message
    assert "storage limit reached" in error.message


def test_no_connection_and_offline_mode(hub: Hub, parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ResourceError, match="connection to the Hub failed"):
        look(parcel, TARGET, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused(parcel, ResourceError)
    assert error.hint == "Unset HF_HUB_OFFLINE."


def test_a_damaged_file_is_not_even_stored(hub: Hub, parcel: Parcel) -> None:
    damage(parcel.path / SHARD)
    error = refused(parcel, InputChangedError)
    assert error.exit_code == 17
    assert SHARD in error.message
    assert parcel.by_name[SHARD].sha256 not in hub.store
    assert set(hub.repositories["acme/support"].head().files) == {".gitattributes"}


def test_a_damaged_small_file_does_not_reach_a_commit(hub: Hub, parcel: Parcel) -> None:
    damage(parcel.path / "tokenizer.json")
    refused(parcel, InputChangedError)
    assert not hub.count("POST", "/commit/")


def test_a_file_of_another_length_is_refused(hub: Hub, parcel: Parcel) -> None:
    with open(parcel.path / "tokenizer.json", "a") as file:
        file.write(" ")
    refused(parcel, InputChangedError)
    assert not hub.count("POST", "/commit/")


def test_the_user_stops_it_and_it_goes_on(hub: Hub, parcel: Parcel) -> None:
    stop = threading.Event()
    hub.faults.before = lambda method, path: stop.set() if "/lfs/objects/batch" in path else None
    with pytest.raises(Interrupted):
        pushed(parcel, stop=stop)
    assert not hub.count("POST", "/commit/")
    assert pushed(parcel).changed


def damage(path: Path) -> None:
    """One bit of the last byte; length and times stay."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def chunks(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """hf_xet as huggingface_hub uses it: it reads files by their path, and says which sha256 it has read."""
    import hashlib

    from huggingface_hub import _commit_api, constants

    took: list[str] = []

    def take(*, additions: list[Any], **_: Any) -> None:
        for one in additions:
            data = Path(one.path_or_fileobj).read_bytes()
            sha256 = one.upload_info.sha256.hex() if one.upload_info.is_hashed else hashlib.sha256(data).hexdigest()
            hub.store[sha256] = data
            one.upload_info.sha256 = bytes.fromhex(sha256)
            took.append(one.path_in_repo)

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("ingot.registry.push.hub_client.find_spec", lambda name: name)
    monkeypatch.setattr(_commit_api, "is_xet_available", lambda: True)
    monkeypatch.setattr(_commit_api, "_upload_xet_files", take)
    return took


def test_files_in_chunks_are_counted_and_arrive(hub: Hub, parcel: Parcel, chunks: list[str]) -> None:
    steps: list[int] = []
    done = pushed(parcel, progress=steps.append)
    assert SHARD in chunks
    assert sum(steps) == parcel.nbytes == done.nbytes_sent
    assert set(states(done).values()) == {State.SENT}


def test_chunks_of_a_damaged_file_do_not_reach_a_commit(hub: Hub, parcel: Parcel, chunks: list[str]) -> None:
    damage(parcel.path / SHARD)
    refused(parcel, InputChangedError)
    assert not hub.count("POST", "/commit/")


def test_a_hub_without_chunks_is_told_how_to_be_used(hub: Hub, parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    error = refused(parcel, ResourceError)
    assert "HF_HUB_DISABLE_XET=1" in (error.hint or ""), error.message
    assert TOKEN not in error.message
