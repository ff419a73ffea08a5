"""What is at the target, and what a push would do there: nothing is changed by a look."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import HfApi, RepoFile, get_session, get_token, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented there

from ingot.errors import OutputError
from ingot.record.card import CARD_NAME
from ingot.registry.push.hub_client import well_behaved
from ingot.registry.push.hub_errors import LOGIN, translated, without_secrets
from ingot.registry.push.parcel import Parcel, ParcelFile
from ingot.registry.push.target import DEFAULT_BRANCH, HubTarget
from ingot.version import __version__

#: The Hub's own file: which names it keeps in the store for large files.
OF_THE_HUB = frozenset({".gitattributes"})
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
    need_token(target)
    with well_behaved(say), translated(target):
        return look_with(api_at(endpoint), parcel, target, private, create, delete_others)


def need_token(target: HubTarget) -> None:
    """Raises OutputError: nobody is logged in."""
    if get_token() is None:
        raise OutputError("there is no token for the Hub", where=target, hint=LOGIN)


def api_at(endpoint: str | None) -> HfApi:
    return HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT") or None, library_name="ingot",
                 library_version=__version__)  # fmt: skip


def look_with(
    api: HfApi, parcel: Parcel, target: HubTarget, private: bool | None, create: bool, delete_others: bool
) -> Prospect:
    """`look`, with errors as they come from huggingface_hub."""
    try:
        main = api.model_info(target.repository)
    except RepositoryNotFoundError:
        if not create:
            raise
        api.whoami()  # raises where it is not the repository that is missing, but the right to see it
        _check_card(api, parcel, parcel.files, target)
        return Prospect(parcel, target, api.endpoint, False, False, private is not False, None, {}, parcel.files, ())
    if private is not None and main.private is not None and main.private != private:
        raise OutputError(
            "the repository is of another visibility", where=target,
            expected="private" if private else "public", found="private" if main.private else "public",
            hint="Change it in the repository's settings, or leave out --private and --public.",
        )  # fmt: skip
    _check_permission(api, target)
    head = _head(api, target, create) if target.branch != DEFAULT_BRANCH else main.sha
    files = files_of(api, target.repository, head or main.sha)
    send = tuple(file for file in parcel.files if difference(parcel, file, files.get(file.name)) is not None)
    others = tuple(sorted(files.keys() - parcel.by_name - OF_THE_HUB))
    _check_card(api, parcel, send, target)
    # A branch that is where main is has nothing of its own: what is deleted in it stays in main.
    own = head is not None and (target.branch == DEFAULT_BRANCH or head != main.sha)
    if others and own and not delete_others:
        raise OutputError(
            f"the repository holds files that are none of the artifact's: {listed(others)}", where=target,
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


def _check_card(api: HfApi, parcel: Parcel, send: Sequence[ParcelFile], target: HubTarget) -> None:
    """Raises OutputError: the Hub would refuse the card's metadata with the commit, when all large files were sent."""
    card = next((file for file in send if file.name == CARD_NAME), None)
    if card is None:
        return
    with parcel.open(card) as opened:
        content = opened.read(0, opened.nbytes).decode("utf-8", "replace")
    asked = {"content": content, "repoType": "model"}
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json=asked, headers=build_hf_headers())
    if answer.status_code == 400:
        try:
            hf_raise_for_status(answer)
        except HfHubHTTPError as error:
            said = without_secrets(error.server_message or "it does not say why")
            raise OutputError(f"the Hub does not take the metadata of {CARD_NAME}: {said}", where=target,
                              hint="Make the artifact from a base that is named by its Hub id.") from error  # fmt: skip


def files_of(api: HfApi, repository: str, revision: str | None) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(repository, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def difference(parcel: Parcel, file: ParcelFile, there: RepoFile | None) -> str | None:
    """In what the Hub's file is not ours; None where it is."""
    if there is None:
        return "missing"
    nbytes = there.size if there.lfs is None else there.lfs.size
    if nbytes != file.nbytes:
        return f"{nbytes} bytes instead of {file.nbytes}"
    if there.lfs is not None:
        return None if there.lfs.sha256 == file.sha256 else f"sha256 {there.lfs.sha256}"
    return None if parcel.git_blob(file) == there.blob_id else f"another content (git blob {there.blob_id[:12]})"


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
