"""The pretraining text: generated prose, tables and records, chat pairs, and standard-library docstrings."""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import words as w
from corpus_chat import chat_pair, item, items, record, sentence
from tokenizer import BOS, EOS, render_chat

_SKIPPED_PACKAGES = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"})


def stdlib_docstrings(min_chars: int = 80, max_chars: int = 1200) -> list[str]:
    """Docstrings of the running Python's standard library (PSF licence), in a fixed order, without duplicates."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_PACKAGES.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node) or ""
                if len(text) >= min_chars and text.isascii():
                    found[text[:max_chars]] = None
    return list(found)


def _story(rng: random.Random) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(2, 6)))


def _repetition(rng: random.Random) -> str:
    """A random list, written again and again in the same or another layout: food for copying heads."""
    parts = items(rng, 3, 10)
    seps = (", ", " ", "; ", " - ", "\n", "/", "-", ".")
    first, second = rng.choice(seps), rng.choice(seps)
    if rng.random() < 0.6:
        second = first
    layouts = [first.join(parts)] + [second.join(parts)] * rng.randint(1, 3)
    return rng.choice(("\n\n", " | ", " = ", "\n")).join(layouts)


def _record_table(rng: random.Random) -> str:
    """A record in two layouts, fields of the second perhaps in another order."""
    data = record(rng)
    keys = rng.sample(tuple(data), len(data)) if rng.random() < 0.5 else list(data)
    layouts = []
    for order in (list(data), keys):
        layouts.append(
            rng.choice(
                (
                    json.dumps({k: data[k] for k in order}),
                    "\n".join(f"{k}: {data[k]}" for k in order),
                    ", ".join(f"{k}={data[k]}" for k in order),
                    " ".join(f"The {k} is {data[k]}." for k in order),
                )
            )
        )
    return "\n".join(layouts)


def _calendar(rng: random.Random) -> str:
    """A few lines of month, weekday and number facts."""
    lines = []
    for _ in range(rng.randint(2, 6)):
        month, small = rng.randrange(12), rng.randrange(1, 32)
        name = w.MONTHS[month]
        lines.append(
            rng.choice(
                (
                    f"{name} is month number {month + 1} of the year.",
                    f"Month {month + 1:02} is {name}, or {name[:3]} for short.",
                    f"{month + 1} {name[:3]} {name}",
                    f"After {name} comes {w.MONTHS[(month + 1) % 12]}.",
                    f"{small} = {small:02} = {w.number_word(small)}",
                    f"{w.ordinal(small)} means {w.ordinal_word(small)}, number {small}.",
                    f"{' '.join(str(small + i) for i in range(6))}",
                    f"{w.WEEKDAYS[small % 7]} is followed by {w.WEEKDAYS[(small + 1) % 7]}.",
                )
            )
        )
    return "\n".join(lines)


def _dictionary(rng: random.Random) -> str:
    """Arbitrary word pairs, then some of them asked for again."""
    keys = items(rng, 3, 7)
    pairs = {key: item(rng) for key in keys}
    asked = rng.choices(keys, k=rng.randint(2, 6))
    arrow = rng.choice((" -> ", ": ", " = "))
    return "\n".join(f"{k}{arrow}{v}" for k, v in [*pairs.items(), *((k, pairs[k]) for k in asked)])


def documents(rng: random.Random, docstrings: list[str]) -> Iterator[str]:
    """Endless pretraining documents, special tokens included."""
    makers = (_story, _repetition, _record_table, _calendar, _dictionary)
    while True:
        roll = rng.random()
        if roll < 0.68:
            turns = [chat_pair(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
            messages = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
            yield render_chat(messages)
        elif roll < 0.95:
            yield f"{BOS}{rng.choice(makers)(rng)}{EOS}"
        else:
            yield f"{BOS}{rng.choice(docstrings)}{EOS}"
