"""A headless Chromium for tests: what a page logs, what its document becomes, how it looks at a width."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
needed = pytest.mark.skipif(PROGRAM is None, reason=f"no browser: none of {', '.join(NAMES)} is on PATH")

_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_CONSOLE = re.compile(r'CONSOLE[^"]*"(.*)", source')
#: What the page's script may post to the frame around it.
_COLLECT = """
<pre id="said"></pre><script>
  const said = [];
  addEventListener("message", event => {
    said.push(event.data);
    document.getElementById("said").textContent = JSON.stringify(said);
  });
</script>"""


def start(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(
            [
                PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}",
                *options, url,
            ],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip


def console(page: Path) -> list[str]:
    """What the page, as it is, writes to the console."""
    return _CONSOLE.findall(start(page.as_uri(), "--virtual-time-budget=2000", "--dump-dom").stderr)


def ask(page: Path, script: str, widths: tuple[int, ...] = (1440,)) -> list[object]:
    """The value of `script`, an expression, in a copy of the page without its policy, at each width.

    Each stands in a frame: a window is never narrower than 500 pixels.
    """
    text, policies = _POLICY.subn("", page.read_text(encoding="utf-8"))
    assert policies == 1
    copy = page.with_suffix(".asked.html")
    asking = f"<script>addEventListener('load', () => parent.postMessage([innerWidth, {script}], '*'))</script>"
    copy.write_text(text.replace("</body>", f"{asking}</body>"), encoding="utf-8")
    frames = "".join(f'<iframe src="{copy.as_uri()}" style="width:{width}px;border:0"></iframe>' for width in widths)
    around = page.with_suffix(".around.html")
    around.write_text(f'<!DOCTYPE html><meta charset="utf-8">{_COLLECT}{frames}', encoding="utf-8")
    dom = start(around.as_uri(), "--virtual-time-budget=10000", "--dump-dom").stdout
    said = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert said
    values = dict(json.loads(said.group(1)))
    return [values[width] for width in widths]


def picture(page: Path, width: int, height: int, *, dark: bool = False) -> tuple[int, int, list[bytes]]:
    """A screenshot: width, height and its rows of RGB bytes."""
    png = page.with_suffix(f".{width}.{'dark' if dark else 'light'}.png")
    start(
        page.as_uri(),
        f"--screenshot={png}",
        f"--window-size={width},{height}",
        *(["--force-dark-mode"] if dark else []),
    )
    return decode(png.read_bytes())


def decode(png: bytes) -> tuple[int, int, list[bytes]]:
    """A PNG of 8-bit RGB or RGBA without interlacing. Source: W3C, PNG, 3rd edition, sections 5, 9."""
    at, packed, width, height, channels = 8, b"", 0, 0, 0
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data)
            assert (depth, interlaced) == (8, 0)
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += data
    raw, stride, rows, before = zlib.decompress(packed), width * channels, [], bytearray(width * channels)
    for row in range(height):
        start_of = row * (stride + 1)
        before = _unfiltered(raw[start_of], bytearray(raw[start_of + 1 : start_of + 1 + stride]), before, channels)
        rows.append(bytes(before) if channels == 3 else bytes(b for n, b in enumerate(before) if n % 4 != 3))
    return width, height, rows


def _unfiltered(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    for n in range(len(line)):
        left = line[n - step] if n >= step else 0
        up = above[n]
        corner = above[n - step] if n >= step else 0
        if kind == 1:
            line[n] = (line[n] + left) & 255
        elif kind == 2:
            line[n] = (line[n] + up) & 255
        elif kind == 3:
            line[n] = (line[n] + (left + up) // 2) & 255
        elif kind == 4:
            guess = left + up - corner
            distances = (abs(guess - left), abs(guess - up), abs(guess - corner))
            line[n] = (line[n] + (left, up, corner)[distances.index(min(distances))]) & 255
    return line
