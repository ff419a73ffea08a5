"""The colours of the page: readable in light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingot.validate.report import page

CSS = Path(page.__file__).with_name("page.css")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    """4.5:1 for text, 3:1 for marks. Source: WCAG 2.2, 1.4.3 and 1.4.11."""
    style = re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS.read_text(encoding="utf-8"))
    half = len(style) // 2
    colours = dict(style[:half] if scheme == "light" else style[half:])
    for name in ("ink", "muted", "link", "pass", "fail"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "muted", "pass", "fail"):
        assert contrast(colours[name], colours["raised"]) >= 4.5, name
    assert contrast(colours["ink"], colours["mark"]) >= 4.5
    for name in (*(f"s{number}" for number in range(8)), "axis", "mark-line"):
        assert contrast(colours[name], colours["paper"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, definitions of relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
