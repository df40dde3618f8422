"""The errors that decoding repairs: null for absent values, 7.0 for 7, and harmless errors in reports."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from broker.errors import DecodeError, Problem
from broker.protocol import assignments, queries, spending, task_requests, views, worker_reports
from broker.protocol import chat as mail
from broker.protocol.primitives import WireModel, decode
from broker.protocol.task_requests import Submission, Update
from broker.protocol.worker_reports import Presence, Result

EXAMPLES: dict[str, Any] = {
    "id": "t-1",
    "task_id": "t-1",
    "message_id": "m-1",
    "conversation_id": "c-1",
    "board": "t-1",
    "question": "q-1",
    "attempt": 1,
    "instance": "i1",
    "name": "ada",
    "llm": "ada",
    "description": "x",
    "content": "x",
    "answer": "x",
    "text": "x",
    "type": "x",
    "path": "x",
    "message": "x",
    "sender": "user.ana",
    "receiver": "llm.ada",
    "outcome": "completed",
    "status": "completed",
    "errors": [],
    "input": 1.5,
    "output": 6.0,
    "limit": "openai",
    "budget": "team",
    "stopped": True,
    "sent_at": "2026-12-01T09:00:00Z",
}
OTHER: dict[str, dict[str, Any]] = {
    "Answered": {"question": "x", "answer": "x"},
    "Vote": {"choices": ["a", "b"]},
    "TaskBudget": {"usd": 0.5, "tokens": 1000},
    "ManageBudget": {"budget": "team", "usd": 0.5},
    "LimitView": {"name": "x", "state": "open"},
}
KINDS = {
    name: kind
    for module in (assignments, mail, queries, spending, task_requests, views, worker_reports)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, WireModel) and kind.__module__ == module.__name__
}
TAKE_AWAY = (task_requests.Patch,)  # null means something there


def least(kind: type[BaseModel]) -> dict[str, Any]:
    """The least that is a message of that kind."""
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    return OTHER.get(kind.__name__, {name: EXAMPLES[name] for name in needed})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in KINDS.values()
        for name, field in kind.model_fields.items()
        if not field.is_required() and not issubclass(kind, TAKE_AWAY) and name not in least(kind)
    ],
)
def test_null_is_the_same_as_left_out_for_every_optional_field(kind: type[Any], name: str) -> None:
    without = least(kind)
    assert decode(kind, json.dumps({**without, name: None}).encode()) == decode(kind, json.dumps(without).encode())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in KINDS.values()
        for name, field in kind.model_fields.items()
        if not field.is_required() and issubclass(kind, TAKE_AWAY)
    ],
)
def test_null_is_kept_in_patches(kind: type[Any], name: str) -> None:
    body = json.dumps({**least(kind), name: None}).encode()
    if issubclass(kind, task_requests.TaskPatch) and name in task_requests.NEVER_NULL:
        with pytest.raises(DecodeError, match=f"^{name}: cannot be null$"):
            decode(kind, body)
    else:
        assert getattr(decode(kind, body), name) in (None, False, task_requests.RetryPatch())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS.values() for name, field in kind.model_fields.items() if field.is_required()],
)
def test_null_is_refused_for_required_fields(kind: type[Any], name: str) -> None:
    if kind.__name__ in OTHER or issubclass(kind, task_requests.Patch):
        return
    with pytest.raises(DecodeError) as refused:
        decode(kind, json.dumps({**least(kind), name: None}).encode())
    assert [problem.path for problem in refused.value.problems] == [name]


RESULT: dict[str, Any] = {"task_id": "t-1", "attempt": 1, "instance": "i1", "outcome": "completed", "result": "done"}


def decoded(**more: Any) -> tuple[Result, list[str]]:
    ignored: list[Problem] = []
    result = decode(Result, json.dumps({**RESULT, **more}).encode(), on_ignored=ignored.extend)
    return result, [problem.path for problem in ignored]


def test_ignored_fields_are_reported_by_path() -> None:
    usage = {"input_tokens": 1e15, "output_tokens": 3.0, "cost_usd": "much", "total_tokens": {"a": 1}}
    result, ignored = decoded(usage=usage, duration=-1, pid=7)
    assert result.usage == worker_reports.Usage(output_tokens=3)
    assert sorted(ignored) == ["duration", "pid", "usage.cost_usd", "usage.input_tokens", "usage.total_tokens"]


def test_null_and_whole_floats_are_not_reported() -> None:
    assert decoded(usage={"input_tokens": 12.0, "output_tokens": None}, error=None)[1] == []


def test_a_result_keeps_every_digit_when_another_field_is_ignored() -> None:
    answer = {"a": 10**30, "b": 0.1, "c": "ä\u2028🐇", "d": [None, True], "e": 1e308}
    assert decoded(result=answer, pid=7)[0].result == answer


@pytest.mark.parametrize(
    ("kind", "body", "paths"),
    [
        (Submission, {"description": "x", "skills": [None]}, ["skills.0"]),
        (Submission, {"description": "x", "colour": None}, ["colour"]),
        (Submission, {"description": "x", "priority": 7.5}, ["priority"]),
        (Submission, {"description": "x", "priority": 10.0}, ["priority"]),
        (Submission, {"description": None, "skills": None, "labels": None}, ["description"]),
        (Submission, {"description": "x", "vote": {"judge": "a", "weights": {"b": None}}}, ["vote.weights.b"]),
        (Presence, {"name": "ada", "instance": "i1", "skills": {"x": None}}, ["skills.x"]),
        (Presence, {"name": "ada", "instance": "i1", "slots": 0, "pid": 7}, ["slots"]),
        (Result, {**RESULT, "outcome": "done", "usage": {"a": 1}}, ["outcome"]),
        (Result, {**RESULT, "attempt": "1"}, ["attempt"]),
        (Result, {**RESULT, "error": {"type": 7}}, ["error.type"]),
        (Update, {"id": "t-1", "pid": 7}, ["pid"]),
    ],
)
def test_only_invalid_decisive_fields_are_an_error(kind: type[Any], body: dict[str, Any], paths: list[str]) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(kind, json.dumps(body).encode())
    assert [problem.path for problem in refused.value.problems] == paths


def test_an_infinite_number_in_a_result_is_an_error() -> None:
    with pytest.raises(DecodeError, match="result: contains a number that is out of range"):
        decode(Result, b'{"pid": 7, ' + json.dumps(RESULT).encode()[1:].replace(b'"done"', b"1e999"))


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"])
def test_the_zero_time_is_ignored_in_a_submission_and_refused_in_an_update(moment: str) -> None:
    task = decode(Submission, json.dumps({"description": "x", "due": moment, "not_before": moment}).encode())
    assert (task.due, task.not_before) == (None, None)
    with pytest.raises(DecodeError, match="due: must not be before 1970"):
        decode(Update, json.dumps({"id": "t", "due": moment}).encode())
