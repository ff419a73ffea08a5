"""What a push did, as plain data: it is shown, and it is what the registry remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    """Whether a file's bytes went over the network."""

    SENT = "sent"
    THERE = "already there"


class Proof(StrEnum):
    """By what the other side was held against the record after the push."""

    SHA256 = "sha256"  # of the large-file store, under which it keeps the bytes
    GIT_BLOB = "git blob"  # the id that git gave the bytes it received
    READ_BACK = "read back"  # every byte was downloaded again


@dataclass(frozen=True)
class PushedFile:
    name: str
    nbytes: int
    sha256: str
    state: State
    proof: Proof


@dataclass(frozen=True)
class Pushed:
    """An artifact at its new place.

    Attributes:
        target: as it would be typed again.
        url: of the very commit, for people.
        commit: its id; pins these bytes for ever.
        identity: of the artifact.
        created: a repository was made for it.
        changed: a commit was made; False where all was there already.
        deleted: files of the repository that the same commit removed.
        nbytes_sent: bytes that were read to be sent; with hf_xet, which sends chunks that are new, an upper bound.
    """

    target: str
    url: str
    commit: str
    identity: str
    private: bool | None
    created: bool
    changed: bool
    files: tuple[PushedFile, ...]
    deleted: tuple[str, ...]
    nbytes_sent: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)
