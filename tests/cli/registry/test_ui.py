"""`ingot registry ui` as a process of its own: it says where it is, answers, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingot.registry.store import Registry
from tests.cli.toys import environment, ingot


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Registry.open(tmp_path / "registry", create=True).layout.root


@contextmanager
def running(place: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "ingot", "registry", "ui", "--registry", str(place), "--port", "0", *arguments]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_answers_there_and_ends_cleanly(place: Path, number: signal.Signals) -> None:
    with running(place, "--json") as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["type"] == "serving"
        assert started["registry"] == str(place)
        with urllib.request.urlopen(started["url"], timeout=10) as response:
            assert b"There is no artifact yet" in response.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["type"] == "result"
    assert b"Traceback" not in err


def test_people_get_the_address_on_stdout_and_scripts_that_alone(place: Path) -> None:
    for flag, begin in (("--no-color", b"Page       http://127.0.0.1:"), ("--quiet", b"http://127.0.0.1:")):
        with running(place, flag) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(begin)


def test_where_there_is_no_registry_it_does_not_begin(tmp_path: Path) -> None:
    found = ingot("registry", "ui", "--registry", str(tmp_path / "none"), cwd=tmp_path)
    assert found.returncode == 2
    assert b"there is no registry here yet" in found.stderr
