"""Output: where everything that a verb says goes. stdout is data, stderr is talk.

    human    stdout: what was asked for, as text        stderr: talk, progress, errors
    json     stdout: JSON Lines, each with a "type"     stderr: errors
    quiet    stdout: one line, the essence              stderr: errors

Laws. No control character of any input reaches a terminal. With json every line of stdout is one JSON object in
ASCII, the last one of type "result" or "error". A reader that leaves (`| head`) does not disturb the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TextIO

from ingot.errors import IngotError, ResourceError, printable

Mode = Literal["human", "json", "quiet"]

#: For streams whose encoding lacks the character: of the same width, so that columns stay.
_PLAIN = str.maketrans({"×": "x", "·": "*", "…": "~", "−": "-", "Σ": "S", "Δ": "D", "‖": "|", "–": "-", "—": "-"})
_STYLES = {"bold": "1", "red": "1;31", "yellow": "33", "green": "32", "cyan": "36"}
_HEADING = re.compile(r"\S+( \d+\b)?")
_DEFAULT_WIDTH = 100
_WIDTHS = (40, 120)


class Output:
    """One command's output. Lines may come from any thread."""

    def __init__(
        self,
        mode: Mode = "human",
        *,
        color: bool = True,
        debug: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`color` False is --no-color; even when True, colour needs a terminal that has it and no NO_COLOR."""
        self.mode = mode
        self.debug = debug
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._color = color and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        self._moving = environment.get("TERM") != "dumb" and _is_terminal(self.stderr)
        self._mutex = threading.Lock()

    @property
    def color(self) -> bool:
        """Whether talk may be coloured."""
        return self._color and _is_terminal(self.stderr)

    @property
    def moving(self) -> bool:
        """Whether a progress bar may move on stderr."""
        return self._moving and self.mode == "human"

    @property
    def width(self) -> int:
        """Columns for data: the terminal's within reason, 100 where it is none."""
        if not _is_terminal(self.stdout):
            return _DEFAULT_WIDTH
        return min(max(shutil.get_terminal_size().columns, _WIDTHS[0]), _WIDTHS[1])

    def lines(self, lines: Iterable[str], *, headings: bool = True) -> None:
        """Data for people: to stdout in human mode only. A line's first word, and a number after it, is its heading."""
        if self.mode == "human":
            for line in lines:
                self._write(self.stdout, self._with_heading(printable(line)) if headings else printable(line))

    def essence(self, text: str) -> None:
        """The one line that --quiet leaves."""
        if self.mode == "quiet":
            self._write(self.stdout, printable(text))

    def event(self, kind: str, **fields: object) -> None:
        """A line of JSON; nothing in the other modes."""
        self._emit({"type": kind, **fields})

    def result(self, **fields: object) -> None:
        """The last line of a command that succeeded."""
        self._emit({"type": "result", **fields})

    def _emit(self, line: Mapping[str, object]) -> None:
        if self.mode == "json":
            self._write(self.stdout, json.dumps(line, default=str))

    def say(self, text: str = "", style: str | None = None) -> None:
        """Talk: to stderr in human mode only."""
        if self.mode == "human":
            self._write(self.stderr, self._styled(printable(text), style, self.stderr))

    def warn(self, text: str) -> None:
        """A warning, in every mode."""
        self.event("warning", message=text)
        self._write(self.stderr, f"{self._styled('warning:', 'yellow', self.stderr)} {printable(text)}")

    def error(self, error: IngotError, exit_code: int | None = None) -> None:
        """What ended the command, and the way out; in every mode, and with json also as the last line of stdout."""
        self._write(self.stderr, f"{self._styled('error:', 'red', self.stderr)} {error.message}")
        if error.hint:
            self._write(self.stderr, f"{self._styled('hint:', 'cyan', self.stderr)} {printable(error.hint)}")
        fields = {**error.as_json(), "message": error.message}
        self.event("error", **(fields if exit_code is None else {**fields, "exit_code": exit_code}))

    def raw_error(self, text: str) -> None:
        """Lines of ours as they are, such as a traceback."""
        for line in text.splitlines():
            self._write(self.stderr, printable(line))

    def close(self) -> None:
        """Flush both streams; a reader that has left is no error, at exit neither."""
        for stream in (self.stdout, self.stderr):
            self._guarded(stream, stream.flush)

    def has_lost_its_reader(self) -> bool:
        """Whether stdout is a pipe whose reader has left; then what still follows goes nowhere."""
        poll = select.poll()
        try:
            poll.register(self.stdout.fileno(), 0)
        except (OSError, ValueError):
            return False
        if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            return False
        _to_nowhere(self.stdout)
        return True

    def _with_heading(self, line: str) -> str:
        match = _HEADING.match(line)
        return self._styled(match[0], "bold", self.stdout) + line[match.end() :] if match else line

    def _styled(self, text: str, style: str | None, stream: TextIO) -> str:
        if style is None or not text or not self._color or not _is_terminal(stream):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def _write(self, stream: TextIO, line: str) -> None:
        def write() -> None:
            stream.write(_encodable(line, stream) + "\n")
            stream.flush()

        with self._mutex:
            self._guarded(stream, write)

    def _guarded(self, stream: TextIO, action: Callable[[], None]) -> None:
        """Run `action`; when the reader of the stream has left, let all that follows go nowhere."""
        try:
            action()
        except BrokenPipeError:
            _to_nowhere(stream)
        except ValueError:  # the stream was closed under us
            return
        except OSError as failure:
            _to_nowhere(stream)
            if stream is self.stdout:
                raise ResourceError(
                    f"standard output cannot be written ({failure.strerror})",
                    hint="Free some space, or send it elsewhere.",
                ) from failure


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _encodable(line: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
        return line
    except (UnicodeEncodeError, LookupError):
        return line.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii")


def _to_nowhere(stream: TextIO) -> None:
    """Give the descriptor to /dev/null, so that not even the interpreter's last flush fails."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
