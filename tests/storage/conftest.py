"""Lets the tests of this room, and the end-to-end battery, import `faulty_disk` under any pytest import mode."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
