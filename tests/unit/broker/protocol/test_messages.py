"""Valid and invalid messages."""

import json
import re
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from broker.errors import DecodeError
from broker.protocol.assignments import Assignment
from broker.protocol.primitives import MAX_LEVELS, WireModel, decode
from broker.protocol.queries import LLMsQuery
from broker.protocol.task_requests import ManageLLM, Retry, RetryPatch, Submission, Update
from broker.protocol.views import TaskPage
from broker.protocol.worker_reports import Result


def nested(levels: int) -> bytes:
    return b"[" * levels + b"1" + b"]" * levels


def submission(inputs: bytes) -> bytes:
    return b'{"description": "-", "inputs": ' + inputs + b"}"


def errors(kind: Any, body: bytes) -> dict[str, str]:
    with pytest.raises(DecodeError) as raised:
        decode(kind, body)
    return dict(raised.value.problems)


def test_accepted_json_can_be_decoded_after_it_is_forwarded() -> None:
    inputs = decode(Submission, submission(nested(MAX_LEVELS))).inputs
    task = {"id": "t", "status": "completed", "description": "-", "priority": 4, "submitted_at": "2026-11-20T00:00:00Z"}
    above = {"id": "t", "description": "-", "status": "completed", "result": inputs}
    assert decode(TaskPage, to_json({"tasks": [{**task, "inputs": inputs}]})).tasks[0].inputs == inputs
    assignment = {"task_id": "t", "attempt": 1, "description": "-", "context": [above]}
    assert decode(Assignment, to_json(assignment)).context[0].result == inputs
    assert from_json(to_json({"data": {"inputs": inputs}}))["data"]["inputs"] == inputs


@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 150, 190])
def test_too_deep_nesting_is_an_error_at_its_path(levels: int) -> None:
    too_deep = "nested deeper than 100 levels"
    assert errors(Submission, submission(nested(levels))) == {"inputs": too_deep}
    result = (
        b'{"task_id": "t", "attempt": 1, "instance": "i", "outcome": "completed", "result": ' + nested(levels) + b"}"
    )
    assert errors(Result, result) == {"result": too_deep}
    for field in ("metadata", "output_schema"):
        body = b'{"description": "-", "' + field.encode() + b'": {"a": ' + nested(levels) + b"}}"
        assert errors(Submission, body) == {field: too_deep}


def test_ten_thousand_levels_are_an_error_of_the_whole_message() -> None:
    assert "recursion limit" in errors(Submission, submission(nested(10_000)))[""]


@pytest.mark.parametrize("number", ["1e999", "-1e999", '[0, {"a": 1e400}]'])
def test_an_infinite_number_is_an_error_at_its_path(number: str) -> None:
    assert errors(Submission, submission(number.encode())) == {"inputs": "contains a number that is out of range"}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_not_json(word: str) -> None:
    assert "Invalid JSON" in errors(Submission, submission(word.encode()))[""]
    quoted = decode(Submission, submission(json.dumps(word).encode()))
    assert quoted.inputs == word


@pytest.mark.parametrize(
    "wish",
    [Update(id="t", due=None), Retry(id="t", changes=RetryPatch(timeout=None)), ManageLLM(llm="a", slots=None)],
)
def test_null_in_a_patch_survives_encoding(wish: WireModel) -> None:
    arrived = decode(type(wish), wish.encode())
    assert arrived == wish
    assert arrived.model_fields_set == wish.model_fields_set
    assert b"null" in wish.encode()


TEAM = {"description": "x", "assignees": ["ana", "bea"]}
CHOICES = {"choices": ["a", "b"]}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mode": None}, "mode: required with assignees: any, all, vote or relay"),
        ({"mode": "all", "assignee": "ana"}, "assignees: give either assignee or assignees"),
        ({"mode": "all", "assignees": []}, "mode: all needs assignees"),
        ({"mode": "all", "assignees": ["ana", "ana"]}, "assignees: ana appears twice"),
        ({"mode": "any", "excluded": ["bea"]}, "excluded: bea is also asked to work on the task"),
        ({"mode": "vote"}, "mode: vote needs vote.choices or vote.judge"),
        ({"mode": "all", "vote": CHOICES}, "vote: only with mode vote"),
        ({"mode": "vote", "vote": {"judge": "ana"}}, "vote.judge: ana is an assignee, who votes already"),
        ({"mode": "vote", "vote": {**CHOICES, "quorum": 3}}, "vote.quorum: must be at most 2, the number of assignees"),
        ({"mode": "vote", "vote": {**CHOICES, "weights": {"cem": 2}}}, "vote.weights: cem is not one of the assignees"),
        (
            {"mode": "vote", "vote": CHOICES, "output_schema": {}},
            "output_schema: a vote with choices has a fixed output schema",
        ),
        ({"mode": "all", "max_rounds": 2}, "max_rounds: only with a reviewer"),
        ({"mode": "any", "reviewer": "ana"}, "reviewer: ana cannot review its own work"),
        ({"mode": "all", "reviewer": "cem"}, "reviewer: mode all has no single result to review"),
        ({"mode": "all", "depends_on": [str(n) for n in range(901)]}, "depends_on: a group task can have at most"),
        ({"mode": "vote", "vote": {}}, "needs either choices or a judge"),
        ({"mode": "vote", "vote": {"choices": ["a", "a"]}}, "choices: must differ from each other"),
        ({"mode": "vote", "vote": {"judge": "cem", "weights": {"ana": 2}}}, "weights: only with choices"),
        ({"mode": "vote", "vote": {**CHOICES, "weights": {"ana": 0}}}, "Input should be greater than 0"),
    ],
)
def test_contradictory_group_fields_are_refused_with_a_reason(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(told)):
        decode(Submission, json.dumps({**TEAM, **fields}).encode())


def test_excluded_llms_do_not_make_a_group_task() -> None:
    assert not decode(Submission, b'{"description": "x", "assignee": "ana", "excluded": ["bea"]}').is_group


def test_an_earlier_coordinator_understands_the_query_for_llms() -> None:
    assert LLMsQuery().encode() == LLMsQuery(after=None).encode() == b"{}"
    assert LLMsQuery(after="ada", limit=3).encode() == b'{"limit":3,"after":"ada"}'
