"""A metric of the user's own, `FILE.py:FUNCTION` or `MODULE:FUNCTION`: named on the command line, so it may run.

    def score(answer, expected): ...        # the sample's "expected", as it stands in the file
    def score(answer, sample): ...          # the whole line, as a dictionary, where the second argument is so called

It gives True or False, or a number in [0, 1]. What it does wrong is told with the sample, and is no bug of ours.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ingot.errors import UsageError
from ingot.validate.answers.samples import Sample

#: SystemExit is what a script raises that is run on import.
_ITS_FAULTS = (Exception, SystemExit)


def load(spec: str) -> Callable[[str, Sample], float]:
    """The function as a score of (answer, sample).

    Raises:
        UsageError: there is no such file, module or function, or importing it fails; so does the score, with the
            sample's number, where the function fails or gives no number in [0, 1].
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError("a metric of your own is written FILE.py:FUNCTION or MODULE:FUNCTION", found=spec)
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        near = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)], n=1)
        hint = f"Did you mean `{place}:{near[0]}`?" if near else "Name a function of it after the colon."
        raise UsageError("the module has no such function", where=place, found=name, hint=hint)
    whole = _wants_sample(function, spec)

    def score(answer: str, sample: Sample) -> float:
        where = f"sample {sample.number}, line {sample.line}"
        try:
            value = function(answer, dict(sample.fields) if whole else sample.expected)
        except _ITS_FAULTS as fault:
            raise UsageError(f"the metric {spec} failed: {_said(fault)}", where=where, hint=_HINT) from fault
        return _checked(value, spec, where)

    return score


_HINT = "Call it by hand with the answer and what the line expects."


def _module(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise UsageError("no such file", where=place, hint="A metric is written FILE.py:FUNCTION.")
        found = importlib.util.spec_from_file_location(f"ingot_user_metric_{path.stem}", path)
        if found is None or found.loader is None:
            raise UsageError("not a Python file", where=place)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except _ITS_FAULTS as fault:
        hint = "Import it by hand; a module must be installed or on PYTHONPATH."
        raise UsageError(f"a metric cannot be imported: {_said(fault)}", where=place, hint=hint) from fault


def _wants_sample(function: Any, spec: str) -> bool:
    """Whether its second argument is called `sample`."""
    try:
        signature = inspect.signature(function)
        signature.bind("answer", "expected")
    except TypeError:
        hint = "def score(answer, expected) or def score(answer, sample)."
        raise UsageError("a metric must take two arguments", where=spec, hint=hint) from None
    except ValueError:
        return False  # written in C: its arguments have no names
    names = list(signature.parameters)
    return len(names) > 1 and names[1] == "sample"


def _checked(value: object, spec: str, where: str) -> float:
    # numpy's numbers and torch's of one element have __float__ too; a string must not pass.
    number = math.nan if isinstance(value, str | bytes) or not hasattr(value, "__float__") else _float(value)
    if not 0 <= number <= 1:
        raise UsageError(
            f"the metric {spec} gave no score", where=where, expected="True, False or a number from 0 to 1",
            found=repr(value)[:200], hint=_HINT,
        )  # fmt: skip
    return number


def _float(value: Any) -> float:
    try:
        return float(value)
    except _ITS_FAULTS:
        return math.nan


def _said(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"[:500]
