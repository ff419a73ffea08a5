"""Every input cut at every length: refused before anything is written."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from ingot.errors import IngotError
from tests.battery.figure import Count, Figure, Report, counted, thinned
from tests.battery.processes import parallel
from tests.battery.workshop import Workshop, scratch, small_model, workshop

#: File, whether it is the adapter's, and its name in the figure.
FILES = (
    ("model-00001-of-00002.safetensors", False, "shard"),
    ("model.safetensors.index.json", False, "index"),
    ("config.json", False, "config"),
    ("adapter_model.safetensors", True, "adapter"),
    ("adapter_config.json", True, "adapter config"),
)


def run(scale: float, report: Report) -> Figure:
    with workshop(small_model, index=True) as shop:
        return Figure([_file(shop, *file, scale, report) for file in FILES])


def _file(shop: Workshop, name: str, of_adapter: bool, title: str, scale: float, report: Report) -> Count:
    path = (shop.adapter if of_adapter else shop.base) / name
    lengths = thinned(range(path.stat().st_size), scale, 5)
    what = f"lengths of a cut {title} refused before anything is written"
    return counted(what, len(lengths), parallel(partial(_cut, shop, name, of_adapter), lengths), report)


def _cut(shop: Workshop, name: str, of_adapter: bool, length: int) -> str | None:
    with scratch(shop.root / "tries") as folder:
        for source in (shop.base, shop.adapter):
            shutil.copytree(source, folder / source.name)
        copy = Workshop(folder, folder / "base", folder / "adapter")
        cut = (copy.adapter if of_adapter else copy.base) / name
        with cut.open("r+b") as file:
            file.truncate(length)
        try:
            copy.merge(folder / "out" / "model")
        except IngotError as refusal:
            return _written(folder) or (f"{length}: {refusal!r}" if refusal.exit_code not in (10, 11, 16) else None)
        return f"{name} cut to {length} bytes: accepted"


def _written(folder: Path) -> str | None:
    extra = sorted(path.name for path in folder.iterdir() if path.name not in ("base", "adapter", "cache"))
    return f"written: {extra}" if extra else None
