"""A model that stops in the middle of its answer: every view shows since when no text has arrived."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from fluffle import SyncClient
from tests.support.browser import WITHIN, addresses, browser, visit
from tests.support.openai_server import OpenAIServer, Paused
from tests.support.processes import fluffle, until
from tests.support.shell import Shell
from tests.support.site import Site


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def test_a_model_that_sends_no_text_is_shown_as_quiet_until_it_continues(site: Site, server: OpenAIServer) -> None:
    reply = Paused("Hello", " there")
    server.script(reply)
    site.coordinator(altered=["quiet=1"])
    site.worker("remote", "--model", "any", "--base-url", server.url, OPENAI_API_KEY="none")
    site.worker("silent", "--exec", "sleep 1000")
    shell = Shell(site.url, site.state)
    with SyncClient(site.url) as client:
        task = client.submit("Say hello.", assignee="remote")
        command = client.submit("Say nothing.", assignee="silent")
        until(lambda: client.task(task.id).attempts[-1].quiet_since is not None, "no text comes")
        until(lambda: client.task(command.id).status == "in_progress", "the command runs")
        shown = shell("task", "show", task.id)
        assert re.search(r"^Attempt 1 has sent no text for \d", shown, re.MULTILINE)
        assert re.search(rf"^{task.id}  no text for \d", shell("llm", "show", "remote"), re.MULTILINE)
        with (
            fluffle("web", "--port", "0", url=site.url, state=site.state, until="to look") as web,
            browser() as running,
        ):
            base, to_work, _ = addresses(web)
            with visit(running, base, to_work) as visitor:
                page = visitor.go(f"/tasks/{task.id}")
                expect(page.locator(".quiet-since")).to_contain_text("No text since", timeout=WITHIN)
                page = visitor.go("/llms")
                expect(page.locator("#remote .quiet-since")).to_contain_text("no text since", timeout=WITHIN)
        assert client.task(command.id).attempts[-1].quiet_since is None, "a command need not send text"
        reply.go_on.set()
        assert task.result(30) == "Hello there"
        assert "no text" not in shell("task", "show", task.id)
        client.cancel(command.id)
