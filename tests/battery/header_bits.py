"""Every bit of a header flipped: refused, or done as the header says, and noticed by `verify` of the honest output."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from ingot.errors import IngotError
from ingot.record import verify
from tests.battery.figure import Count, Figure, Report, counted, thinned
from tests.battery.processes import parallel
from tests.battery.workshop import RECORD, Workshop, content_of, flip, scratch, small_model, workshop

SHARD = "model.safetensors"
FILES = ((SHARD, False, "base shard's header"), ("adapter_model.safetensors", True, "adapter's header"))


def run(scale: float, report: Report) -> Figure:
    with workshop(small_model) as shop:
        shop.reference()
        return Figure([_file(shop, *file, scale, report) for file in FILES])


def header_nbytes(path: Path) -> int:
    """Of a safetensors file: its length field and the JSON."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _file(shop: Workshop, name: str, of_adapter: bool, title: str, scale: float, report: Report) -> Count:
    bits = thinned(range(8 * header_nbytes((shop.adapter if of_adapter else shop.base) / name)), scale, 20)
    count = Count(f"flipped bits of the {title}: refused, or done as it says and noticed")
    faults = parallel(partial(_flip, shop, name, of_adapter), bits)
    return counted(count.what, len(bits), faults, report)


def _flip(shop: Workshop, name: str, of_adapter: bool, bit: int) -> str | None:
    with scratch(shop.root / "tries") as folder:
        for source in (shop.base, shop.adapter):
            shutil.copytree(source, folder / source.name)
        copy = Workshop(folder, folder / "base", folder / "adapter")
        flip((copy.adapter if of_adapter else copy.base) / name, bit)
        try:
            copy.merge(folder / "out")
        except IngotError as refusal:
            return f"bit {bit}: refused, and yet written" if (folder / "out").exists() else _is_ours(refusal, bit)
        fault = _output_fault(shop, copy, folder / "out", of_adapter) or _unnoticed(shop, copy)
        return f"bit {bit} of {name}: {fault}" if fault else None


def _is_ours(refusal: IngotError, bit: int) -> str | None:
    return None if refusal.exit_code in (10, 11, 12, 16) else f"bit {bit}: {refusal!r}"


def _output_fault(shop: Workshop, copy: Workshop, out: Path, of_adapter: bool) -> str | None:
    """The shard must be the honest one's payload behind the base's header, whichever header was flipped."""
    shard, honest = (out / SHARD).read_bytes(), (shop.root / "reference" / SHARD).read_bytes()
    start = header_nbytes(copy.base / SHARD)
    if shard != (copy.base / SHARD).read_bytes()[:start] + honest[header_nbytes(shop.base / SHARD) :]:
        return "the output is not what the header says"
    found, expected = content_of(out) or {}, shop.reference()
    same = {"config.json"} | ({SHARD} if of_adapter else set())
    differing = {name for name in same if found.get(name) != expected[name]}
    if differing or found.keys() != expected.keys() or found[RECORD] == expected[RECORD]:
        return f"other files differ, or the records do not: {sorted(differing)}"
    return None


def _unnoticed(shop: Workshop, copy: Workshop) -> str | None:
    found = verify(shop.root / "reference", depth="against-inputs", base=str(copy.base), adapters=[str(copy.adapter)])
    return "verify --against-inputs did not notice" if found.ok else None
