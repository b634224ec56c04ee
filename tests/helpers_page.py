"""A headless Chromium that needs no download: Debian's package, driven by Playwright. Skips, by name, where one is missing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}


def chromium() -> str:
    """Path of the browser: HFDBENCH_CHROMIUM, else what is installed."""
    names = [os.environ.get("HFDBENCH_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found


@contextmanager
def browser() -> Iterator:
    """A running browser (playwright.sync_api.Browser); it takes a new profile each time."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield running
        finally:
            running.close()


class Visit:
    """One page opened from disk, and everything it complained about or asked the network for."""

    def __init__(self, running, file: Path, size: str = "desktop", scheme: str = "light"):
        phone = size == "phone"
        self.context = running.new_context(viewport=SIZES[size], color_scheme=scheme, is_mobile=phone, has_touch=phone)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda message: message.type in ("error", "warning") and self.troubles.append(message.text)
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri(), wait_until="load", timeout=120_000)
        self.page.wait_for_selector("html[data-ready]", timeout=120_000)

    def painted(self) -> bytes:
        """What the canvas of the viewer shows, as PNG, once the pictures asked for are there."""
        self.page.evaluate("show()")
        return self.page.locator("#canvas").screenshot()

    def close(self) -> None:
        self.context.close()
