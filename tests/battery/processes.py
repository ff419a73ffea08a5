"""ingot in processes of its own: started as users do, or forked from a server that has imported everything already.

A fresh `python -m ingot merge` spends seconds of CPU time on importing torch. Where the start is not what is tried, a
fork of a clean process that has only imported runs the very same command at once.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import ingot.errors
from tests.battery.figure import caught

T = TypeVar("T")
#: Tries in parallel: the machine that the figures were planned for has two cores.
WORKERS = 2
_PRELOAD = ["ingot.merge", "ingot.engine.run", "ingot.record.record", "ingot.cli.app", "ingot.cli.progress",
            "ingot.plan.render", "ingot.registry.collect", "ingot.release.run", "ingot.validate.run",
            "tests.battery.processes", "tests.storage.faulty_disk", "tests.toy"]  # fmt: skip
_PATH = os.pathsep.join(map(str, (Path(ingot.errors.__file__).parents[1], Path(__file__).parents[2])))

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOAD)


def parallel(one: Callable[[T], str | None], tries: Sequence[T], *, at_least: int = 100) -> Iterator[str | None]:
    """`one` of each, by a few processes where that pays; the order is not kept. `one` and the tries are pickled."""
    if len(tries) < at_least:
        yield from map(functools.partial(caught, one), tries)
        return
    _server()
    with _context.Pool(WORKERS) as pool:
        yield from pool.imap_unordered(
            functools.partial(caught, one), tries, chunksize=max(1, min(32, len(tries) // 50))
        )


def started(
    arguments: Sequence[str], cache: Path, log: Path, *, through: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """`python -m ingot ...`, as a user starts it; what it says goes to `log`. `through`: a command that starts it."""
    environment = {**os.environ, "PYTHONPATH": _PATH, "INGOT_CACHE": str(cache)}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [*through, sys.executable, "-m", "ingot", *arguments], env=environment, stdin=subprocess.DEVNULL,
            stdout=stream, stderr=stream,
        )  # fmt: skip


def forked(arguments: Sequence[str], cache: Path, log: Path, **setting: Any) -> BaseProcess:
    """The same command in a fork of the server. `setting`: see `_child`."""
    _server()
    process = _context.Process(target=_child, args=(list(arguments), str(cache), str(log)), kwargs=setting)
    process.start()
    return process


def running(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """A function of a module in a fork of the server; an exception ends it with 1."""
    _server()
    process = _context.Process(target=function, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Wait; the exit code, negative after a signal."""
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def _child(
    arguments: list[str],
    cache: str,
    log: str,
    *,
    start_at: float = 0,
    umask: int | None = None,
    user: int | None = None,
) -> None:
    """One command. `start_at`: monotonic time to wait for; `user`: give root up for this uid first."""
    import time

    from ingot.cli import main

    os.environ["INGOT_CACHE"] = cache
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if umask is not None:
        os.umask(umask)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    time.sleep(max(0.0, start_at - time.monotonic()))
    sys.exit(main(arguments))


@functools.cache
def _server() -> None:
    """Start the server; its forks find the packages where it did, by PYTHONPATH."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = _PATH
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
