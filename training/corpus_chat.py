"""Chat-formatted pretraining pairs: copying, re-formatting, look-up, small talk.

None of these is a demo task: no pair maps a full date to an ISO date or a smart-home request to a JSON command.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import words as w

Pair = tuple[str, str]

_POOL: tuple[str, ...] = (
    w.ROOMS + w.DEVICES + w.ANIMALS + w.FRUITS + w.COLOURS + w.THINGS + w.PLACES + w.ADJECTIVES + w.JOBS
)
_PROPER: tuple[str, ...] = w.NAMES + w.CITIES + w.MONTHS + w.WEEKDAYS


def number(rng: random.Random) -> str:
    """A number in digits; small, two-digit, year-like or arbitrary."""
    return str(rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(1900, 2060), rng.randrange(10000))))


def item(rng: random.Random) -> str:
    """A word, a proper name or a number."""
    roll = rng.random()
    if roll < 0.2:
        return number(rng)
    return rng.choice(_PROPER if roll < 0.4 else _POOL)


def items(rng: random.Random, low: int, high: int) -> list[str]:
    """Between ``low`` and ``high`` distinct items."""
    return list(dict.fromkeys(item(rng) for _ in range(rng.randint(low, high)))) or [item(rng)]


def record(rng: random.Random) -> dict[str, str | int]:
    """A small record with two to five random keys."""
    keys = rng.sample(w.RECORD_KEYS, rng.randint(2, 5))
    values = [item(rng) for _ in keys]
    return {key: int(value) if value.isdigit() else value for key, value in zip(keys, values, strict=True)}


def sentence(rng: random.Random) -> str:
    """One English sentence from a small grammar."""
    name, other = rng.sample(w.NAMES, 2)
    noun = rng.choice(w.THINGS + w.ANIMALS + w.FRUITS)
    place = rng.choice(w.PLACES + w.ROOMS)
    adjective, colour = rng.choice(w.ADJECTIVES), rng.choice(w.COLOURS)
    return rng.choice(
        (
            f"{name} {rng.choice(w.VERBS)} the {adjective} {noun} in the {place}.",
            f"{name} {rng.choice(w.VERBS)} a {colour} {noun} near the {place}.",
            f"The {adjective} {noun} in the {place} belongs to {name}.",
            f"{name} gave {other} {number(rng)} coins for the {colour} {noun}.",
            f"{name} the {rng.choice(w.JOBS)} lives in {rng.choice(w.CITIES)}.",
            f"{name} {rng.choice(w.VERB_PHRASES)} the {rng.choice(w.DEVICES)} in the {rng.choice(w.ROOMS)}.",
            f"In the {rng.choice(w.ROOMS)}, {name} {rng.choice(w.VERB_PHRASES)} the {rng.choice(w.DEVICES)}.",
            f"{other} could not find the {rng.choice(w.ROOMS)} {rng.choice(w.DEVICES)} on {rng.choice(w.WEEKDAYS)}.",
            f"{name} came to {rng.choice(w.CITIES)} in {rng.choice(w.MONTHS)} {rng.randrange(1900, 2060)}.",
            f"Would you like to meet {name} at the {place} on {rng.choice(w.WEEKDAYS)}?",
        )
    )


def _copying(rng: random.Random) -> Pair:
    text = rng.choice((sentence(rng), ", ".join(items(rng, 2, 6)), " ".join(items(rng, 2, 6))))
    ask, answer = rng.choice(
        (
            ("Repeat: {}", text),
            ("Say again: {}", text),
            ("Please copy this text: {}", text),
            ("Write in capital letters: {}", text.upper()),
            ("Write in small letters: {}", text.lower()),
            ("Put in quotes: {}", json.dumps(text)),
            ("Write twice: {}", f"{text} {text}"),
        )
    )
    return ask.format(text), answer


def _list_work(rng: random.Random) -> Pair:
    words = items(rng, 3, 7)
    if rng.random() < 0.3:
        words = [number(rng) for _ in words]
    place = rng.randrange(len(words))
    text, mark = ", ".join(words), rng.choice(("-", "/", ".", "+", "_", " and ", ":"))
    return rng.choice(
        (
            (f"Reverse the list: {text}", ", ".join(reversed(words))),
            (f"What comes first? {text}", words[0]),
            (f"What comes last? {text}", words[-1]),
            (f"What is item {place + 1}? {text}", words[place]),
            (f"What is the {w.ordinal_word(place + 1)} item of this list: {text}", words[place]),
            (f"How many items? {text}", str(len(words))),
            (f"Join with {mark.strip()}: {text}", mark.join(words)),
            (f"Split at {mark.strip()}: {mark.join(words)}", text),
            (f"As a JSON list: {text}", json.dumps(words)),
            (f"Which items are in this list? {json.dumps(words)}", text),
            (f"Number the items: {text}", " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))),
            (f"Swap the first and the last: {text}", ", ".join([words[-1], *words[1:-1], words[0]])),
        )
    )


def _words_of(rng: random.Random) -> Pair:
    text = sentence(rng)
    parts = text.rstrip(".?").replace(",", "").split()
    return rng.choice(
        (
            (f"List the words of: {text}", ", ".join(parts)),
            (f"What is the last word of: {text}", parts[-1]),
            (f"What is the first word of: {text}", parts[0]),
            (f"How many words are in: {text}", str(len(parts))),
            (f"Which word follows {parts[2]!r} in: {text}", parts[3]),
        )
    )


def _records(rng: random.Random) -> Pair:
    data = record(rng)
    key = rng.choice(tuple(data))
    flat = ", ".join(f"{k}: {v}" for k, v in data.items())
    prose = " and ".join(f"the {k} is {v}" for k, v in data.items())
    order = rng.sample(tuple(data), len(data))
    return rng.choice(
        (
            (f"Write as JSON: {flat}", json.dumps(data)),
            (f"Write as JSON: {prose}.", json.dumps(data)),
            (f"Make a record where {prose}.", json.dumps(data)),
            (f"Explain this record: {json.dumps(data)}", prose[0].upper() + prose[1:] + "."),
            (f"List the fields: {json.dumps(data)}", flat),
            (f"{flat}. What is the {key}?", str(data[key])),
            (f"{json.dumps(data)} What is the {key}?", str(data[key])),
            (f"{prose[0].upper() + prose[1:]}. Tell me the {key}.", str(data[key])),
            (f"Order the fields as {', '.join(order)}: {flat}", ", ".join(f"{k}: {data[k]}" for k in order)),
            (f"Write as JSON with {', '.join(order)}: {prose}.", json.dumps({k: data[k] for k in order})),
        )
    )


_KINDS: dict[str, tuple[str, ...]] = {
    "animal": w.ANIMALS,
    "fruit": w.FRUITS,
    "colour": w.COLOURS,
    "city": w.CITIES,
    "name": w.NAMES,
    "job": w.JOBS,
    "weekday": w.WEEKDAYS,
    "month": w.MONTHS,
}


def _questions(rng: random.Random) -> Pair:
    name, thing, other = rng.choice(w.NAMES), rng.choice(w.THINGS), rng.choice(w.THINGS)
    place, colour = rng.choice(w.PLACES + w.ROOMS), rng.choice(w.COLOURS)
    kind = rng.choice(tuple(_KINDS))
    member = rng.choice(_KINDS[kind])
    crowd = [member, rng.choice(w.THINGS), rng.choice(w.PLACES), rng.choice(w.DEVICES)]
    rng.shuffle(crowd)
    fact = f"{name} has a {colour} {thing} in the {place}."
    return rng.choice(
        (
            (f"{fact} Where is the {thing}?", f"The {thing} is in the {place}."),
            (f"{fact} Which colour has the {thing}?", f"The {thing} is {colour}."),
            (f"{fact} Who has the {thing}?", f"{name} has the {thing}."),
            (f"{fact} What does {name} have?", f"{name} has a {colour} {thing}."),
            (f"Replace {thing} by {other}: {fact}", fact.replace(thing, other)),
            (f"Find the {kind}: {' '.join(crowd)}", member),
            (f"Which {kind} is in this list? {', '.join(crowd)}", member),
            (f"What is {member}?", f"{member} is a {kind}."),
            (f"Name a {kind}.", rng.choice(_KINDS[kind])),
        )
    )


def _number_facts(rng: random.Random) -> Pair:
    small, month, a, b = rng.randrange(1, 32), rng.randrange(12), rng.randrange(20), rng.randrange(20)
    spelled, nth = w.number_word(small), rng.choice((w.ordinal(small), w.ordinal_word(small)))
    name = w.MONTHS[month]
    return rng.choice(
        (
            (f"Which number is {spelled}?", str(small)),
            (f"Write {small} in words.", spelled),
            (f"Which number belongs to {nth}?", str(small)),
            (f"Which ordinal belongs to {small}?", f"{w.ordinal(small)}, or {w.ordinal_word(small)}"),
            (f"Which number has the month {name}?", str(month + 1)),
            (f"Which number has the month {name[:3]}?", str(month + 1)),
            (f"Which month has the number {month + 1}?", name),
            (f"How is {name} shortened?", name[:3]),
            (f"Which month comes after {name}?", w.MONTHS[(month + 1) % 12]),
            (f"Which month comes before {name}?", w.MONTHS[month - 1]),
            (f"Write {small} with two digits.", f"{small:02}"),
            (f"Write {spelled} with two digits.", f"{small:02}"),
            (f"Write {nth} with two digits.", f"{small:02}"),
            (f"How much is {a} plus {b}?", str(a + b)),
            (f"Which is larger, {a} or {b}?", str(max(a, b))),
            (f"Which number comes after {small}?", str(small + 1)),
        )
    )


def _word_facts(rng: random.Random) -> Pair:
    word, (one, two) = rng.choice(_POOL + _PROPER), rng.choice(w.OPPOSITES)
    day = rng.randrange(7)
    return rng.choice(
        (
            (f"Spell {word}.", "-".join(word)),
            (f"Which word is this: {'-'.join(word)}", word),
            (f"What is the opposite of {one}?", two),
            (f"What is the opposite of {two}?", one),
            (f"Which day comes after {w.WEEKDAYS[day]}?", w.WEEKDAYS[(day + 1) % 7]),
            (f"Which letter comes first in {word}?", word[0]),
        )
    )


_SMALL_TALK: tuple[Pair, ...] = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there.", "Hi! What can I do for you?"),
    ("Good morning.", "Good morning! How are you today?"),
    ("How are you?", "I am fine, thank you. And you?"),
    ("Thank you.", "You are welcome."),
    ("Goodbye.", "Goodbye! Have a nice day."),
    ("Who are you?", "I am a small language model made for a demo."),
    ("What can you do?", "I can repeat text, sort out lists and answer short questions."),
    ("Can you help me?", "Of course. Please tell me what you need."),
    ("I do not understand.", "Let us look at it again, one step at a time."),
)


def _small_talk(rng: random.Random) -> Pair:
    if rng.random() < 0.5:
        return rng.choice(_SMALL_TALK)
    name = rng.choice(w.NAMES)
    return rng.choice(
        (
            (f"Hello, I am {name}.", f"Hello {name}! How can I help you?"),
            (f"My name is {name}.", f"Nice to meet you, {name}."),
            (sentence(rng), "I see. Please tell me more."),
            (f"Do you know {name}?", f"No, I do not know {name}."),
        )
    )


_MAKERS: tuple[tuple[Callable[[random.Random], Pair], float], ...] = (
    (_copying, 2.0),
    (_list_work, 3.0),
    (_words_of, 1.0),
    (_records, 4.0),
    (_questions, 2.0),
    (_number_facts, 2.0),
    (_word_facts, 1.0),
    (_small_talk, 0.4),
)


def chat_pair(rng: random.Random) -> Pair:
    """One user message and its answer, of a randomly chosen kind."""
    makers, weights = zip(*_MAKERS, strict=True)
    make: Callable[[random.Random], Pair] = rng.choices(makers, weights)[0]
    return make(rng)
