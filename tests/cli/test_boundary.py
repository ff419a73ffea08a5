"""Every exception becomes an exit code and a message; signals stop a run that then resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from ingot.cli import main
from ingot.cli.progress import Progress
from ingot.errors import MismatchError
from tests.cli.toys import environment, json_lines, make_adapter, make_base, run_here

Raising = Callable[[BaseException], None]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """raising(error): planning raises it."""

    def install(error: BaseException) -> None:
        def prepare(*_args: object, **_kwargs: object) -> None:
            raise error

        monkeypatch.setattr("ingot.merge.prepare", prepare)

    return install


class OutOfMemoryError(RuntimeError):
    """torch's, which is not imported for a name."""


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (MemoryError(), 14, "memory"),
        (OutOfMemoryError("CUDA out of memory"), 14, "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 14, "memory"),
        (OSError(28, "No space left on device", "/somewhere"), 14, "/somewhere"),
        (PermissionError(13, "Permission denied", "/secret"), 14, "permission denied"),
        (KeyboardInterrupt(), 130, "again"),
        (MismatchError("they do not fit", hint="Try another."), 12, "hint: Try another."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_bug_has_its_exit_code_and_no_traceback(
    raising: Raising, error: BaseException, code: int, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    assert main(["plan", "base", "lora"]) == code
    said = capfd.readouterr().err
    assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize("error", [RecursionError("too deep"), ZeroDivisionError("x"), AssertionError()], ids=repr)
def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    raising: Raising, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    assert main(["plan", "base", "lora"]) == 70
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert type(error).__name__ in said
    assert "ingot doctor" in said


def test_debug_shows_the_traceback_of_a_refusal(raising: Raising, capfd: pytest.CaptureFixture[str]) -> None:
    raising(MismatchError("they do not fit"))
    assert main(["plan", "base", "lora", "--debug"]) == 12
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 130)])
def test_a_signal_stops_a_merge_that_the_same_command_resumes(
    tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path / "base", shards=4)
    make_adapter(tmp_path / "lora")
    counted, sent = Progress.__call__, []

    def call(self: Progress, nbytes: int) -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), number))
        counted(self, nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", call)
        assert run_here("merge base lora -o out --jobs 1 --json", tmp_path) == code
    out, talk = capfd.readouterr()
    assert "stopping" in talk
    assert "resume" in talk
    assert "Traceback" not in talk
    last = json_lines(out.encode())[-1]
    assert (last["type"], last["error"], last["exit_code"]) == ("error", "Interrupted", code)
    assert not (tmp_path / "out").exists()
    assert run_here("merge base lora -o out --jobs 1", tmp_path) == 0
    written = [name for file in (tmp_path / "out").glob("*.safetensors") for name in load_file(file)]
    assert sorted(written) == sorted(base)


#: A run that does not look at its stop event.
DEAF = """
import sys, time
import ingot.merge
from ingot.cli import main
def run(self, *, stop, **_):
    print("running", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.05)
ingot.merge.Job.run = run
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    with subprocess.Popen(
        [sys.executable, "-c", DEAF, "merge", "base", "lora", "-o", "out"],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        _read_until(process, b"running")
        process.send_signal(signal.SIGINT)
        _read_until(process, b"stopping")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def _read_until(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stderr is not None
    late = threading.Timer(60, process.kill)
    late.start()
    try:
        for line in process.stderr:
            if word in line:
                return
    finally:
        late.cancel()
    pytest.fail(f"the process ended without saying {word!r}")


def test_a_signal_while_planning_ends_the_command(tmp_path: Path) -> None:
    script = """
import sys, time
import ingot.merge
from ingot.cli import main
def prepare(*_args, **_kwargs):
    print("planning", file=sys.stderr, flush=True)
    time.sleep(60)
ingot.merge.prepare = prepare
sys.exit(main(sys.argv[1:]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, "plan", "base", "lora"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    ) as process:
        _read_until(process, b"planning")
        os.kill(process.pid, signal.SIGTERM)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(30) == 143
    assert b"Traceback" not in rest


def test_an_ignored_hangup_stays_ignored() -> None:
    from ingot.cli.signals import Stopper

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopper().listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
