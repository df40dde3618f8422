"""The trace of a task, from its submission to its result."""

from collections.abc import Iterator

import pytest

from broker.protocol.topology import work_queue
from tests.support.amqp import Amqp
from tests.support.otlp_receiver import Receiver, Span, receiver
from tests.support.processes import fluffle, until
from tests.support.recording_llms import TOKENS
from tests.support.site import Site

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_programs_without_tracing_pass_a_trace_on_to_worker_and_answers(site: Site, client: Amqp) -> None:
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
def test_a_task_without_a_trace_adds_no_header(site: Site, client: Amqp, headers: dict[str, object] | None) -> None:
    site.coordinator()
    answers = client.queue()
    client.submit({"description": "Wait"}, reply_to=answers, headers=headers)
    accepted = client.take(answers)
    assert (accepted.type, accepted.headers) == ("task.accepted", {})


PAID = ("--handler", "tests.support.recording_llms:paid")


@pytest.fixture
def collector() -> Iterator[Receiver]:
    """Run a collector of spans."""
    with receiver() as collector:
        yield collector


def only(spans: list[Span]) -> Span:
    [span] = spans
    return span


def test_the_spans_of_a_task_share_one_trace_from_its_submission_to_its_result(site: Site, collector: Receiver) -> None:
    site.coordinator(env=collector.env)
    site.worker("ada", *PAID, env=collector.env)
    command = ("task", "submit", "Go", "--id", "seen", "--input", '"well"', "--wait")
    with fluffle(*command, url=site.url, state=site.state, env=collector.env) as submitting:
        assert submitting.wait() == 0
    until(lambda: len(collector.spans) == 7, "all spans have come")
    submitted = only(collector.named("publish fluffle.tasks"))
    taken_in, taken_back = collector.named("process fluffle.coordinator")
    assigned = only(collector.named("publish fluffle.work"))
    worked = only(collector.named("process llm.ada.work"))
    called = only(collector.named("invoke_agent ada"))
    heard = only(collector.named("process fluffle.reply"))
    assert {span.trace for span in collector.spans} == {submitted.trace}
    parents = (taken_in, submitted), (assigned, taken_in), (worked, assigned), (called, worked), (taken_back, worked)
    assert submitted.parent == ""
    assert [below.parent for below, _ in (*parents, (heard, taken_in))] == [
        above.id for _, above in (*parents, (heard, taken_in))
    ]
    assert [submitted.service, heard.service] == ["fluffle-client"] * 2
    assert [taken_in.service, assigned.service, taken_back.service] == ["fluffle-coordinator"] * 3
    assert [worked.service, called.service] == ["fluffle-worker"] * 2
    for span in (submitted, taken_in, assigned, worked, taken_back, heard):
        assert span.attributes["messaging.system"] == "rabbitmq"
        assert span.attributes["messaging.operation.type"] == ("send" if "publish" in span.name else "process")
        assert span.attributes["fluffle.task.id"] == "seen"
    assert submitted.attributes["messaging.destination.name"] == "fluffle.tasks:submit"
    assert worked.attributes["messaging.destination.name"] == "fluffle.work:llm.ada:llm.ada.work"
    assert called.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "ada",
        "gen_ai.provider.name": "handler",
        "gen_ai.request.model": "tests.support.recording_llms:paid",
        "gen_ai.usage.input_tokens": TOKENS.input_tokens,
        "gen_ai.usage.output_tokens": TOKENS.output_tokens,
    }
    assert worked.start <= called.start <= called.end <= worked.end


def test_a_failed_attempt_is_a_span_in_the_trace_of_its_submitter(
    site: Site, client: Amqp, collector: Receiver
) -> None:
    site.coordinator(env=collector.env)
    site.worker("ada", *PAID, env=collector.env)
    answers = client.queue()
    task = {"description": "Go", "inputs": "badly", "max_attempts": 1}
    client.submit(task, reply_to=answers, headers={"traceparent": TRACE})
    until(lambda: len(collector.spans) == 5, "all spans but those of a client have come")
    _, trace, above, _ = TRACE.split("-")
    assert {span.trace for span in collector.spans} == {trace}
    assert collector.named("process fluffle.coordinator")[0].parent == above
    for name in ("process llm.ada.work", "invoke_agent ada"):
        span = only(collector.named(name))
        assert span.failed
        assert span.attributes["error.type"] == "ValueError"


HANDS_ON = ("--handler", "tests.support.tool_llms:hand_on")


def test_a_delegated_task_is_a_child_span_of_the_delegating_call(site: Site, client: Amqp, collector: Receiver) -> None:
    site.coordinator(env=collector.env)
    for name in ("ada", "bob"):
        site.worker(name, *HANDS_ON, env=collector.env)
    answers = client.queue()
    task = {"description": "Go", "assignee": "ada", "inputs": {"way": ["bob"]}}
    client.submit(task, reply_to=answers, headers={"traceparent": TRACE})

    def above(span: Span) -> list[str]:
        by_id = {one.id: one for one in collector.spans}
        return [span.name, *above(by_id[span.parent])] if span.parent in by_id else [span.name]

    until(lambda: collector.named("process llm.bob.work"), "the one who helped is done")
    worked = only(collector.named("process llm.bob.work"))
    handed_on = ["process llm.bob.work", "publish fluffle.work", "process fluffle.coordinator", "invoke_agent ada"]
    first = ["process llm.ada.work", "publish fluffle.work", "process fluffle.coordinator"]
    until(lambda: above(worked) == handed_on + first, "all spans have come, one below the other")
    assert {span.trace for span in collector.spans} == {TRACE.split("-")[1]}


def test_a_delegated_task_stays_in_the_trace_of_a_worker_without_spans(site: Site, client: Amqp) -> None:
    site.coordinator()
    for name in ("ada", "bob"):
        site.worker(name, *HANDS_ON)
    seen = client.queue(("fluffle.work", "llm.bob"))
    task = {"description": "Go", "assignee": "ada", "inputs": {"way": ["bob"]}}
    client.submit(task, headers={"traceparent": TRACE})
    assert client.take(seen).headers["traceparent"] == TRACE


def test_spans_of_an_unsampled_trace_are_not_exported(site: Site, client: Amqp, collector: Receiver) -> None:
    coordinator = site.coordinator(env=collector.env)
    answers = client.queue()
    worker = site.worker("ada", *PAID, env=collector.env)
    task = {"description": "Go", "inputs": "well"}
    client.submit(task, reply_to=answers, headers={"traceparent": TRACE.removesuffix("01") + "00"})
    until(lambda: client.depth(answers) == 2, "it is done")
    for process in (worker, coordinator):
        process.terminate()
        assert process.wait() == 0  # and has exported its spans
    assert collector.spans == []
