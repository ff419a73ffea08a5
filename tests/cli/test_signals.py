"""Signals to a process of its own: what it ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ingot.errors

SOURCE = Path(ingot.errors.__file__).parents[1]
_VICTIM = """
import os, signal, sys
from ingot.cli.signals import Stopper
stopper = Stopper()
with stopper.listening():
    try:
        exec("os.kill(os.getpid(), signal.NAME)")
    except KeyboardInterrupt:
        pass
sys.exit(stopper.exit_code)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 130)])
def test_a_stop_that_was_caught_on_its_way_out_of_an_import_ends_with_its_own_code(
    tmp_path: Path, name: str, code: int
) -> None:
    (tmp_path / "victim.py").write_text(_VICTIM.replace("NAME", name))
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    found = subprocess.run([sys.executable, "-m", "victim"], cwd=tmp_path, env=environment, check=False)
    assert found.returncode == code
