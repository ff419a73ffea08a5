"""An artifact to the Hub: large files into its store first, then one commit that makes all of them visible.

    look      what is there: which files would be sent, which are the same already, which belong to something else
    push      store, commit, compare; a reader of the branch sees what was there before, or all of the artifact

Nothing is remembered here between runs: the Hub's store knows files by their digest, so the same command goes on where
it was broken off. The commit names the one that was looked at as its parent; who pushed in between makes it fail.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationDelete, HfApi, RepoFile, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ingot.errors import CheckFailed, Interrupted, OutputError
from ingot.registry.push.hub_client import well_behaved
from ingot.registry.push.hub_errors import LOGIN, is_transient, translated, without_secrets
from ingot.registry.push.hub_upload import Addition, opened_additions, upload
from ingot.registry.push.parcel import Parcel, ParcelFile
from ingot.registry.push.pushed import Proof, Pushed, PushedFile, State
from ingot.registry.push.target import DEFAULT_BRANCH, HubTarget
from ingot.version import __version__

#: The Hub's own file: which names it keeps in the store for large files.
_OF_THE_HUB = frozenset({".gitattributes"})
_SHOWN = 6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prospect:
    """What a push would find and do.

    Attributes:
        exists, has_branch: whether the repository and the branch are there.
        head: the branch's commit; None where there is no branch.
        files: what the branch holds, by path; where it would be made, what it would begin with.
        send: files of the artifact that are not there, or are others of that name.
        delete: files of the repository that are none of the artifact's, and go.
    """

    parcel: Parcel
    target: HubTarget
    endpoint: str
    exists: bool
    has_branch: bool
    private: bool | None
    head: str | None
    files: Mapping[str, RepoFile]
    send: tuple[ParcelFile, ...]
    delete: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to be sent, at most."""
        return sum(file.nbytes for file in self.send)

    @property
    def nothing_to_do(self) -> bool:
        return self.has_branch and not self.send and not self.delete

    def as_json(self) -> dict[str, object]:
        return {
            "target": str(self.target), "exists": self.exists, "private": self.private, "head": self.head,
            "send": [file.name for file in self.send], "nbytes": self.nbytes, "delete": list(self.delete),
            "already_there": [file.name for file in self.parcel.files if file not in self.send],
        }  # fmt: skip


def look(
    parcel: Parcel,
    target: HubTarget,
    *,
    private: bool | None = None,
    create: bool = True,
    delete_others: bool = False,
    endpoint: str | None = None,
    say: Say = lambda _: None,
) -> Prospect:
    """What is at `target`, and what a push of `parcel` would do there. Changes nothing.

    Args:
        private: whether the repository must be private; None takes one that exists as it is, and makes a private one.
        create: a repository or branch that is missing may be made.
        delete_others: files of the branch that are none of the artifact's may be deleted.
        endpoint: of the Hub, when it is not $HF_ENDPOINT.

    Raises:
        OutputError: no token, no permission, no repository and `create` is False, of the other visibility, or the
            branch holds files that are none of the artifact's and `delete_others` is False.
        ResourceError: the Hub cannot be reached, or cannot answer now.
        InputChangedError: a file of the artifact is not what its record says.
    """
    if get_token() is None:
        raise OutputError("there is no token for the Hub", where=target, hint=LOGIN)
    with well_behaved(say), translated(target):
        return _look(_api(endpoint), parcel, target, private, create, delete_others)


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
        self._api = _api(prospect.endpoint)

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
        return _look(self._api, self._parcel, target, private if not first.exists else None, False, self._delete_others)

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
        """The id of the commit. Where its answer was lost, a look tells whether it was made."""
        try:
            made = self._api.create_commit(
                self._target.repository, operations, commit_message=message, commit_description=self._description(),
                revision=self._target.branch, parent_commit=prospect.head,
            )  # fmt: skip
            return made.oid
        except Exception as error:
            if not is_transient(error):
                raise
            try:
                now = _look(self._api, self._parcel, self._target, None, False, self._delete_others)
            except Exception:
                raise error from None
            if not now.nothing_to_do or now.head is None or now.head == prospect.head:
                raise
            return now.head

    def _compare(self, commit: str) -> dict[str, Proof]:
        """By what each file was held against the record. Raises CheckFailed: the commit holds something else."""
        files = _files(self._api, self._target.repository, commit)
        faults = [f"{name}: not of the artifact" for name in sorted(files.keys() - self._parcel.by_name - _OF_THE_HUB)]
        for file in self._parcel.files:
            fault = _difference(self._parcel, file, files.get(file.name))
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
                f"what the Hub has is not what was sent: {_listed(faults)}",
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


def _api(endpoint: str | None) -> HfApi:
    return HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT") or None, library_name="ingot",
                 library_version=__version__)  # fmt: skip


def _look(
    api: HfApi, parcel: Parcel, target: HubTarget, private: bool | None, create: bool, delete_others: bool
) -> Prospect:
    try:
        main = api.model_info(target.repository)
    except RepositoryNotFoundError:
        if not create:
            raise
        api.whoami()  # raises where it is not the repository that is missing, but the right to see it
        return Prospect(parcel, target, api.endpoint, False, False, private is not False, None, {}, parcel.files, ())
    if private is not None and main.private is not None and main.private != private:
        raise OutputError(
            "the repository is of another visibility", where=target,
            expected="private" if private else "public", found="private" if main.private else "public",
            hint="Change it in the repository's settings, or leave out --private and --public.",
        )  # fmt: skip
    _check_permission(api, target)
    head = _head(api, target, create) if target.branch != DEFAULT_BRANCH else main.sha
    files = _files(api, target.repository, head or main.sha)
    send = tuple(file for file in parcel.files if _difference(parcel, file, files.get(file.name)) is not None)
    others = tuple(sorted(files.keys() - parcel.by_name - _OF_THE_HUB))
    # A branch that is where main is has nothing of its own: what is deleted in it stays in main.
    own = head is not None and (target.branch == DEFAULT_BRANCH or head != main.sha)
    if others and own and not delete_others:
        raise OutputError(
            f"the repository holds files that are none of the artifact's: {_listed(others)}", where=target,
            hint="Look at them; --delete-others deletes them in the same commit.",
        )  # fmt: skip
    return Prospect(parcel, target, api.endpoint, True, head is not None, main.private, head, files, send, others)


def _head(api: HfApi, target: HubTarget, create: bool) -> str | None:
    """The commit of a branch; None where it may be made."""
    try:
        return api.model_info(target.repository, revision=target.branch).sha
    except RevisionNotFoundError:
        if not create:
            raise
        return None


def _check_permission(api: HfApi, target: HubTarget) -> None:
    """Raises the Hub's refusal before anything is read or sent. A server that cannot tell is asked no further."""
    try:
        api.auth_check(target.repository, write=True)
    except RepositoryNotFoundError:
        raise
    except HfHubHTTPError as error:
        if error.response.status_code != 404:
            raise


def _files(api: HfApi, repository: str, revision: str | None) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(repository, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _difference(parcel: Parcel, file: ParcelFile, there: RepoFile | None) -> str | None:
    """In what the Hub's file is not ours; None where it is."""
    if there is None:
        return "missing"
    nbytes = there.size if there.lfs is None else there.lfs.size
    if nbytes != file.nbytes:
        return f"{nbytes} bytes instead of {file.nbytes}"
    if there.lfs is not None:
        return None if there.lfs.sha256 == file.sha256 else f"sha256 {there.lfs.sha256}"
    return None if parcel.git_blob(file) == there.blob_id else f"another content (git blob {there.blob_id[:12]})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
