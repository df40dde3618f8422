"""A real browser for the web page: Debian's Chromium, driven by Playwright."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.support.processes import Process

WITHIN = 20_000  # milliseconds after which a wait of the browser fails

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_EXPECTED = re.compile(r"WebSocket connection|ERR_|socket\.io|reload|status of 4\d\d")  # of an unreachable server


def chromium() -> str:
    """Return the path of Chromium. Skips the test without it."""
    program = os.environ.get("FLUFFLE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium: on Debian it comes with `apt-get install chromium`")
    return program


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a headless browser."""
    program = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield running
        finally:
            running.close()


class Visit:
    """A visitor with separate cookies, and the errors of its pages."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.context = context
        self.complaints: list[str] = []
        self.requests: list[str] = []
        context.set_default_timeout(WITHIN)
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page = context.new_page()

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not _EXPECTED.search(message.text):
            self.complaints.append(message.text)

    @property
    def remote(self) -> list[str]:
        """Requests that left the server."""
        own = urlsplit(self.base).netloc
        return [url for url in self.requests if urlsplit(url).netloc not in (own, "") and not url.startswith("data:")]

    def go(self, path: str) -> Page:
        """Open a page of the site and wait until it is connected."""
        self.page.goto(self.base + path)
        self.page.wait_for_function("window.did_handshake === true")
        return self.page


@contextmanager
def visit(running: Browser, base: str, login: str, *, width: int = 1280, height: int = 860) -> Iterator[Visit]:
    """Log in by that address. At the end, no page may have logged an error or requested another server."""
    context = running.new_context(viewport={"width": width, "height": height})
    visitor = Visit(context, base)
    try:
        visitor.page.goto(login)
        yield visitor
        assert visitor.complaints == []
        assert visitor.remote == []
    finally:
        context.close()


def addresses(web: Process) -> tuple[str, str, str]:
    """Return the base URL of a `fluffle web`, the address with full access, and the read-only one."""
    found = re.findall(r"http://\S+", web.output)
    assert len(found) == 3, web.output
    return found[0].rstrip("/"), found[1], found[2]
