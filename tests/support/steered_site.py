"""A site whose tasks and LLMs a test changes by hand."""

from contextlib import AbstractContextManager
from typing import Any

from broker.protocol.views import TaskView
from fluffle.client.sync import SyncClient
from tests.support.processes import Process, fluffle, until
from tests.support.shell import Shell
from tests.support.site import Site

OBEY = ("--handler", "tests.support.scripted_llm:obey")


class SteeredSite:
    """A site with a coordinator and the LLMs ana and bea, both with one slot and the skill steer."""

    def __init__(self, site: Site, client: SyncClient) -> None:
        self.site = site
        self.client = client
        self.shell = Shell(site.url, site.state)

    def worker(self, name: str, *options: str) -> AbstractContextManager[Process]:
        """Run another LLM during the block, by default with the handler obey."""
        way = () if "--exec" in options else OBEY
        return fluffle("worker", name, *way, *options, url=self.site.url, state=self.site.state, until="ready")

    def submit(self, **fields: Any) -> str:
        """Submit a task and return its id."""
        return self.client.submit("anything", **fields).id

    def is_(self, task_id: str, status: str) -> TaskView:
        """Wait until a task has a status, and return its view."""
        until(lambda: self.client.task(task_id).status == status, f"{task_id} is {status}")
        return self.client.task(task_id)

    def llm_is(self, name: str, state: str) -> None:
        """Wait until an LLM is known and has a state."""
        until(lambda: (name, state) in [(llm.name, llm.state) for llm in self.client.llms()], f"{name} is {state}")

    def completed(self, task_id: str) -> TaskView:
        """Wait until a task is completed, and return its view."""
        [view] = self.client.wait(task_id, timeout=30)
        assert view.status == "completed", view
        return view

    def listed(self, task_id: str) -> dict[str, str]:
        """Return the columns of a task in `task list`."""
        columns = ("status", "priority", "llm", "submitted", "remark")
        for line in self.shell("task", "list").splitlines():
            found, *cells = line.split("\t")
            if found == task_id:
                return dict(zip(columns, cells, strict=False))
        raise AssertionError(f"{task_id} is not listed")
