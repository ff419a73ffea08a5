"""Where an artifact is pushed to, as it is typed: `hf://org/name[@branch]`, or `mlflow:...`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ingot.errors import UsageError

DEFAULT_BRANCH = "main"

_FORMS = "hf://org/name, hf://org/name@branch or mlflow:…"
# The Hub's own rule for names: 96 characters, no `--` or `..`, neither `-` nor `.` at an end, and no `.git` there.
_PART = r"[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_BRANCH = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)*", re.ASCII)
_MOST = 96


@dataclass(frozen=True)
class HubTarget:
    """A model repository of the Hub and a branch of it."""

    repository: str
    branch: str = DEFAULT_BRANCH

    def __str__(self) -> str:
        at = "" if self.branch == DEFAULT_BRANCH else f"@{self.branch}"
        return f"hf://{self.repository}{at}"


@dataclass(frozen=True)
class MlflowTarget:
    """What follows `mlflow:`; read by `push.mlflow`."""

    text: str

    def __str__(self) -> str:
        return f"mlflow:{self.text}"


def parse_target(text: str, branch: str | None = None) -> HubTarget | MlflowTarget:
    """The target that `text` names; `branch` is that of `--branch`.

    Raises:
        UsageError: it is of neither form, or names two branches.
    """
    if text.startswith("mlflow:"):
        if branch is not None:
            raise UsageError("--branch belongs to a push to the Hub", found=text)
        return MlflowTarget(text.removeprefix("mlflow:"))
    if not text.startswith("hf://"):
        hint = f"Did you mean `hf://{text}`?" if _REPOSITORY.fullmatch(text) else None
        raise UsageError("this is no place to push to", expected=_FORMS, found=repr(text), hint=hint)
    repository, at, named = text.removeprefix("hf://").removesuffix("/").partition("@")
    fault = _fault(repository)
    if fault is not None:
        raise UsageError(f"this is no repository of the Hub: {fault}", expected="hf://org/name", found=repr(text))
    if at and branch is not None and named != branch:
        raise UsageError("two branches are named", expected="one", found=f"@{named} and --branch {branch}")
    chosen = named if at else DEFAULT_BRANCH if branch is None else branch
    if not _BRANCH.fullmatch(chosen) or ".." in chosen or chosen.endswith((".lock", ".")):
        raise UsageError("this is no name of a branch", found=repr(chosen))
    return HubTarget(repository, chosen)


def _fault(repository: str) -> str | None:
    """Why this is no repository's name; None when it is one."""
    if repository.startswith(("datasets/", "spaces/", "buckets/")):
        return "models are pushed to model repositories"
    if not _REPOSITORY.fullmatch(repository):
        return "it is not spelled org/name"
    if "--" in repository or ".." in repository or repository.endswith(".git"):
        return "the Hub takes no name with `--` or `..`, or that ends with `.git`"
    return f"it has more than {_MOST} characters" if len(repository) > _MOST else None
