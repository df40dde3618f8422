"""Unusual values in messages of clients and workers in other languages are accepted where they decide nothing."""

import json
from typing import Any

import pytest

from broker.protocol import queries, task_requests, worker_reports
from tests.support.amqp import Amqp
from tests.support.foreign_requests import (
    ANSWERS,
    COMPLETED,
    FAILED,
    NORA,
    QUERIES,
    QUESTION,
    STATUS,
    TASK,
    TASKS,
    at_nora,
    errors,
    is_online,
    optional,
    submitted,
)
from tests.support.processes import until

# -- null, 7.0 and unknown values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", optional(task_requests.Submission))
def test_every_optional_field_of_a_task_may_be_null(client: Amqp, name: str) -> None:
    task = {**TASK, "skills": ["nobody-has-it"], "not_before": "2099-01-01T00:00:00Z"}
    left_out = submitted(client, {key: value for key, value in task.items() if key != name})
    null = submitted(client, {**task, name: None})
    different = ("id", "submitted_at", "ready_at", "history")
    assert [{**shown, **dict.fromkeys(different)} for shown in (left_out, null)] == [
        {**left_out, **dict.fromkeys(different)}
    ] * 2


@pytest.mark.parametrize(
    "kind",
    [
        task_requests.Retry,
        task_requests.AssignTask,
        task_requests.ManageLLM,
        task_requests.Cancel,
        task_requests.Update,
    ],
)
def test_every_optional_field_of_a_request_may_be_null(client: Amqp, kind: type[Any]) -> None:
    """Null removes a value or equals no value; only required values cannot be removed."""
    for name in optional(kind):
        task_id = submitted(client, TASK | {"assignee": "nora", "not_before": "2099-01-01T00:00:00Z"})["id"]
        if kind is task_requests.Retry:
            client.publish(TASKS, "cancel", {"id": task_id})
        about = {"llm": "nora"} if kind is task_requests.ManageLLM else {"id": task_id}
        client.take_all(ANSWERS)
        client.publish(TASKS, kind.routing_key, {**about, name: None}, reply_to=ANSWERS)
        if kind is task_requests.Update and name != "due":
            assert errors(client) == {"": f"{name}: cannot be null"}
        else:
            until(lambda: client.depth(ANSWERS), "it is answered")
            assert not client.take(ANSWERS).type.endswith("rejected")


@pytest.mark.parametrize(
    "kind",
    [queries.TasksQuery, queries.LLMsQuery, queries.MessagesQuery, queries.ConversationsQuery, queries.ReportQuery],
)
def test_every_optional_field_of_a_query_may_be_null(client: Amqp, kind: type[Any]) -> None:
    for name in optional(kind):
        client.publish(QUERIES, kind.routing_key, {name: None}, reply_to=ANSWERS)
        assert client.take(ANSWERS).type == "query.answer", name


@pytest.mark.parametrize("report", ["hello", "beat"])
def test_a_worker_whose_optional_fields_are_all_null_is_online(client: Amqp, report: str) -> None:
    for name in optional(worker_reports.Presence):
        llm = f"null-{report}-{name.replace('_', '-')}"
        client.publish(STATUS, f"{llm}.{report}", {"name": llm, "instance": "i", name: None}, reply_to=ANSWERS)
        until_online(client, llm)


def until_online(client: Amqp, llm: str) -> None:
    until(lambda: is_online(client, llm), f"{llm} is online")


NULLS = [
    *[("claim", {name: None}) for name in optional(worker_reports.Claim)],
    *[("progress", {name: None}) for name in optional(worker_reports.Progress)],
    *[("wait", {name: None}) for name in optional(worker_reports.WaitReport)],
    *[("wait", {"question": {**QUESTION, name: None}}) for name in optional(worker_reports.Question)],
    *[("resume", {name: None}) for name in optional(worker_reports.ResumeReport)],
    *[("result", {**COMPLETED, name: None}) for name in optional(worker_reports.Result)],
    *[("result", {**FAILED, "error": {**FAILED["error"], name: None}}) for name in optional(worker_reports.Failure)],
    *[("result", {**COMPLETED, "usage": {name: None}}) for name in optional(worker_reports.Usage)],
]


@pytest.mark.parametrize(("report", "body"), NULLS, ids=json.dumps)
def test_every_optional_field_of_a_report_may_be_null(client: Amqp, report: str, body: dict[str, Any]) -> None:
    attempt = at_nora(client)
    if report != "claim":
        client.publish(STATUS, "nora.claim", attempt)
    client.publish(STATUS, f"nora.{report}", {**attempt, **body}, reply_to=ANSWERS)
    if report != "result":
        client.publish(STATUS, "nora.resume", attempt)
        client.publish(STATUS, "nora.result", {**attempt, **COMPLETED})
    last = client.take(ANSWERS)
    assert last.type == ("task.failed" if body.get("outcome") == "failed" else "task.completed")
    if last.type == "task.failed":
        assert last.json()["error"]["retryable"] is (body["error"]["retryable"] is None)


def test_an_integer_may_be_written_as_a_float_everywhere(client: Amqp) -> None:
    task = submitted(client, {**TASK, "assignee": "nora", "priority": 7.0, "max_attempts": 2.0})
    assert (task["priority"], task["max_attempts"]) == (7, 2)
    client.publish(STATUS, "nora.beat", {**NORA, "slots": 1e3, "tasks": [{"task_id": task["id"], "attempt": 1.0}]})
    attempt = {"task_id": task["id"], "attempt": 1.0, "instance": "n1"}
    client.publish(STATUS, "nora.claim", attempt)
    usage = {"input_tokens": 12.0, "output_tokens": 3}
    client.publish(STATUS, "nora.result", {**attempt, **COMPLETED, "usage": usage})
    assert client.take(ANSWERS).json()["usage"] == {"input_tokens": 12, "output_tokens": 3}


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"usage": {"input_tokens": 5, "total_tokens": 9}}, {"usage": {"input_tokens": 5}}),
        ({"usage": {"input_tokens": -1, "output_tokens": 10**15}}, {}),
        ({"usage": {"input_tokens": "12", "output_tokens": 7.5, "cost_usd": 0.5}}, {"usage": {"cost_usd": 0.5}}),
        ({"usage": {"cost_usd": -1}}, {}),
        ({"usage": [1, 2]}, {}),
        ({"duration": -1}, {}),
        ({"duration": "1.5 s"}, {}),
        ({"duration": 1.5, "started_at": "yesterday", "finished_at": 0}, {"duration": 1.5}),
        ({"model": "gpt", "trace": {"a": [1]}}, {}),
    ],
)
def test_invalid_details_of_a_result_are_dropped_and_the_answer_is_kept(
    client: Amqp, more: dict[str, Any], kept: dict[str, Any]
) -> None:
    attempt = at_nora(client)
    client.publish(STATUS, "nora.claim", {**attempt, "at": "soon", "pid": 7})
    client.publish(STATUS, "nora.result", {**attempt, **COMPLETED, **more})
    done = client.take(ANSWERS)
    assert (done.type, done.json()["result"]) == ("task.completed", "done")
    told = {name: value for name, value in done.json().items() if name in ("usage", "duration") and value != {}}
    assert told == kept


def test_fields_that_decide_are_validated_strictly(client: Amqp) -> None:
    attempt = at_nora(client)
    for wrong, path in [({"outcome": "done"}, "outcome"), ({**COMPLETED, "attempt": 1.5}, "attempt")]:
        client.publish(STATUS, "nora.result", {**attempt, **wrong}, reply_to=ANSWERS)
        assert list(errors(client)) == [path]
    client.submit({**TASK, "priority": 7.5, "colour": "red", "skills": None, "labels": [None]}, reply_to=ANSWERS)
    assert sorted(errors(client)) == ["colour", "labels.0", "priority"]
