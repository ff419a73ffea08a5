"""The answer of a verification: what was asked of an artifact, and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ingot.errors import CheckFailed, IngotError, printable


class Depth(StrEnum):
    """How much of an artifact is read. Each depth includes those before it."""

    STRUCTURE = "structure"
    READ = "read"
    AGAINST_INPUTS = "against-inputs"


@dataclass(frozen=True)
class Check:
    """One question and its answer. `name` is the question's; `detail` names the file or tensor that it is about."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was asked.

    Attributes:
        files: files of the artifact that were looked at, the record among them.
        nbytes_read: bytes read to answer: of the artifact, and of base and adapters.
        identity: the artifact's id; None where the record cannot be believed.
    """

    depth: Depth
    checks: tuple[Check, ...]
    files: int
    nbytes_read: int
    identity: str | None

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        if self.ok:
            return f"{self.files} files are as recorded ({self.depth})"
        more = f", and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        return f"{self.failures[0].name}: {self.failures[0].detail}{more}"

    def raise_failure(self) -> None:
        """Raises CheckFailed when a check failed: what the command line turns into exit 1."""
        if not self.ok:
            raise CheckFailed(
                f"the artifact is not as recorded: {self.verdict}",
                hint="Make it again with the recipe in its README.md, or get it again from its source.",
            )

    def as_json(self) -> dict[str, object]:
        checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in self.checks]
        return {
            "verdict": "ok" if self.ok else "failed", "depth": str(self.depth), "files": self.files,
            "nbytes_read": self.nbytes_read, "identity": self.identity, "checks": checks,
        }  # fmt: skip


def answer(name: str, faults: Iterable[str], all_well: str) -> Iterator[Check]:
    """A failed check for every fault; one good check where there is none."""
    count = 0
    for count, fault in enumerate(faults, start=1):  # noqa: B007 - the count is what is asked afterwards
        yield Check(name, False, printable(fault))
    if not count:
        yield Check(name, True, printable(all_well))


def told(error: IngotError) -> str:
    """An error as a check's detail: its message, and the hint where it has one of its own."""
    own = error.hint if error.hint != error.default_hint else None
    return f"{error.message}. {own}" if own else error.message
