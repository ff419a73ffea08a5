"""How PEFT matches module paths against the patterns of a config, for patterns that nobody has vetted.

Rules from PEFT's `tuners_utils.check_target_module_exists`, `utils.other.get_pattern_key` and `_set_trainable`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from ingot.errors import AdapterError

MAX_PATTERN_LENGTH = 4096
#: Most ways to spread a path over the unbounded repeats (`.*`) of a pattern: what a failing match may have to try.
MAX_STEPS = 10_000_000

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


@dataclass(frozen=True)
class Pattern:
    """A regular expression that never takes long: `match` and `fullmatch` as in `re`.

    Raises:
        AdapterError: the path is too long for a pattern with so many repeats.
    """

    compiled: re.Pattern[str]
    repeats: int

    def match(self, path: str) -> re.Match[str] | None:
        self._check(path)
        return self.compiled.match(path)

    def fullmatch(self, path: str) -> re.Match[str] | None:
        self._check(path)
        return self.compiled.fullmatch(path)

    def _check(self, path: str) -> None:
        if math.comb(len(path) + self.repeats, self.repeats) > MAX_STEPS:
            where = f"{path[:80]!r} and the pattern {self.compiled.pattern[:80]!r}"
            raise AdapterError("path is too long to match against a pattern", where=where, hint=_SIMPLER)


_SIMPLER = "Write the pattern in adapter_config.json with fewer repeats, or as a list of module names."


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str, template: str = "{}") -> Pattern:
    """The regular expression `template` with `pattern` in its place.

    Raises:
        AdapterError: it is longer than 4096 characters, no regular expression, or one that may need exponential time:
            an unbounded repeat directly inside another, as in `(a+)+`.
    """
    where = f"the pattern {pattern[:80]!r} in adapter_config.json"
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise AdapterError("pattern is too long", where=where, expected=f"at most {MAX_PATTERN_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            compiled = re.compile(template.format(pattern))
            height, repeats = _cost(_parser.parse(pattern))
    except (re.error, OverflowError, RecursionError) as cause:
        raise AdapterError("pattern is no regular expression", where=where, found=cause) from cause
    if height > 1:
        raise AdapterError("pattern may take for ever to match", where=where, hint=_SIMPLER)
    return Pattern(compiled, repeats + (template != "{}"))


def matches_suffix(path: str, names: Iterable[str]) -> bool:
    """`path` is one of `names`, or ends with a dot and one of them: the rule of list-valued `target_modules`."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def matches_modules(path: str, modules: tuple[str, ...] | str) -> bool:
    """The rule of `target_modules` and `exclude_modules`: a text is a regular expression for the whole path."""
    if isinstance(modules, str):
        return compile_pattern(modules).fullmatch(path) is not None
    return matches_suffix(path, modules)


def pattern_value(path: str, pattern: Mapping[str, Any], default: Any) -> Any:
    """The value of the first key that matches the end of `path` from a dot on: the rule of `rank_pattern`."""
    for key, value in pattern.items():
        if compile_pattern(key, r"(.*\.)?({})$").match(path):
            return value
    return default


def dotted_value(path: str, pattern: Mapping[str, Any], default: Any) -> Any:
    """The value of the first key that matches the end of `path` after a dot, or of `path` itself: the older rule, which
    FourierFT's `n_frequency_pattern` and C3A's `block_size_pattern` keep to."""
    for key, value in pattern.items():
        if compile_pattern(key, r".*\.{}$").match(path):
            return value
    return pattern.get(path, default)


def layer_index(path: str, layers_pattern: tuple[str, ...]) -> int | None:
    """The layer number that `layers_to_transform` is compared with: the first number after a name of the pattern."""
    if not layers_pattern:
        match = re.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", path)
        return int(match["idx"]) if match else None
    for pattern in layers_pattern:
        match = compile_pattern(pattern, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.").match(path)
        if match:
            return int(match["idx"])
    return None


def _cost(parsed: Any) -> tuple[int, int]:
    """(deepest nesting, number) of unbounded repeats in a parsed pattern; `(name\\.)*` counts as not nested."""
    height = repeats = 0
    for op, argument in parsed:
        if op in _REPEATS or op is _constants.POSSESSIVE_REPEAT:
            inner_height, inner = _cost(argument[2])
            unbounded = argument[1] is _constants.MAXREPEAT
            if unbounded and inner_height and _ends_with_separator(argument[2]):
                inner_height = 0
            inner_height += unbounded
            inner += unbounded
        else:
            inner_height, inner = _children_cost(argument)
        height, repeats = max(height, inner_height), repeats + inner
    return height, repeats


def _children_cost(argument: Any) -> tuple[int, int]:
    """The cost of what stands inside a group, branch or look-around: alternatives count once, the dearest one."""
    if isinstance(argument, _parser.SubPattern):
        return _cost(argument)
    if not isinstance(argument, (tuple, list)):
        return 0, 0
    costs = [_children_cost(child) for child in argument]
    return max((c[0] for c in costs), default=0), max((c[1] for c in costs), default=0)


def _ends_with_separator(parsed: Any) -> bool:
    """Whether the repeated part is one group like `(\\w+\\.)`: a literal dot that nothing before it can match."""
    items = list(parsed)
    while len(items) == 1 and items[0][0] is _constants.SUBPATTERN:
        items = list(items[0][1][-1])
    if not items or items[-1] != (_constants.LITERAL, ord(".")):
        return False
    return all(_cannot_match_dot(item) for item in items[:-1])


def _cannot_match_dot(item: Any) -> bool:
    op, argument = item
    if op in _REPEATS:
        return len(argument[2]) == 1 and _cannot_match_dot(argument[2][0])
    if op is _constants.NOT_LITERAL:
        return bool(argument == ord("."))
    if op is _constants.IN:
        if argument[0][0] is _constants.NEGATE:
            return (_constants.LITERAL, ord(".")) in argument
        return all(_part_without_dot(*part) for part in argument)
    return bool(op is _constants.LITERAL and argument != ord("."))


def _part_without_dot(op: Any, argument: Any) -> bool:
    """Whether one part of a character set leaves the dot out."""
    if op is _constants.RANGE:
        return not argument[0] <= ord(".") <= argument[1]
    if op is _constants.CATEGORY:
        return "NOT" not in str(argument)
    return bool(op is _constants.LITERAL and argument != ord("."))
