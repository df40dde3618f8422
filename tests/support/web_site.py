"""A site with a coordinator, LLMs and the web page, and helpers to read the page."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

from fluffle import SyncClient
from tests.support.browser import WITHIN, addresses
from tests.support.processes import Process
from tests.support.site import Site

expect.set_options(timeout=WITHIN)

TEXT = "A fluffle is a group of rabbits. It digs. Rabbits dig holes in the ground. The holes are warm and dry."


class WebSite:
    """A site with a coordinator, three demo LLMs, one that obeys the inputs of its tasks, and the web page."""

    def __init__(self, site: Site, web: Process, client: SyncClient, running: Browser) -> None:
        self.site = site
        self.web = web
        self.client = client
        self.browser = running
        self.base, self.to_work, self.to_look = addresses(web)

    def submit(self, description: str, *labels: str, skill: str = "obey", **inputs: Any) -> str:
        """The id of a new task. The LLM with the skill `obey` does what the inputs say."""
        return self.client.submit(description, labels=list(labels), skills=[skill], inputs=inputs or None).id

    def done(self, description: str, *labels: str, **inputs: Any) -> str:
        """The same, when it is over."""
        task_id = self.submit(description, *labels, **inputs)
        self.client.wait(task_id, timeout=60)
        return task_id

    def llms_of(self, task_id: str) -> list[str]:
        """Who has tried the task."""
        return [attempt.llm for attempt in self.client.task(task_id).attempts]

    def gate(self, name: str) -> Path:
        """A file that does not exist yet."""
        return self.site.state / name


def mark(page: Page) -> None:
    """Leave something in the page that a reload would lose."""
    page.evaluate("window.marked = true")


def is_marked(page: Page) -> bool:
    """Whether the page was not loaded again."""
    return bool(page.evaluate("window.marked === true"))


def row(page: Page, task_id: str) -> Locator:
    """The line of a task in the list."""
    return page.locator(f'tr[data-id="{task_id}"]')


def status_of(page: Page) -> Locator:
    """The state that the page of a task shows."""
    return page.locator(".task-status .status")
