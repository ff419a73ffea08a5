"""Typed reading of the values of a JSON object that may lack any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ingot.errors import AdapterError


@dataclass(frozen=True)
class Fields:
    """The keys of one JSON object. An absent key and null mean the default, except where null means something.

    Every method raises AdapterError, naming the key, where the value has another type.
    """

    raw: Mapping[str, Any]
    where: str

    def refuse(self, key: str, expected: str) -> NoReturn:
        found = repr(self.raw.get(key))[:80]
        raise AdapterError(f"`{key}` has a wrong value", where=self.where, expected=expected, found=found)

    def integer(self, key: str, default: int) -> int:
        value: int = self.raw.get(key, default)
        return value if _is_positive_integer(value) else self.refuse(key, "a positive integer")

    def number(self, key: str, default: float) -> float:
        value: float = self.raw.get(key, default)
        return value if _is_positive_number(value) else self.refuse(key, "a number above 0")

    def count(self, key: str, default: int) -> int:
        value: int = self.raw.get(key, default)
        nothing = isinstance(value, int) and not isinstance(value, bool) and value == 0
        return value if nothing or _is_positive_integer(value) else self.refuse(key, "an integer, 0 or above")

    def real(self, key: str, default: float) -> float:
        value: float = self.raw.get(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and (value == 0 or _is_positive_number(abs(value))) else self.refuse(key, "a number")

    def seed(self, key: str, default: int) -> int:
        value: int = self.raw.get(key, default)
        right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        return value if right else self.refuse(key, "an integer, 0 or above")

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.raw.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.refuse(key, "true or false")

    def text(self, key: str) -> str | None:
        value = self.raw.get(key)
        return value if value is None or isinstance(value, str) else self.refuse(key, "a text or null")

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first one is the default."""
        value = self.raw.get(key, choices[0])
        return value if isinstance(value, str) and value in choices else self.refuse(key, f"one of {list(choices)}")

    def initialization(self, key: str) -> bool | str:
        value = self.raw.get(key, True)
        if value is None:
            return False
        return value if isinstance(value, (bool, str)) else self.refuse(key, "true, false or a name")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts without the repeats; one text is a list of one."""
        value = self.texts_or_text(key)
        return (value,) if isinstance(value, str) else value or ()

    def texts_or_text(self, key: str) -> tuple[str, ...] | str | None:
        value = self.raw.get(key)
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.refuse(key, "a list of names, a text, or null")
        return tuple(dict.fromkeys(value))

    def integers(self, key: str) -> tuple[int, ...] | None:
        value = self.raw.get(key)
        if value is None or value == []:
            return None
        numbers = _integers([value] if isinstance(value, int) else value)
        return numbers or self.refuse(key, "a list of integers, 0 or above, without repeats")

    def tokens(self, key: str) -> tuple[int, ...] | Mapping[str, tuple[int, ...]] | None:
        value = self.raw.get(key)
        if not isinstance(value, dict):
            return self.integers(key)
        rows = {name: _integers(item) for name, item in value.items()}
        return (
            {name: item for name, item in rows.items() if item}
            if all(rows.values())
            else self.refuse(key, "token numbers, 0 or above, without repeats")
        )

    def ranges(self, key: str) -> tuple[tuple[int, int], ...]:
        """Pairs [begin, end) of numbers, 0 or above; at most 10,000 numbers in all."""
        value = self.raw.get(key)
        if not value:
            return ()
        pairs = [_integers(item) for item in value] if isinstance(value, list) else []
        ranges = tuple((pair[0], pair[1]) for pair in pairs if pair is not None and len(pair) == 2)
        right = len(ranges) == len(pairs) > 0 and all(begin < end for begin, end in ranges)
        if not right or sum(end - begin for begin, end in ranges) > 10_000:
            self.refuse(key, "pairs of layer numbers [begin, end)")
        return ranges

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.raw.get(key)
        if value is None or value is False:
            return {}
        return value if isinstance(value, dict) else self.refuse(key, "an object or null")

    def mapping_of_integers(self, key: str) -> Mapping[str, int]:
        return self._mapping_of(key, _is_positive_integer, "positive integers by name")

    def mapping_of_numbers(self, key: str) -> Mapping[str, float]:
        return self._mapping_of(key, _is_positive_number, "numbers above 0 by name")

    def _mapping_of(self, key: str, test: Callable[[object], bool], expected: str) -> Mapping[str, Any]:
        value = self.mapping(key)
        return value if all(test(item) for item in value.values()) else self.refuse(key, expected)


def _is_positive_integer(value: object) -> bool:
    # subtle: JSON's true is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_positive_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return float(value) > 0 and math.isfinite(float(value))
    except OverflowError:
        return False


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(set(map(repr, value))) != len(value):
        return None
    right = all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63 for item in value)
    return tuple(value) if right else None
