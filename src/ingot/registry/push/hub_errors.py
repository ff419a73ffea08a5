"""What the Hub and the way to it can answer, as our errors: one sentence, a way out, and the right exit code.

    OutputError 15     the Hub refuses: no token, no permission, no such repository, somebody else pushed meanwhile
    ResourceError 14   it cannot just now, or has no room: connection, 429, 5xx, storage; the same command goes on
    CheckFailed 1      what is there is not what was sent (raised where it is compared)

No URL of an error is shown: those of storage are signed, and whoever reads one may use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ingot.errors import IngotError, OutputError, ResourceError

LOGIN = "Run `hf auth login` with a token that may write, or set HF_TOKEN."
_AGAIN = "Run the same command again: what has arrived is kept, and only the rest is sent."
_WITHOUT_CHUNKS = "Set HF_HUB_DISABLE_XET=1 to send whole files, and run the same command again."
_MORE_ROOM = "Free some of the account's storage, or have it enlarged, and run the same command again."
_NO_ROOM = re.compile(
    r"\b(quota|storage)\b.*\b(limit|exceed|full|reached)|\b(exceed|limit)\w*\b.*\bstorage\b", re.I | re.S
)
_URL = re.compile(r"\b(https?://)(?:[^\s/@]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{12,}")
_TRANSIENT = frozenset({408, 425, 429})
_OVERTAKEN = frozenset({409, 412})
_LONGEST = 300


def without_secrets(text: str) -> str:
    """`text` on one line without tokens, and URLs without names and queries: a signed URL is a key."""
    return " ".join(_TOKEN.sub("hf_…", _URL.sub(r"\1\2", text)).split())


@contextmanager
def translated(where: object) -> Iterator[None]:
    """Inside, errors of huggingface_hub and of the network are raised as ours."""
    try:
        yield
    except (HfHubHTTPError, httpx.HTTPError, LocalTokenNotFoundError, OSError, RuntimeError, ValueError) as error:
        ours = as_ours(error, where)
        for one in _chain(error):  # --debug shows them, too
            one.args = tuple(without_secrets(arg) if isinstance(arg, str) else arg for arg in one.args)
        raise ours from error


def as_ours(error: BaseException, where: object) -> IngotError:
    """The first error that we know, of `error` and of those that it was raised from."""
    for one in _chain(error):
        if isinstance(one, IngotError):
            return one
        if "xet-write-token" in str(one) and "404" in str(one):  # hf_xet has errors of its own
            return ResourceError("this Hub does not take files in chunks", where=where, hint=_WITHOUT_CHUNKS)
        if isinstance(one, OfflineModeIsEnabled):
            return ResourceError("huggingface_hub was told to stay offline", where=where, hint="Unset HF_HUB_OFFLINE.")
        if isinstance(one, LocalTokenNotFoundError):
            return OutputError("there is no token for the Hub", where=where, hint=LOGIN)
        if isinstance(one, HfHubHTTPError):
            return _of_answer(one, where)
        if isinstance(one, httpx.HTTPError | httpx.StreamError | ConnectionError | TimeoutError):
            kind = type(one).__name__
            return ResourceError(f"the connection to the Hub failed ({kind})", where=where, hint=_AGAIN)
    text = without_secrets(str(error))[:_LONGEST]
    if _NO_ROOM.search(text):
        return _no_room(text, where)
    if "xet" in text.lower():
        return ResourceError(f"the Hub's chunk storage cannot be used: {text}", where=where, hint=_WITHOUT_CHUNKS)
    if isinstance(error, OSError) and error.strerror is not None:
        return ResourceError(f"the system refused ({error.strerror.lower()})", where=where, hint=_AGAIN)
    return ResourceError(f"the push failed: {text or type(error).__name__}", where=where, hint=_AGAIN)


def may_be_done(error: BaseException) -> bool:
    """Whether what was asked for may stand there all the same.

    The answer was lost, or is a 5xx, which the Hub is known to give for commits that it made; or somebody was faster,
    who may have pushed the same.
    """
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError):
            status = one.response.status_code
            return status >= 500 or status in _TRANSIENT or status in _OVERTAKEN
        if isinstance(one, httpx.HTTPError | ConnectionError | TimeoutError):
            return True
    return False


def _of_answer(error: HfHubHTTPError, where: object) -> IngotError:
    """An answer that is no success."""
    status = error.response.status_code
    said = without_secrets(error.server_message or "")[:_LONGEST]
    told = f": {said}" if said else ""
    if status in (402, 413, 507) or (status in (400, 403, 422) and _NO_ROOM.search(said)):
        return _no_room(said, where)
    if isinstance(error, RevisionNotFoundError):
        return OutputError("the repository has no such branch", where=where,
                           hint="Leave out --no-create to have it made.")  # fmt: skip
    if isinstance(error, RepositoryNotFoundError):
        return OutputError("the Hub has no such repository, or does not show it to this token", where=where,
                           hint=f"Check the name. {LOGIN}")  # fmt: skip
    if status == 401:
        return OutputError("the Hub does not accept the token", where=where, hint=LOGIN)
    if status == 403:
        return OutputError(f"the token may not do this{told}", where=where,
                           hint="Use a token with write permission on this repository: `hf auth login`.")  # fmt: skip
    if status in _OVERTAKEN:
        return OutputError(f"somebody else changed the repository meanwhile{told}", where=where,
                           hint="Run the same command again; it looks anew at what is there.")  # fmt: skip
    if status >= 500 or status in _TRANSIENT:
        return ResourceError(f"the Hub cannot do this now (HTTP {status}){told}", where=where, hint=_AGAIN)
    kind = "does not take this" if isinstance(error, BadRequestError) else f"answered with HTTP {status}"
    return OutputError(f"the Hub {kind}{told}", where=where, hint="")


def _no_room(said: str, where: object) -> ResourceError:
    told = f": {said}" if said else ""
    return ResourceError(f"the Hub has no room for this{told}", where=where, hint=_MORE_ROOM)


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
