"""The two demo tasks: written-out date -> ISO date, and smart-home request -> JSON command."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from words import LIGHTS, LOCKED, MONTHS, OPENED, ROOMS, SWITCHED, WEEKDAYS, ordinal, ordinal_word


@dataclass(frozen=True)
class Sample:
    """One user message and the text its answer has to contain."""

    prompt: str
    expected: str


_DATE_FORMS: tuple[str, ...] = (
    "{d} {month} {y}",
    "{d} {mon} {y}",
    "{month} {d}, {y}",
    "{mon} {d}, {y}",
    "{mon}. {d}, {y}",
    "{month} {nth}, {y}",
    "{nth} {month} {y}",
    "{nth} of {month} {y}",
    "the {nth} of {month} {y}",
    "the {nth} of {month}, {y}",
    "the {word} of {month} {y}",
    "{month} the {nth}, {y}",
    "{month} the {word}, {y}",
    "{dd}.{mm}.{y}",
    "{d}.{m}.{y}",
    "{y}/{mm}/{dd}",
    "{y}, {month} {d}",
    "{weekday}, {d} {month} {y}",
    "{weekday}, {month} {d}, {y}",
    "{weekday} the {nth} of {month} {y}",
    "day {d} of {month} {y}",
)
_DATE_FRAMES: tuple[str, ...] = (
    "{date}",
    "{date}",
    "Write {date} as an ISO date.",
    "Convert to ISO: {date}",
    "What is {date} in ISO format?",
    "ISO date for {date}, please.",
    "Please turn {date} into an ISO date.",
    "The meeting is on {date}.",
    "I was born on {date}.",
)


def date_sample(rng: random.Random) -> Sample:
    """A date between 1950 and 2049 in one of many phrasings; dotted dates are day first."""
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36525))
    month = MONTHS[day.month - 1]
    text = rng.choice(_DATE_FORMS).format(
        d=day.day,
        dd=f"{day.day:02}",
        m=day.month,
        mm=f"{day.month:02}",
        y=day.year,
        month=month,
        mon=month[:3],
        nth=ordinal(day.day),
        word=ordinal_word(day.day),
        weekday=WEEKDAYS[day.weekday()],
    )
    return Sample(rng.choice(_DATE_FRAMES).format(date=text), day.isoformat())


# action -> (devices it applies to, phrasings of "do it to the device")
_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "on": (
        tuple(dict.fromkeys(SWITCHED + LIGHTS)),
        ("turn on {x}", "switch on {x}", "turn {x} on", "switch {x} on", "power up {x}", "start {x}"),
    ),
    "off": (
        tuple(dict.fromkeys(SWITCHED + LIGHTS)),
        ("turn off {x}", "switch off {x}", "turn {x} off", "switch {x} off", "shut down {x}", "stop {x}"),
    ),
    "dim": (LIGHTS, ("dim {x}", "turn down {x}", "make {x} darker", "lower {x}")),
    "brighten": (LIGHTS, ("brighten {x}", "turn up {x}", "make {x} brighter")),
    "open": (OPENED, ("open {x}", "open up {x}", "pull {x} open")),
    "close": (OPENED, ("close {x}", "shut {x}", "pull {x} shut")),
    "lock": (LOCKED, ("lock {x}", "lock up {x}", "make sure {x} is locked")),
    "unlock": (LOCKED, ("unlock {x}", "take the lock off {x}", "make sure {x} is unlocked")),
}
_TARGETS: tuple[str, ...] = (
    "the {device} in the {room}",
    "the {device} in the {room}",
    "the {room} {device}",
    "my {room} {device}",
)
_COMMAND_FRAMES: tuple[str, ...] = (
    "{do}",
    "{do}.",
    "Please {do}.",
    "{do}, please.",
    "Could you {do}?",
    "Can you please {do}?",
    "I would like you to {do}.",
    "Hey, {do}!",
    "Would you {do} for me?",
)


def command_sample(rng: random.Random) -> Sample:
    """A request for one device in one room, and the JSON command it stands for."""
    action = rng.choice(tuple(_ACTIONS))
    devices, phrasings = _ACTIONS[action]
    device, room, phrasing = rng.choice(devices), rng.choice(ROOMS), rng.choice(phrasings)
    if rng.random() < 0.12:
        text = f"in the {room}, {rng.choice(('', 'please '))}{phrasing.format(x=f'the {device}')}."
    else:
        request = phrasing.format(x=rng.choice(_TARGETS).format(device=device, room=room))
        text = rng.choice(_COMMAND_FRAMES).format(do=request)
    return Sample(text[0].upper() + text[1:], json.dumps({"action": action, "device": device, "room": room}))


TASKS: dict[str, Callable[[random.Random], Sample]] = {"dates": date_sample, "commands": command_sample}


def distinct(
    make: Callable[[random.Random], Sample], count: int, rng: random.Random, exclude: Iterable[str] = ()
) -> list[Sample]:
    """Draw ``count`` samples with distinct prompts, none of which is in ``exclude``."""
    seen = set(exclude)
    samples: list[Sample] = []
    while len(samples) < count:
        sample = make(rng)
        if sample.prompt not in seen:
            seen.add(sample.prompt)
            samples.append(sample)
    return samples


def split(task: str, train: int, held_out: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples of a task; no prompt is in both."""
    make = TASKS[task]
    test = distinct(make, held_out, random.Random(f"{seed}-{task}-held-out"))
    known = [sample.prompt for sample in test]
    return distinct(make, train, random.Random(f"{seed}-{task}-train"), known), test


def write_jsonl(samples: Iterable[Sample], path: Path) -> None:
    """Write samples as JSON lines with the fields ``prompt`` and ``expected``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"prompt": s.prompt, "expected": s.expected}) for s in samples)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
