"""A task's trace, from whoever submits it to the result."""

import pytest

from broker.topology import work_queue
from tests.support.amqp import Amqp
from tests.support.processes import until
from tests.support.site import Site

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_is_passed_on_to_the_worker_and_to_the_answers_by_those_who_do_not_look_at_it(
    site: Site, client: Amqp
) -> None:
    site.coordinator()
    worker = site.worker("ada", "--model", "demo")
    until(lambda: site.select("select 1 from llms"), "the LLM is known")
    worker.suspend()  # so that the assignment stays in its queue
    answers = client.queue()
    task = {"id": "traced", "description": "Summarise", "inputs": {"text": "It digs."}}
    client.submit(task, reply_to=answers, headers={"traceparent": TRACE})
    assert client.take(answers).headers == {"traceparent": TRACE}
    worker.kill()
    assignment = client.take(work_queue("ada"))
    assert assignment.json()["task_id"] == "traced"
    assert assignment.headers["traceparent"] == TRACE
    client.publish("fluffle.tasks", "cancel", {"id": "traced"})
    ended = client.take(answers)
    assert (ended.type, ended.headers) == ("task.cancelled", {"traceparent": TRACE})


@pytest.mark.parametrize("headers", [None, {"traceparent": "7"}, {"traceparent": 7}])
def test_a_task_without_a_trace_brings_no_header(site: Site, client: Amqp, headers: dict[str, object] | None) -> None:
    site.coordinator()
    answers = client.queue()
    client.submit({"description": "Wait"}, reply_to=answers, headers=headers)
    accepted = client.take(answers)
    assert (accepted.type, accepted.headers) == ("task.accepted", {})
