"""A headless Chromium for tests of pages: it sees what a reader sees and tells of every request and complaint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = [
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Opened:
    """A page and what it did since it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser that is installed; skip the test where there is none."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium is installed ({', '.join(PROGRAMS)} on the PATH), so pages cannot be looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS, headless=True)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Opened]:
    """Open a file; ``options`` are the context's, such as ``color_scheme`` or ``java_script_enabled``."""
    context = browser.new_context(**options)
    try:
        seen = Opened(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path.as_uri())
        yield seen
    finally:
        context.close()


def accessibility_faults(browser: Browser, path: Path, *, prepare: str = "", **options: Any) -> list[str]:
    """What axe-core finds of WCAG 2.2 A and AA and its best practices, as ``rule (impact): element``.

    The page's own content policy forbids foreign scripts, so it is set aside for this look alone.

    Args:
        prepare: script that is run first, for example one that opens a part of the page.
    """
    import axe_playwright_python

    axe = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    with opened(browser, path, bypass_csp=True, **options) as seen:
        if prepare:
            seen.page.evaluate(prepare)
        seen.page.evaluate(axe)
        found = seen.page.evaluate("axe.run()")
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]}"
        for fault in found["violations"]
        for node in fault["nodes"]
    ]
