"""From what a user types to a directory: a local path, or a Hub id that huggingface_hub downloads or has cached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import IngotError, MissingComponent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SNAPSHOT = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{7,64})$")

#: What is fetched from the Hub: weights as safetensors (an adapter's also as .bin), and the small files beside them.
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "adapter_model.bin",
    "LICENSE*",
    "*.py",
]


@dataclass(frozen=True)
class Location:
    """A directory and where it comes from.

    Attributes:
        path: the directory.
        name: how the record and the model card call it: the Hub id, or the directory's own name; never a path.
        revision: what the user asked for after `@`.
        commit: the resolved commit, where the Hub's cache tells it.
        file: the file of that directory that was meant, where it was one.
    """

    path: Path
    name: str
    revision: str | None = None
    commit: str | None = None
    file: str | None = None


def locate(spec: str, *, what: str, error: type[IngotError]) -> Location:
    """The directory that `spec` means. A directory that exists wins over a Hub id of the same spelling.

    An adapter may also be a file; its name is the file's without the ending.

    Raises:
        error: it is neither; or the Hub has no such repository or cannot be reached.
        MissingComponent: an `s3://` prefix.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return _local(path)
    if spec.startswith("s3://"):
        raise MissingComponent(
            "reading from S3 is not part of this version", where=spec, hint="Copy it to a local directory first."
        )
    if path.is_file() and what == "adapter":
        return Location(path.parent, path.stem, file=path.name)
    if path.exists():
        raise error(f"the {what} is a file, not a directory", where=spec, hint="Give the directory that holds it.")
    if _HUB_ID.fullmatch(spec) and not spec.startswith((".", "/")):
        return _from_hub(spec, what, error)
    raise error(
        f"the {what} does not exist",
        where=spec,
        expected=f"a directory{', a file' if what == 'adapter' else ''} or a Hub id such as org/name@revision",
        hint="Check the spelling of the path.",
    )


def _local(path: Path) -> Location:
    snapshot = _SNAPSHOT.search(path.resolve().as_posix())
    if snapshot is None:
        return Location(path, path.resolve().name)
    return Location(path, snapshot["repo"].replace("--", "/"), commit=snapshot["commit"])


def _from_hub(spec: str, what: str, error: type[IngotError]) -> Location:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = spec.partition("@")
    try:
        path = Path(snapshot_download(repo, revision=revision or None, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as failure:
        raise error(
            f"the {what} is no directory here, and the Hub cannot be reached",
            where=spec,
            hint="Check the path; or go online, set HF_ENDPOINT to a mirror, or download it beforehand.",
        ) from failure
    except (HfHubHTTPError, HFValidationError, OSError) as failure:
        raise error(
            f"the Hub does not give this {what}: {type(failure).__name__}",
            where=spec,
            hint="Check the name and the revision; for a private repository run `hf auth login`.",
        ) from failure
    return Location(path, repo, revision or None, _local(path).commit)
