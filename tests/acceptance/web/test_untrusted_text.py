"""Text and figures of strangers on the page and in reports: they take no time of the page, and run nowhere."""

from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from broker.protocol.status import Status
from fluffle.web.markdown import render
from tests.support.amqp import amqp
from tests.support.browser import Visit
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.web_site import WebSite

SLOW = "[" * 100_000
"""Rendered at once, it would keep everybody waiting for seconds."""


def seconds_of(work: Callable[[], object], process: psutil.Process) -> float:
    """The CPU time that the process has taken meanwhile, without its children."""
    before = process.cpu_times()
    work()
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system)


@pytest.fixture(scope="module")
def bearable() -> float:
    """A fourth of the seconds that SLOW takes here to be rendered."""
    return seconds_of(lambda: render(SLOW), psutil.Process()) / 4


def test_no_description_answer_question_or_message_takes_the_time_of_the_page(
    place: WebSite, operator: Visit, bearable: float
) -> None:
    asking = [place.submit(f"Ask {number}", ask=f"{number} {SLOW[:19_000]}") for number in range(5)]
    with amqp(place.site.url) as llm:
        said = {"sender": "llm.obi", "receiver": "user.web", "content": SLOW, "conversation_id": "slow"}
        llm.publish("fluffle.messages", "user.web", said)
    until(lambda: len(list(place.client.tasks(status=[Status.INPUT_REQUIRED]))) == len(asking), "all are asked")

    def look(path: str, text: str, count: int) -> None:
        page = operator.go(path)
        expect(page.locator(text)).to_have_count(count)
        expect(page.locator(text).first).to_contain_text("[" * 19_000)

    operator.go("/")
    for path, text, count in (
        (f"/tasks/{place.submit(SLOW, 'slow')}", ".description", 1),
        (f"/tasks/{place.done('Answer slowly', 'slow', answer=SLOW)}", ".answer", 1),
        ("/questions", ".question", len(asking)),
        ("/chat/obi?conversation=slow", ".message", 1),
    ):
        assert seconds_of(partial(look, path, text, count), psutil.Process(place.web.pid)) < bearable, text
    for task_id in asking:
        place.client.cancel(task_id)


def test_no_text_takes_the_time_of_the_page_while_it_is_written(
    place: WebSite, operator: Visit, bearable: float
) -> None:
    gate = place.gate("written")
    task_id = place.submit("Write slowly", "slow", until=str(gate))
    task = {"task_id": task_id, "attempt": 1, "instance": "i"}
    message = {"message_id": "m-1", "conversation_id": "written", "instance": "i"}
    pages: dict[str, tuple[str, dict[str, Any]]] = {
        f"/tasks/{task_id}": (".streaming", task),
        "/chat/obi?conversation=written": (".writing", message),
    }

    def write() -> None:
        for _ in range(10):
            llm.publish("fluffle.status", "obi.progress", {**about, "text": SLOW[:10_000]})
            page.wait_for_timeout(200)
        llm.publish("fluffle.status", "obi.progress", {**about, "text": "the end"})
        expect(page.locator(text)).to_contain_text("the end")

    with amqp(place.site.url) as llm:
        for path, (text, about) in pages.items():
            page = operator.go(path)
            if about is task:
                expect(page.locator(text)).to_be_attached()
            assert seconds_of(write, psutil.Process(place.web.pid)) < bearable, text
    gate.touch()
    place.client.wait(task_id, timeout=60)


def test_what_a_worker_wrote_is_no_formula_in_the_csv_of_a_report(place: WebSite, operator: Visit) -> None:
    formula = "=cmd|'/C calc'!A0"
    place.site.queues |= {"llm.mal", "llm.mal.work"}
    with amqp(place.site.url) as mal:
        work = mal.queue(("fluffle.work", "llm.mal"), name="llm.mal.work", durable=True)
        mal.publish("fluffle.status", "mal.hello", {"name": "mal", "instance": "i", "model": '=HYPERLINK("http://x")'})
        task_id = place.client.submit("Fail", assignee="mal", max_attempts=1).id
        attempt = {"task_id": task_id, "attempt": mal.take(work).json()["attempt"], "instance": "i"}
        failed = {"outcome": "failed", "error": {"type": formula, "message": "-", "retryable": False}}
        mal.publish("fluffle.status", "mal.claim", attempt)
        mal.publish("fluffle.status", "mal.result", {**attempt, **failed})
        place.client.wait(task_id, timeout=30)
        mal.publish("fluffle.status", "mal.goodbye", {"name": "mal", "instance": "i"})
    shell = Shell(place.site.url, place.site.state)
    told = shell("report", "--group-by", "error", "--metrics", "tasks", "--format", "csv")
    assert f"'{formula},1" in told.splitlines()
    models = shell("report", "--group-by", "model", "--metrics", "attempts", "--format", "csv")
    assert '"\'=HYPERLINK(""http://x"")",1' in models.splitlines()
    page = operator.page.context.request.get(f"{place.base}/reports.csv?name=custom&group_by=error&metrics=tasks")
    assert page.text() == told
