"""Files on their way to the Hub: read through the descriptor that was opened, hashed as they go.

A file whose bytes are not those of the record ends its own transfer before the last byte is sent, so what is damaged is
not even stored. hf_xet reads files by itself, and hashes them as it does; its digest is compared before the commit.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd

from ingot.errors import InputChangedError, Interrupted
from ingot.registry.push.hub_client import sends_chunks
from ingot.registry.push.parcel import Parcel, ParcelFile
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_AT_ONCE = 4
#: Stands in for the repository's .gitignore, which would have files left out without a word.
_IGNORE_NOTHING = "# nothing\n"


class Addition(CommitOperationAdd):
    """A file to be added, whose reading is counted, checked, and ended when the user stops the run."""

    def __init__(self, file: ParcelFile, opened: InputFile, tick: Callable[[int], None], stop: threading.Event) -> None:
        self.file = file
        self.opened = opened
        self.seen = _Seen(file, tick, stop)
        super().__init__(path_in_repo=file.name, path_or_fileobj=str(opened.real))
        if not sends_chunks():
            self.upload_info.sha256 = bytes.fromhex(file.sha256)  # saves a pass over the file; proved while sending

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[Any]:  # noqa: ARG002 - huggingface_hub's signature
        """The file, for whoever sends it."""
        yield _Reader(self.opened, self.seen)

    @property
    def went_in_chunks(self) -> bool:
        """Whether hf_xet has sent it: then its digest is known although nobody here has read it."""
        return sends_chunks() and self.upload_info.is_hashed

    @property
    def was_sent(self) -> bool:
        """Whether its bytes went over the network, as far as is known: hf_xet sends the chunks that are new."""
        return self.went_in_chunks or self.seen.nbytes > 0 or not self.file.nbytes

    @property
    def nbytes_sent(self) -> int:
        return self.file.nbytes if self.went_in_chunks else self.seen.nbytes

    def check(self) -> None:
        """After the upload. Raises InputChangedError: the file was written to, or is not what its record says."""
        self.opened.check_unchanged()
        if self.went_in_chunks and self.upload_info.sha256.hex() != self.file.sha256:
            raise _not_as_recorded(self.file, self.upload_info.sha256.hex())

    def settle(self) -> None:
        """Count what was not read here as done."""
        self.seen.settle()


class _Seen:
    """How much of a file was read from its beginning, and the digest of that: a part that is read again counts once."""

    def __init__(self, file: ParcelFile, tick: Callable[[int], None], stop: threading.Event) -> None:
        self.nbytes = 0
        self._counted = 0
        self._file, self._tick, self._stop = file, tick, stop
        self._digest = hashlib.sha256()

    def take(self, begin: int, piece: memoryview) -> None:
        """Bytes of the file at `begin`.

        Raises:
            Interrupted: the user stopped the run.
            InputChangedError: with these the file is whole, and is not what its record says.
        """
        if self._stop.is_set():
            raise Interrupted("the push was interrupted")
        new = piece[self.nbytes - begin :] if begin <= self.nbytes < begin + len(piece) else piece[:0]
        if not len(new):
            return
        self._digest.update(new)
        self.nbytes += len(new)
        if self.nbytes == self._file.nbytes and self._digest.hexdigest() != self._file.sha256:
            raise _not_as_recorded(self._file, self._digest.hexdigest())
        self._counted += len(new)
        self._tick(len(new))

    def settle(self) -> None:
        """Tell the progress that nothing more will be read."""
        self._tick(self._file.nbytes - self._counted)
        self._counted = self._file.nbytes


class _Reader(io.RawIOBase):
    """An open file as huggingface_hub and httpx want it. Closing it closes nothing."""

    def __init__(self, opened: InputFile, seen: _Seen) -> None:
        super().__init__()
        self._opened, self._seen, self._at = opened, seen, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._opened.nbytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        piece = view[: max(0, self._opened.nbytes - self._at)]
        if len(piece):
            self._opened.read_into(piece, self._at)
            self._seen.take(self._at, piece)
        self._at += len(piece)
        return len(piece)


@contextmanager
def opened_additions(
    parcel: Parcel, files: Sequence[ParcelFile], tick: Callable[[int], None], stop: threading.Event
) -> Iterator[list[Addition]]:
    """One addition a file, all open until the commit is made."""
    with ExitStack() as stack:
        yield [Addition(file, stack.enter_context(parcel.open(file)), tick, stop) for file in files]


def upload(api: HfApi, repository: str, branch: str, additions: Sequence[Addition]) -> None:
    """Put the large ones among `additions` into the Hub's store, where no commit names them yet.

    What the store has already is not sent. Small ones are read only for the commit.
    """
    # hf_xet sends one file through many connections by itself, and says nothing of how far it is.
    for group in [[one] for one in additions] if sends_chunks() else [list(additions)]:
        api.preupload_lfs_files(
            repository, additions=group, revision=branch, num_threads=_AT_ONCE, free_memory=False,
            gitignore_content=_IGNORE_NOTHING,
        )  # fmt: skip
        for one in group:
            one.check()
            if one.went_in_chunks:
                one.settle()


def _not_as_recorded(file: ParcelFile, found: str) -> InputChangedError:
    return InputChangedError("a file of the artifact is not what its record says", where=file.name,
                             expected=file.sha256, found=found, hint="Run `ingot verify --read` on it.")  # fmt: skip
