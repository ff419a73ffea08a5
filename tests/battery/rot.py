"""Bits that rot in a finished artifact, and clean ones that must raise no alarm; through `ingot verify --read`."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

from tests.battery.figure import Figure, Report, counted, scaled
from tests.battery.processes import parallel
from tests.battery.workshop import cli, flip, scratch, workshop

BITS, CLEAN = 1000, 200


def run(scale: float, report: Report) -> Figure:
    with workshop() as shop:
        shop.reference()
        artifact, chance = shop.root / "reference", random.Random(8)
        payload = sorted(artifact.iterdir())
        sizes = [path.stat().st_size for path in payload]
        chosen = chance.choices(payload, weights=sizes, k=scaled(BITS, scale, 5))
        bits = [(path.name, chance.randrange(8 * path.stat().st_size)) for path in chosen]
        found = parallel(partial(_rot, artifact, shop.root / "tries"), bits)
        rotten = counted(
            "flipped bits caught by `verify --read`, with exit 1 and the file's name", len(bits), found, report
        )
        clean = [artifact] * scaled(CLEAN, scale, 2)
        calm = counted("clean verifications without an alarm", len(clean), parallel(_alarm, clean), report)
    return Figure([rotten, calm])


def _rot(artifact: Path, tries: Path, place: tuple[str, int]) -> str | None:
    name, bit = place
    with scratch(tries) as folder:
        for path in artifact.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        flip(folder / name, bit)
        code, said, _ = cli("verify", str(folder), "--read", "--json")
        lines = [json.loads(line) for line in said.splitlines()]
        failed = [line["detail"] for line in lines if line["type"] == "check" and not line["ok"]]
        named = any(detail.startswith(name) for detail in failed)
        return None if code == 1 and named else f"bit {bit} of {name}: exit {code}, {failed}"


def _alarm(artifact: Path) -> str | None:
    code, said, _ = cli("verify", str(artifact), "--read", "--json")
    return None if code == 0 else f"exit {code}: {said[-500:]}"
