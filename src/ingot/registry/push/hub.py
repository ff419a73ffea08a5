"""An artifact to the Hub: large files into its store first, then one commit that makes all of them visible.

    look      what is there: which files would be sent, which are the same already, which belong to something else
    push      store, commit, compare; a reader of the branch sees what was there before, or all of the artifact

Nothing is remembered here between runs: the Hub's store knows files by their digest, so the same command goes on where
it was broken off. The commit names the one that was looked at as its parent; who pushed in between makes it fail.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

from huggingface_hub import CommitOperationDelete, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented there

from ingot.errors import CheckFailed, Interrupted
from ingot.registry.push.hub_client import well_behaved
from ingot.registry.push.hub_errors import may_be_done, translated, without_secrets
from ingot.registry.push.hub_look import (
    OF_THE_HUB,
    Prospect,
    Say,
    api_at,
    difference,
    files_of,
    listed,
    look,
    look_with,
)
from ingot.registry.push.hub_upload import Addition, opened_additions, upload
from ingot.registry.push.parcel import ParcelFile
from ingot.registry.push.pushed import Proof, Pushed, PushedFile, State
from ingot.registry.push.target import DEFAULT_BRANCH
from ingot.version import __version__

__all__ = ["Prospect", "look", "push"]


def push(
    prospect: Prospect,
    *,
    message: str | None = None,
    delete_others: bool = False,
    read_back: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    say: Say = lambda _: None,
) -> Pushed:
    """Do what `look` found to be done, and compare what is there then with the record.

    Args:
        message: the commit's first line.
        read_back: download every file again and compare its bytes, not only the Hub's digests.
        progress: is told of every number of bytes, of `prospect.nbytes` to be sent (and of the artifact's, read back).

    Raises:
        OutputError, ResourceError, InputChangedError: as `look`.
        CheckFailed: what the Hub has is not what was sent.
        Interrupted.
    """
    with well_behaved(say), translated(prospect.target):
        return _Push(prospect, delete_others, progress, stop or threading.Event()).run(message, read_back)


class _Push:
    """One push under way."""

    def __init__(
        self, prospect: Prospect, delete_others: bool, progress: Callable[[int], None], stop: threading.Event
    ) -> None:
        self._first = prospect
        self._parcel, self._target = prospect.parcel, prospect.target
        self._delete_others = delete_others
        self._progress, self._stop = progress, stop
        self._api = api_at(prospect.endpoint)

    def run(self, message: str | None, read_back: bool) -> Pushed:
        prospect = self._make_room()
        if prospect.nothing_to_do:
            assert prospect.head is not None
            commit, sent = prospect.head, dict[str, int]()
        else:
            commit, sent = self._send(prospect, message)
        proofs = self._compare(commit)
        if read_back:
            proofs = self._read_back(commit)
        files = tuple(
            PushedFile(file.name, file.nbytes, file.sha256, State.SENT if file.name in sent else State.THERE,
                       proofs[file.name])
            for file in self._parcel.files
        )  # fmt: skip
        return Pushed(
            target=str(self._target),
            url=without_secrets(f"{self._api.endpoint}/{self._target.repository}/tree/{commit}"),
            commit=commit,
            identity=self._parcel.identity,
            private=prospect.private,
            created=not self._first.exists,
            changed=commit != prospect.head,
            files=files,
            deleted=prospect.delete,
            nbytes_sent=sum(sent.values()),
        )

    def _make_room(self) -> Prospect:
        """The repository and the branch, made where they are missing; then another look."""
        first, target = self._first, self._target
        private = first.private is not False
        if not first.exists:
            self._check_stop()
            self._api.create_repo(target.repository, private=private)
        if not first.has_branch and target.branch != DEFAULT_BRANCH:
            self._check_stop()
            self._api.create_branch(target.repository, branch=target.branch, exist_ok=True)
        elif first.exists:
            return first
        return look_with(
            self._api, self._parcel, target, private if not first.exists else None, False, self._delete_others
        )

    def _send(self, prospect: Prospect, message: str | None) -> tuple[str, dict[str, int]]:
        """The commit that holds all of it, and the bytes sent, by name."""
        repository, branch = self._target.repository, self._target.branch
        with opened_additions(self._parcel, prospect.send, self._progress, self._stop) as additions:
            self._check_stop()
            upload(self._api, repository, branch, additions)
            self._check_stop()
            deletions = [CommitOperationDelete(path, is_folder=False) for path in prospect.delete]
            commit = self._commit(prospect, [*deletions, *additions], message or self._message())
            for one in additions:
                one.settle()
        return commit, {one.file.name: one.nbytes_sent for one in additions if one.was_sent}

    def _commit(self, prospect: Prospect, operations: list[CommitOperationDelete | Addition], message: str) -> str:
        """The id of the commit that holds all of it: this one, or, where that seems to have failed, the one there."""
        try:
            made = self._api.create_commit(
                self._target.repository, operations, commit_message=message, commit_description=self._description(),
                revision=self._target.branch, parent_commit=prospect.head,
            )  # fmt: skip
            return made.oid
        except Exception as error:
            if not may_be_done(error):
                raise
            try:
                now = look_with(self._api, self._parcel, self._target, None, False, self._delete_others)
            except Exception:
                raise error from None
            if not now.nothing_to_do or now.head is None or now.head == prospect.head:
                raise
            return now.head

    def _compare(self, commit: str) -> dict[str, Proof]:
        """By what each file was held against the record. Raises CheckFailed: the commit holds something else."""
        files = files_of(self._api, self._target.repository, commit)
        faults = [f"{name}: not of the artifact" for name in sorted(files.keys() - self._parcel.by_name - OF_THE_HUB)]
        for file in self._parcel.files:
            fault = difference(self._parcel, file, files.get(file.name))
            if fault is not None:
                faults.append(f"{file.name}: {fault}")
        self._refuse(faults, commit)
        return {
            file.name: Proof.GIT_BLOB if files[file.name].lfs is None else Proof.SHA256 for file in self._parcel.files
        }

    def _read_back(self, commit: str) -> dict[str, Proof]:
        """Every file, downloaded and hashed. Raises CheckFailed."""
        other = [file.name for file in self._parcel.files if not self._comes_back(file, commit)]
        self._refuse([f"{name}: other bytes come back" for name in other], commit)
        return {file.name: Proof.READ_BACK for file in self._parcel.files}

    def _comes_back(self, file: ParcelFile, commit: str) -> bool:
        url = hf_hub_url(self._target.repository, file.name, revision=commit, endpoint=self._api.endpoint)
        digest, nbytes = hashlib.sha256(), 0
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            for piece in response.iter_bytes(1 << 20):
                self._check_stop()
                digest.update(piece)
                nbytes += len(piece)
                self._progress(len(piece))
                if nbytes > file.nbytes:
                    return False
        return digest.hexdigest() == file.sha256

    def _refuse(self, faults: Sequence[str], commit: str) -> None:
        if faults:
            raise CheckFailed(
                f"what the Hub has is not what was sent: {listed(faults)}",
                where=f"{self._target}, commit {commit}",
                hint="Do not use this commit. Run the same command again: it sends what differs.",
            )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted("the push was interrupted")

    def _message(self) -> str:
        return f"Artifact {self._parcel.identity[:12]}, by ingot {__version__}"

    def _description(self) -> str:
        return f"ingot identity: {self._parcel.identity}"
