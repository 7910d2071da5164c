"""Pages in a headless Chromium, for tests."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium, to look at pages")

# What every page must keep at any width: nothing wider than the screen.
LAYOUT = """
const visible = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
const inScroll = (element) => element.closest(".scroll") !== null;
const seen = {
  width: innerWidth,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  outside: [...document.querySelectorAll("body *")].filter((one) => visible(one) && !inScroll(one)
    && (one.getBoundingClientRect().right > innerWidth + 1 || one.getBoundingClientRect().left < -1))
    .map((one) => one.outerHTML.slice(0, 80)),
  background: getComputedStyle(document.body).backgroundColor,
};
"""


def open_page(
    page: Path | str, profile: Path, *options: str, dark: bool = False
) -> subprocess.CompletedProcess[str]:
    """Load a file or a URL; `stdout` is its document, `stderr` has its console."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=20000"]
    return subprocess.run(
        [*command, *options, page if isinstance(page, str) else page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def console_of(shown: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]


def probe(page: Path, folder: Path, script: str, *, width: int, dark: bool = False) -> dict[str, Any]:
    """What `script`, an async function's body that starts with LAYOUT, returns on a page of some width.

    The page is in a frame, because the browser's own window is never as narrow as a phone, and without its security
    policy, which would refuse the script.
    """
    code = f"(async () => {{ {LAYOUT} {script}; return seen; }})().catch((error) => ({{ error: String(error) }}))"
    code = f"{code}.then((seen) => {{ parent.document.title = JSON.stringify(seen); }});"
    source = re.sub(r"<meta http-equiv.*?>", "", page.read_text())
    source = html.escape(source.replace("</body>", f"<script>{code}</script></body>"))
    frame = folder / f"frame-{width}-{dark}.html"
    frame.write_text(
        f'<!doctype html><title></title><iframe srcdoc="{source}" width="{width}" height="800" style="border: 0">'
    )
    shown = open_page(frame, folder / "profile", f"--window-size={max(width, 500)},900", dark=dark)
    assert console_of(shown) == []
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", shown.stdout)[1]))
    assert "error" not in seen, seen
    return seen
