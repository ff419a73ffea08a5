"""Names of artifacts: what was merged, in which version and format; and names that say none of it.

    base, its version, the adapters, their versions, the format  ->  llama-3-8b-v1.2-support-lora-v3-q4_k_m

A name is a file name, a tag and the last part of a Hub id in one: small letters, digits, ".", "_" and "-".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from string import Formatter
from typing import TYPE_CHECKING

from msgspec import structs

from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.release.form import AdapterForm, BaseForm

MAX_LENGTH = 96
#: Folders of folders that are called after people.
_HOMES = ("home", "users")
#: Adapters that a name tells one by one.
_TOLD = 3
_NOTHING = frozenset({
    "adapter", "adapters", "artifact", "base", "best", "check", "checkpoint", "copy", "draft", "example", "exp",
    "experiment", "fin", "final", "fixed", "foo", "bar", "baz", "latest", "last", "llm", "lora", "merge",
    "merged", "mix", "model", "models", "my", "new", "newer", "newest", "next", "now", "ok", "old", "out",
    "output", "peft", "release", "result", "run", "sft", "temp", "test", "testing", "the", "this", "tmp",
    "todo", "trained", "training", "try", "tuned", "finetuned", "untitled", "unnamed", "use", "version",
    "weights", "x", "y", "z", "a", "b",
})  # fmt: skip
_SEPARATORS = re.compile(r"[-_.\s]+")
_PLACEHOLDERS = ("name", "format", "version")


def artifact_name(
    base: BaseForm,
    adapters: Sequence[AdapterForm],
    format_name: str,
    *,
    name: str | None = None,
    version: str | None = None,
) -> str:
    """The name of one artifact of a recipe; at most `MAX_LENGTH` characters.

    Args:
        format_name: "safetensors", which is not told, or "gguf:Q4_K_M".
        name: the recipe's own, in the place of what base and adapters give.
        version: the release's.
    """
    kind = format_name.partition(":")[2].lower()
    stem = slug(name) if name else stem_of(base, adapters)
    release = versioned(version) if name else f"r{slug(version)}" if version else ""
    ending = "".join(f"-{part}" for part in (release, kind) if part and not _tells(stem, part))
    return _cut(stem, MAX_LENGTH - len(ending)) + ending


def stem_of(base: BaseForm, adapters: Sequence[AdapterForm]) -> str:
    """Base and adapters with their versions, each part once."""
    parts = [_last(base.model)]
    if base.version and not _tells(parts[0], versioned(base.version)) and not _tells(parts[0], slug(base.version)):
        parts.append(versioned(base.version))
    for entry in adapters[:_TOLD]:
        own = _without(_last(entry.adapter), parts[0])
        version = versioned(entry.version) if entry.version else ""
        parts += [part for part in (own, "" if _tells(own, version) else version) if part]
    if len(adapters) > _TOLD:
        parts.append(f"and-{len(adapters) - _TOLD}-more")
    return "-".join(parts)


def series_of(base: BaseForm, adapters: Sequence[AdapterForm], name: str | None) -> str:
    """What all versions of an artifact are called: the recipe's name, else base and adapters without their versions."""
    if name:
        return slug(name)
    unversioned = [structs.replace(entry, version=None) for entry in adapters]
    return _cut(stem_of(structs.replace(base, version=None), unversioned), MAX_LENGTH)


def suggest(name: str, base: BaseForm, adapters: Sequence[AdapterForm]) -> str | None:
    """A better name for one that tells nothing of what it names, such as final2; None where it tells something."""
    words = [word.rstrip("0123456789") for word in _SEPARATORS.split(name.lower())]
    return stem_of(base, adapters) if all(word in ("", "v", "r") or word in _NOTHING for word in words) else None


def slug(text: str) -> str:
    """`text` as a part of a name; "unnamed" where nothing of it can stand in one.

    Example: slug("Support LoRA (v3)") -> "support-lora-v3"
    """
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9._]+", "-", text.lower())).strip("-._") or "unnamed"


def versioned(version: str | None) -> str:
    """Example: versioned("1.2") -> "v1.2"; versioned("v3") -> "v3" """
    if not version:
        return ""
    text = slug(version)
    return f"v{text}" if text[0].isdigit() else text


def filled(template: str, *, name: str, format_name: str, version: str | None) -> str:
    """A tag or a push target with its placeholders filled in: {name}, {format} ("q4_k_m"), {version}.

    Raises:
        UsageError: another placeholder, a brace that stands alone, or a {version} that there is not.
    """
    kind = format_name.partition(":")[2].lower() or format_name
    values = {"name": name, "format": kind, "version": version}
    try:
        fields = [(field, spec, conversion) for _, field, spec, conversion in Formatter().parse(template)]
    except ValueError as cause:
        raise UsageError("a brace stands alone", found=repr(template), hint=_HINT) from cause
    for field, spec, conversion in fields:
        if field is None:
            continue
        if field not in _PLACEHOLDERS or spec or conversion:
            raise UsageError("there is no such placeholder", found=f"{{{field}}}", hint=_HINT)
        if values[field] is None:
            raise UsageError(f"{{{field}}} has no value", found=repr(template), hint=f"Add `{field}:` to the recipe.")
    return template.format(**values)


_HINT = "There are {name}, {format} and {version}."


def _last(spec: str) -> str:
    """What a path or Hub id is called; with the folder above it, where its own name says nothing."""
    local = spec.startswith(("/", "~", ".")) or re.match(r"[A-Za-z]:[/\\]", spec) is not None
    parts = [part for part in re.split(r"[/\\]", spec if local else spec.partition("@")[0]) if part not in ("", ".")]
    own = re.sub(r"\.(safetensors|bin|pt)$", "", parts[-1]) if parts else ""
    said = [word.rstrip("0123456789") for word in _SEPARATORS.split(own.lower())]
    nothing = all(word in ("", "v") or word in _NOTHING for word in said)
    if local and nothing and len(parts) > 2 and parts[-3].lower() not in _HOMES:  # a user's name is none for a model
        own = f"{parts[-2]}-{own}"
    return slug(own)


def _without(own: str, base: str) -> str:
    """An adapter's name without the base's at its beginning; the whole where nothing else is in it."""
    rest = own.removeprefix(f"{base}-").removeprefix(f"{base}_") if own != base else "lora"
    return rest or own


def _tells(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as a whole part already."""
    return bool(part) and re.search(rf"(?:^|[-_]){re.escape(part)}(?:$|[-_])", text) is not None


def _cut(stem: str, length: int) -> str:
    """At most `length` characters; what was cut away leaves a digest, so that two names stay two."""
    if len(stem) <= length:
        return stem
    digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
    return f"{stem[: length - 9].rstrip('-._')}-{digest}"
