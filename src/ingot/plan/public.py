"""Names as a record may show them: no path of this machine, no user of a URL, no token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingot.plan.model import AdapterInfo, BaseInfo

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: What the Hub's access tokens look like.
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}")


def public_name(spec: str) -> str:
    """The last part of whatever is a path or a URL; a Hub id and a plain name stay as they are.

    Example: public_name("/home/zoe/llama-3") -> "llama-3"; public_name("org/llama-3") -> "org/llama-3"
    """
    spec = _TOKEN.sub(r"\1_…", spec)
    if _SCHEME.match(spec):
        spec = re.split(r"[?#]", spec)[0]
    elif not _LOCAL.match(spec) and (_HUB_ID.fullmatch(spec) or not re.search(r"[/\\]", spec)):
        return spec
    parts = [part for part in re.split(r"[/\\]", spec) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "unnamed"


def is_hub_id(name: str) -> bool:
    """Whether a name has the Hub's form `org/name`."""
    return _HUB_ID.fullmatch(name) is not None and not _LOCAL.match(name)


def claim_matches(base: BaseInfo, adapter: AdapterInfo) -> bool | None:
    """Whether the base that an adapter claims is the base that it is merged into; None where names cannot tell.

    Directories may be called anything, so only two Hub ids can contradict each other; two revisions do so only as
    commits.
    """
    claimed, revision = adapter.claimed_base, adapter.claimed_revision
    if not claimed:
        return None
    ours, theirs = base.name.casefold(), public_name(claimed).casefold()
    if is_hub_id(ours) and is_hub_id(theirs):
        if ours != theirs:
            return False
    elif ours.rsplit("/", 1)[-1] != theirs.rsplit("/", 1)[-1]:
        return None
    if revision and base.commit and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision == base.commit
    return True if not revision or revision in (base.revision, base.commit) else None
