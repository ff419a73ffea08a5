"""What this machine has for ingot: versions, memory, devices, and what the disk can do. Measured, not claimed."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ingot.errors import IngotError, MissingComponent, UsageError
from ingot.plan.figures import labelled, nbytes_text
from ingot.quantize.gguf.native import find
from ingot.storage import PosixDisk, cache_directory
from ingot.version import __version__

#: Oldest release that works, and the series that the tests run on; the oldest of a core component is pyproject's.
CORE = {
    "torch": ("2.10", "2.13"),
    "numpy": ("2", "2"),
    "transformers": ("5.15", "5.17"),
    "huggingface_hub": ("1", "1"),
    "msgspec": ("0.20", "0.22"),
    "click": ("8.1", "8"),
    "rich": ("14", "15"),
    "pyyaml": ("6", "6"),
}
#: For `ingot validate`, GGUF, and users' own scripts: useful, not needed by a merge.
EXTRA = {"peft": ("0.21", "0.21"), "safetensors": ("0.8", "0.8"), "gguf": ("0.19", "0.19")}
_INSTALL = "pip install -U ingot-merge"
_HASH_SECONDS = 0.1
_TRIED_NBYTES = 1 << 20


@dataclass(frozen=True)
class Component:
    """A library. `version` None: not installed. `standing`: tested, untested, too old, missing, or broken."""

    name: str
    version: str | None
    standing: str
    core: bool

    @property
    def fatal(self) -> bool:
        return self.core and self.standing in ("missing", "too old", "broken")


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at; `facts` are JSON types by topic."""

    components: tuple[Component, ...]
    facts: Mapping[str, object]
    texts: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether every core component is there and new enough."""
        return not any(component.fatal for component in self.components)

    def as_error(self) -> MissingComponent:
        """What is missing, and the command that installs it."""
        wrong = [f"{c.name} {c.version or ''}".strip() + f" ({c.standing})" for c in self.components if c.fatal]
        what = "a needed component is missing, too old or broken"
        return MissingComponent(what, found=", ".join(wrong), hint=f"Run `{_INSTALL}`.")

    def as_json(self) -> dict[str, object]:
        """The facts, with `components` as {name: {version, standing, core}}."""
        shown = {c.name: {"version": c.version, "standing": c.standing, "core": c.core} for c in self.components}
        return {"ok": self.ok, "components": shown, **self.facts}

    def as_lines(self, width: int) -> list[str]:
        """A line a topic, then a line a component."""
        lines = [line for label, text in self.texts for line in labelled(label, [text], width)]
        rows = [f"  {c.name:<16} {c.version or '-':<12} {_said(c)}" for c in self.components]
        return [*lines, "", "Components", *rows]


def examine(directory: Path) -> Diagnosis:
    """Look at this machine, and at the disk of `directory`. Takes a few seconds, most of them torch's import.

    Raises:
        UsageError: no such directory.
    """
    if not directory.is_dir():
        raise UsageError("no such directory", where=directory)
    components = tuple(_component(name, *versions, core=True) for name, versions in CORE.items())
    components += tuple(_component(name, *versions, core=False) for name, versions in EXTRA.items())
    devices, broken = _devices()
    if broken:
        components = tuple(_broken(c) if c.name == "torch" and c.version else c for c in components)
    facts = _facts(directory, devices)
    return Diagnosis(components, facts, _texts(facts, broken))


def _facts(directory: Path, devices: list[str]) -> dict[str, object]:
    cache = cache_directory()
    return {
        "ingot": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_nbytes": memory_nbytes(),
        "devices": devices,
        "disk": _try_disk(directory.absolute()),
        "sha256_nbytes_per_second": _hash_speed(),
        "cache": None if cache is None else str(cache),
        "gguf_quantizers": find().lines(),
    }


def _texts(facts: Mapping[str, object], broken: str | None) -> tuple[tuple[str, str], ...]:
    disk, memory, speed = facts["disk"], facts["memory_nbytes"], facts["sha256_nbytes_per_second"]
    assert isinstance(disk, dict)
    assert isinstance(speed, float)
    devices = facts["devices"]
    quantizers = facts["gguf_quantizers"]
    assert isinstance(devices, list)
    assert isinstance(quantizers, list)
    if disk["error"]:
        ways = f"nothing can be written here: {disk['error']}"
    else:
        direct = "direct writes" if disk["direct"] else "no direct writes: data goes through the page cache"
        ways = f"{direct}, {'copies share blocks (reflink)' if disk['copy'] == 'reflink' else 'copies are real copies'}"
    return (
        ("ingot", f"{__version__}, Python {facts['python']}, {facts['platform']}"),
        ("Processor", f"{facts['cores']} usable cores, sha256 at {nbytes_text(speed)}/s on one of them"),
        ("Memory", nbytes_text(memory) if isinstance(memory, int) else "unknown"),
        ("Devices", ", ".join(devices) or broken or "no CUDA device: the CPU does it"),
        ("Disk", f"{nbytes_text(disk['free_nbytes'])} free, {ways} (in {disk['directory']})"),
        ("Cache", str(facts["cache"] or "none: there is no home directory")),
        ("GGUF", "; ".join(map(str, quantizers))),
    )


def _component(name: str, oldest: str, tested: str, *, core: bool) -> Component:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Component(name, None, "missing", core)
    if _numbers(version) < _numbers(oldest):
        return Component(name, version, "too old", core)
    same = _numbers(version)[: len(_numbers(tested))] == _numbers(tested)
    return Component(name, version, "tested" if same else "untested", core)


def _broken(component: Component) -> Component:
    return Component(component.name, component.version, "broken", component.core)


def _said(component: Component) -> str:
    if component.standing == "missing" and not component.core:
        return "not installed, not needed to merge"
    oldest, tested = (CORE | EXTRA)[component.name]
    more = {"too old": f", at least {oldest} is needed", "untested": f", tests run on {tested}"}
    return component.standing + more.get(component.standing, "")


def _numbers(version: str) -> tuple[int, ...]:
    """The release's numbers. Example: "2.13.0+cpu" -> (2, 13, 0)"""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not part[:1].isdigit():
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _devices() -> tuple[list[str], str | None]:
    """CUDA devices that torch can use, and why torch cannot be used at all."""
    try:
        import torch
    except Exception as failure:  # a broken build fails in many ways, and to say so is what doctor is for
        return [], f"torch cannot be imported: {type(failure).__name__}: {failure}"
    if not torch.cuda.is_available():
        return [], None
    return [
        f"cuda:{n} {torch.cuda.get_device_name(n)}, {nbytes_text(torch.cuda.get_device_properties(n).total_memory)}"
        for n in range(torch.cuda.device_count())
    ], None


def memory_nbytes() -> int | None:
    """Memory that this process may use: the machine's, or its control group's where that is less."""
    known = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            known.append(int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(known, default=None)


def _try_disk(directory: Path) -> dict[str, object]:
    """Write a file and copy it, the way a run does; both are gone afterwards."""
    disk = PosixDisk()
    found: dict[str, object] = {"directory": str(directory), "free_nbytes": shutil.disk_usage(directory).free}
    try:
        with tempfile.TemporaryDirectory(prefix=".ingot-doctor-", dir=directory) as scratch:
            first = disk.create(Path(scratch) / "a", nbytes=_TRIED_NBYTES, direct=True)
            first.write_at(_aligned(_TRIED_NBYTES), 0)
            direct = first.direct
            first.sync()
            first.close()
            with open(Path(scratch) / "a", "rb") as source:
                copy, method = disk.clone(Path(scratch) / "b", source.fileno())
                copy.close()
        return {**found, "direct": direct, "copy": method, "error": None}
    except (OSError, IngotError) as failure:
        return {**found, "direct": False, "copy": None, "error": getattr(failure, "message", None) or str(failure)}


def _aligned(nbytes: int) -> memoryview:
    """Zeros at a page's start, as direct I/O wants them."""
    import mmap

    return memoryview(mmap.mmap(-1, nbytes))


def _hash_speed() -> float:
    """Bytes a second of sha256, measured for a tenth of a second."""
    piece, digest, done = bytes(_TRIED_NBYTES), hashlib.sha256(), 0
    started = time.perf_counter()
    while (seconds := time.perf_counter() - started) < _HASH_SECONDS:
        digest.update(piece)
        done += len(piece)
    return done / seconds
