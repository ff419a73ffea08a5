"""Every way ingot can refuse, fail or stop.

    IngotError
    ├── CheckFailed          1    a verification or a gate said no
    ├── UsageError           2    the command line asks for something that does not exist
    ├── BaseError           10    the base checkpoint cannot be used
    ├── AdapterError        11    the adapter cannot be used
    ├── MismatchError       12    each is fine, but they do not fit each other
    ├── NonFiniteError      13    a NaN or an infinity would be written
    ├── ResourceError       14    disk space or memory does not suffice
    ├── OutputError         15    the output exists, is locked, or belongs to another plan
    ├── UnsafeInputError    16    an input tries something that no honest file does
    ├── InputChangedError   17    an input changed while it was being read
    ├── MissingComponent    18    an optional library is not installed
    └── Interrupted        130    the user stopped the run

A message says what is wrong, then where, then what was expected and what was found; the hint is the next
command to type. Anything else that escapes is a bug of ours and exits with 70. Exit codes are a contract.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_BUG = 70


class IngotError(Exception):
    """Base of every error that is not a bug.

    Args:
        what: one sentence without a full stop, lower case: "tensor is missing".
        where: the file, tensor or key it is about.
        expected: what a right input would have had there.
        found: what was there instead.
        hint: the next command or the way out, as a whole sentence.
    """

    exit_code: ClassVar[int] = EXIT_BUG
    default_hint: ClassVar[str | None] = None

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.hint = hint if hint is not None else self.default_hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The whole message on one line, with control characters escaped so that no file name can drive a terminal."""
        text = self.what
        if self.expected is not None and self.found is not None:
            text += f": expected {self.expected}, found {self.found}"
        elif self.expected is not None:
            text += f": expected {self.expected}"
        elif self.found is not None:
            text += f": found {self.found}"
        if self.where is not None:
            text += f" - at {self.where}"
        return printable(text)

    def as_json(self) -> dict[str, object]:
        """The error as the last line of `--json` output."""
        fields = {"what": self.what, "where": self.where, "expected": self.expected, "found": self.found}
        known = {key: value for key, value in fields.items() if value is not None}
        public = next(cls.__name__ for cls in type(self).__mro__ if not cls.__name__.startswith("_"))
        return {"error": public, "exit_code": self.exit_code, **known, "hint": self.hint}


def printable(text: str) -> str:
    """`text` with control characters and bidirectional overrides written as escapes; spaces stay.

    Example: printable("a\\x1b[31m") -> "a\\\\x1b[31m"
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class CheckFailed(IngotError):
    """A check ran and its answer is no: `verify` found a difference, a gate was missed."""

    exit_code = 1


class UsageError(IngotError):
    """An option, verb or value that does not exist, or two that exclude each other."""

    exit_code = 2
    default_hint = "Run `ingot --help` for the verbs and their options."


class BaseError(IngotError):
    """The base checkpoint is missing, incomplete, malformed, or of a kind ingot does not read."""

    exit_code = 10
    default_hint = "Run `ingot inspect BASE` to see what the checkpoint holds."


class AdapterError(IngotError):
    """The adapter is missing, malformed, incomplete, or of a kind that has no merged form."""

    exit_code = 11
    default_hint = "Run `ingot inspect ADAPTER` to see what the adapter holds."


class MismatchError(IngotError):
    """Base and adapter are sound, but this adapter was not made for this base."""

    exit_code = 12
    default_hint = "Run `ingot plan BASE ADAPTER` to see how names and shapes were matched."


class NonFiniteError(IngotError):
    """A NaN or an infinity stands in an input, or would stand in the output dtype."""

    exit_code = 13


class ResourceError(IngotError):
    """Disk space or memory does not suffice; nothing half-done was given the output's name."""

    exit_code = 14
    default_hint = "Free some space and run the same command again: finished shards are kept."


class OutputError(IngotError):
    """The output exists, is locked by another run, or was begun by another plan."""

    exit_code = 15


class UnsafeInputError(IngotError):
    """An input holds what no honest file holds: a path that leaves its directory, code in a pickle, a lying header."""

    exit_code = 16
    default_hint = "Do not use this file. Get it again from a source that you trust."


class InputChangedError(IngotError):
    """An input file changed between the plan and the end of the run."""

    exit_code = 17
    default_hint = "Let whatever writes the file finish, then run the same command again."


class MissingComponent(IngotError):
    """A library that this command needs is not installed; the hint is the command that installs it."""

    exit_code = 18


class Interrupted(IngotError):
    """The user pressed Ctrl-C or the system sent SIGTERM; the same command resumes."""

    exit_code = 130
    default_hint = "Run the same command again to resume."
