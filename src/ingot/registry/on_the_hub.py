"""Inputs that came from the Hub: in its cache on this machine, and on the Hub itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ingot.plan.public import is_hub_id
from ingot.record.statement import Record
from ingot.registry.sought import IMATRIX, Search, Wanted
from ingot.registry.walking import entries_of


def snapshots_of(record: Record, of: str) -> Iterator[Path]:
    """Snapshots of the Hub's cache on this machine that may hold an input: at its commit, else at any."""
    spec = _spec(record, of)
    if spec is None:
        return
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name, commit = spec
    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"
    if commit is not None:
        yield snapshots / commit
    else:
        yield from (folder.path for folder in entries_of(snapshots).folders)


def _spec(record: Record, of: str) -> tuple[str, str | None] | None:
    """The Hub's id and the commit of an input; None where it did not come from there."""
    if of == IMATRIX:
        return None
    spec = record.recipe.base if of == "base" else record.recipe.adapters[int(of)]
    return (spec.name, record.commit(of)) if is_hub_id(spec.name) else None


def ask_the_hub(record: Record, looking: Search, *, download: bool) -> tuple[Wanted, ...]:
    """What the Hub has at the recorded commits. Where it cannot be reached, or says no: nothing."""
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    there: list[Wanted] = []
    for of in dict.fromkeys(file.of for file in looking.rest):
        spec = _spec(record, of)
        wanted = {file.name: file for file in looking.rest if file.of == of}
        if spec is None or spec[1] is None:
            continue
        name, commit = spec
        try:
            for info in HfApi().get_paths_info(name, sorted(wanted), revision=commit):
                file = wanted.get(info.path)
                if file is None or not isinstance(info, RepoFile) or info.size != file.nbytes:
                    continue
                if info.lfs is not None and info.lfs.sha256 != file.sha256:
                    continue
                if download or info.lfs is None:
                    looking.take(Path(hf_hub_download(name, info.path, revision=commit)), [file])
                else:
                    there.append(file)
        except (HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError):
            continue
    return tuple(there)
