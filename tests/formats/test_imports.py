"""What importing ingot.formats brings in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["torch", "numpy", "safetensors", "pickle", "zipfile", "importlib.util"])
def test_the_readers_of_untrusted_files_import_no_library_that_could_run_or_unpack_them(module: str) -> None:
    script = f"import sys; import ingot.formats; print({module!r} in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if "site-packages" not in path)}
    command = [sys.executable, "-S", "-c", script]  # -S: no site module, which imports on its own account
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert found == "False\n"
