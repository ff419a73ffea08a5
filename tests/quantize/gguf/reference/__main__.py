"""Writes the records: `python -m tests.quantize.gguf.reference`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.quantize.gguf.reference import bytes as bytes_record
from tests.quantize.gguf.reference import files, plans


def main() -> None:
    bytes_record.RECORD.write_text(json.dumps(bytes_record.record(), indent=0) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        recorded = plans.record(Path(folder))
        files.write(files.record(Path(folder)))
    plans.RECORD.write_text(json.dumps(recorded, indent=0) + "\n", encoding="utf-8")


main()
