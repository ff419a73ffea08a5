"""Bases and adapters that hold one hostile thing, made from the evil files of tests/formats and from links."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.battery.workshop import Workshop
from tests.formats.evil import CASES
from tests.formats.evil_case import CANARY, Case

BASE, INDEX, ADAPTER = "model-00002-of-00003.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class EvilFolder:
    """`spoil(shop, outside)` puts the thing into an honest base and adapter; the canary lives in `outside`."""

    name: str
    spoil: Callable[[Workshop, Path], None]


def file_case(case: Case, place: str) -> EvilFolder:
    """An evil file of tests/formats in the place of an honest one."""

    def spoil(shop: Workshop, outside: Path) -> None:
        os.close(_descriptor(case.prepare(outside)))
        if place.endswith(".bin"):
            (shop.adapter / ADAPTER).unlink()
        (outside / "evil").replace(shop.root / place)

    return EvilFolder(f"{case.name} as {place}", spoil)


def _descriptor(attempt: Callable[[], object]) -> int:
    """The open file of an attempt that will not be made."""
    return int(inspect.getclosurevars(attempt).nonlocals["fd"])


def text_case(case: Case, place: str) -> EvilFolder:
    """An evil JSON text of tests/formats: the bytes are the first argument of what parses them."""

    def spoil(shop: Workshop, outside: Path) -> None:
        (shop.root / place).write_bytes(case.prepare(outside).args[0])  # type: ignore[attr-defined]

    return EvilFolder(f"{case.name} as {place}", spoil)


def _formats() -> Iterator[EvilFolder]:
    for case in CASES["safetensors headers"]:
        yield file_case(case, f"base/{BASE}")
        yield file_case(case, f"adapter/{ADAPTER}")
    for case in CASES["pickles"] + CASES["zip files"]:
        yield file_case(case, "adapter/adapter_model.bin")
    for case in CASES["shard indexes"]:
        yield text_case(case, f"base/{INDEX}")
    for case in CASES["JSON documents"]:
        yield text_case(case, "base/config.json")
        yield text_case(case, "adapter/adapter_config.json")


def _link(target: Callable[[Path, Path], str]) -> Callable[[Path, Path], None]:
    """A link in the place of a file; `target(path, outside)` is what it says."""

    def put(path: Path, outside: Path) -> None:
        saved = outside / path.name
        path.rename(saved)
        path.symlink_to(target(path, outside))

    return put


def _special(make: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    def put(path: Path, outside: Path) -> None:
        path.rename(outside / path.name)
        make(path)

    return put


_LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a link to an honest file outside": _link(lambda path, outside: str(outside / path.name)),
    "a relative link outside": _link(lambda path, outside: os.path.relpath(outside / path.name, path.parent)),
    "a link to the canary": _link(lambda _, outside: str(outside / CANARY)),
    "a link to itself": _link(lambda path, _: path.name),
    "a link to nothing": _link(lambda _, outside: str(outside / "nothing")),
    "a link to a device": _link(lambda *_: "/dev/zero"),
    "a link to the process": _link(lambda *_: "/proc/self/environ"),
    "a link to a folder": _link(lambda _, outside: str(outside)),
    "a pipe": _special(os.mkfifo),
    "a folder": _special(lambda path: path.mkdir()),
}


def _linked() -> Iterator[EvilFolder]:
    places = {
        "base": (BASE, INDEX, "config.json", "tokenizer.json"),
        "adapter": (ADAPTER, "adapter_config.json", "tokenizer.json"),
    }
    for folder, names in places.items():
        for name in names:
            for title, put in _LINKS.items():
                yield EvilFolder(f"{title} as {folder}/{name}", _putting(put, folder, name))


def _putting(put: Callable[[Path, Path], None], folder: str, name: str) -> Callable[[Workshop, Path], None]:
    return lambda shop, outside: put(shop.root / folder / name, outside)


def copied(shop: Workshop, folder: Path) -> Workshop:
    """A copy of base and adapter to be spoilt, the adapter with a tokenizer of its own."""
    shutil.copytree(shop.base, folder / "base")
    shutil.copytree(shop.adapter, folder / "adapter")
    shutil.copy(shop.base / "tokenizer.json", folder / "adapter")
    return Workshop(folder, folder / "base", folder / "adapter")


FOLDERS: list[EvilFolder] = [*_formats(), *_linked()]
