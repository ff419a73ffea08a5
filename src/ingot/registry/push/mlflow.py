"""An artifact in MLflow's model registry: a version that says what it is and where it lies. No byte is uploaded.

The version's tags are the record in brief (`mlflow_tags`), its run is the adapter's training run where the server knows
it, its source a URI. MLflow's servers take no local path as a source, because it would be one of theirs: then the
source is the same path with the scheme `ingot:`, which tells people where to look and is opened by nobody.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ingot.errors import UsageError
from ingot.record import Depth, verify
from ingot.record.artifact import record_in
from ingot.registry.entry import Facts, facts_of
from ingot.registry.push.mlflow_client import is_code, opened_client
from ingot.registry.push.mlflow_tags import IDENTITY, description_of, runs_of, tags_of

_NAME = re.compile(r"[^/:@'\"`\x00-\x1f]{1,250}")
_ALIAS = re.compile(r"(?![vV]\d+\Z)(?!latest\Z)[\w-]{1,255}", re.ASCII)


@dataclass(frozen=True)
class ModelName:
    """A registered model, and an alias of it."""

    name: str
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Of `NAME` or `NAME@alias`, with or without `mlflow:`. Raises UsageError."""
        name, at, alias = text.removeprefix("mlflow:").partition("@")
        if not _NAME.fullmatch(name) or name != name.strip() or name in (".", ".."):
            raise UsageError("this is no name of a model in MLflow", expected="mlflow:NAME or mlflow:NAME@alias",
                             found=repr(text), hint="A name has no / : @ and no quotation marks.")  # fmt: skip
        if at and not _ALIAS.fullmatch(alias):
            raise UsageError("this is no alias that MLflow takes", found=repr(alias),
                             hint="Letters, digits, _ and -; neither `latest` nor v with a number.")  # fmt: skip
        return cls(name, alias if at else None)

    def __str__(self) -> str:
        return f"mlflow:{self.name}" + (f"@{self.alias}" if self.alias else "")


@dataclass(frozen=True)
class Registered:
    """What stands in the registry now.

    Attributes:
        created: False where the identity was registered before; its tags are brought up to date.
        run: the training run that the version is linked to.
        unknown_runs: training runs in the record that this server does not know.
    """

    target: str
    version: str
    source: str
    identity: str
    created: bool
    run: str | None
    unknown_runs: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "target": self.target, "version": self.version, "source": self.source, "identity": self.identity,
            "created": self.created, "run": self.run, "unknown_runs": list(self.unknown_runs),
        }  # fmt: skip


def check_mlflow(target: str) -> None:
    """What can be known of a target without asking the server.

    Raises:
        UsageError: no server is told, or the target cannot be one.
        MissingComponent: mlflow is not installed.
    """
    ModelName.parse(target)
    with opened_client(None):
        pass


def push_to_mlflow(
    artifact: Path,
    target: str,
    *,
    tracking_uri: str | None = None,
    source: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> dict[str, object]:
    """Register the artifact in this directory as `target` (`mlflow:NAME` or `mlflow:NAME@alias`), once it is verified.

    Args:
        tracking_uri: of the server; default: MLFLOW_TRACKING_URI.
        source: where others find the files, such as `hf://org/name@commit` or `s3://bucket/key`; default: the path.
        progress: is told of every number of bytes read.

    Raises:
        UsageError: no server is told, or the target cannot be one.
        CheckFailed: the artifact is not as its record says.
        MissingComponent, OutputError, ResourceError, Interrupted.
    """
    model = ModelName.parse(target)
    verify(artifact, depth=Depth.STRUCTURE, progress=progress, stop=stop).raise_failure()
    facts = facts_of(record_in(artifact))
    with opened_client(tracking_uri) as client:
        return register(client, facts, model, os.path.realpath(artifact), source).as_json()


def register(client: Any, facts: Facts, model: ModelName, place: str, source: str | None = None) -> Registered:
    """A version of `model` with this identity: the one that is there, or a new one; and the alias, on it.

    `place` is the absolute path of the artifact. Raises MLflow's errors.
    """
    tags = tags_of(facts, place)
    run, unknown = _run_of(client, runs_of(facts))
    _make_model(client, model.name)
    version = _existing(client, model.name, facts.identity)
    created = version is None
    if version is None:
        made = _create(client, facts, model.name, tags, place, source, run)
        version = _existing(client, model.name, facts.identity) or made
        if int(version.version) != int(made.version):  # another process was faster
            client.delete_model_version(model.name, made.version)
            created = False
    if not created:
        _bring_up_to_date(client, version, tags)
    if model.alias is not None:
        client.set_registered_model_alias(model.name, model.alias, version.version)
    return Registered(
        str(model), str(version.version), version.source, facts.identity, created, version.run_id or None, unknown
    )


def _make_model(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if not is_code(error, "RESOURCE_ALREADY_EXISTS"):
            raise


def _existing(client: Any, name: str, identity: str) -> Any | None:
    """The first version with this identity. Names and identities hold no quotation marks."""
    found = client.search_model_versions(f"name = '{name}' and tag.`{IDENTITY}` = '{identity}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _create(
    client: Any, facts: Facts, name: str, tags: dict[str, str], place: str, source: str | None, run: str | None
) -> Any:
    def create(uri: str) -> Any:
        return client.create_model_version(
            name, uri, run, tags, description=description_of(facts), await_creation_for=0
        )

    if source is not None:
        return create(source)
    path = quote(place)
    try:
        return create(f"file://{path}")
    except Exception as error:
        if not is_code(error, "INVALID_PARAMETER_VALUE"):
            raise
        return create(f"ingot:{path}")


def _bring_up_to_date(client: Any, version: Any, tags: dict[str, str]) -> None:
    """What was found of an artifact, and where it lies, may be new; nothing else of it can be."""
    for name, value in tags.items():
        if version.tags.get(name) != value:
            client.set_model_version_tag(version.name, version.version, name, value)
    for name in version.tags.keys() - tags.keys():
        if name.startswith("ingot."):
            client.delete_model_version_tag(version.name, version.version, name)


def _run_of(client: Any, runs: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The first of the training runs that the server knows, and those that it does not."""
    known, unknown = [], []
    for run in runs:
        try:
            known.append(client.get_run(run).info.run_id)
        except Exception as error:
            if not is_code(error, "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            unknown.append(run)
    return (known[0] if known else None), tuple(unknown)
