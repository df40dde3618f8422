"""What bytes may become a message, and what is said of the others."""

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


def test_what_is_accepted_can_be_read_wherever_it_is_passed_on() -> None:
    inputs = decode(Submission, submission(nested(MAX_LEVELS))).inputs
    task = {"id": "t", "status": "completed", "description": "-", "priority": 4, "submitted_at": "2026-11-20T00:00:00Z"}
    above = {"id": "t", "description": "-", "status": "completed", "result": inputs}
    assert decode(TaskPage, to_json({"tasks": [{**task, "inputs": inputs}]})).tasks[0].inputs == inputs
    assignment = {"task_id": "t", "attempt": 1, "description": "-", "context": [above]}
    assert decode(Assignment, to_json(assignment)).context[0].result == inputs
    assert from_json(to_json({"data": {"inputs": inputs}}))["data"]["inputs"] == inputs


@pytest.mark.parametrize("levels", [MAX_LEVELS + 1, 150, 190])
def test_what_is_nested_too_deep_is_an_error_at_its_path(levels: int) -> None:
    too_deep = "nested deeper than 100 levels"
    assert errors(Submission, submission(nested(levels))) == {"inputs": too_deep}
    result = (
        b'{"task_id": "t", "attempt": 1, "instance": "i", "outcome": "completed", "result": ' + nested(levels) + b"}"
    )
    assert errors(Result, result) == {"result": too_deep}
    for field in ("metadata", "output_schema"):
        body = b'{"description": "-", "' + field.encode() + b'": {"a": ' + nested(levels) + b"}}"
        assert errors(Submission, body) == {field: too_deep}


def test_ten_thousand_levels_are_an_error_of_the_whole() -> None:
    assert "recursion limit" in errors(Submission, submission(nested(10_000)))[""]


@pytest.mark.parametrize("number", ["1e999", "-1e999", '[0, {"a": 1e400}]'])
def test_a_number_beyond_all_numbers_is_an_error_at_its_path(number: str) -> None:
    assert errors(Submission, submission(number.encode())) == {"inputs": "has a number that is out of range"}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_python_calls_a_number_and_json_does_not_is_no_json(word: str) -> None:
    assert "Invalid JSON" in errors(Submission, submission(word.encode()))[""]
    quoted = decode(Submission, submission(json.dumps(word).encode()))
    assert quoted.inputs == word


@pytest.mark.parametrize(
    "wish",
    [Update(id="t", due=None), Retry(id="t", changes=RetryPatch(timeout=None)), ManageLLM(llm="a", slots=None)],
)
def test_null_takes_something_away_and_reaches_the_other_side(wish: WireModel) -> None:
    arrived = decode(type(wish), wish.encode())
    assert arrived == wish
    assert arrived.model_fields_set == wish.model_fields_set
    assert b"null" in wish.encode()


TEAM = {"description": "x", "assignees": ["ana", "bea"]}
CHOICES = {"choices": ["a", "b"]}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mode": None}, "mode: say how the assignees work together: any, all, vote or relay"),
        ({"mode": "all", "assignee": "ana"}, "assignees: give assignee or assignees, not both"),
        ({"mode": "all", "assignees": []}, "mode: all needs assignees"),
        ({"mode": "all", "assignees": ["ana", "ana"]}, "assignees: ana is there twice"),
        ({"mode": "any", "excluded": ["bea"]}, "excluded: bea is to work on it"),
        ({"mode": "vote"}, "mode: vote needs vote.choices or vote.judge"),
        ({"mode": "all", "vote": CHOICES}, "vote: goes with the mode vote"),
        ({"mode": "vote", "vote": {"judge": "ana"}}, "vote.judge: ana has a vote already"),
        ({"mode": "vote", "vote": {**CHOICES, "quorum": 3}}, "vote.quorum: there are 2 assignees"),
        ({"mode": "vote", "vote": {**CHOICES, "weights": {"cem": 2}}}, "vote.weights: cem is not among the assignees"),
        (
            {"mode": "vote", "vote": CHOICES, "output_schema": {}},
            "output_schema: a vote for choices has one of its own",
        ),
        ({"mode": "all", "max_rounds": 2}, "max_rounds: goes with a reviewer"),
        ({"mode": "any", "reviewer": "ana"}, "reviewer: ana would review its own work"),
        ({"mode": "all", "reviewer": "cem"}, "reviewer: the mode all has no one result to review"),
        ({"mode": "all", "depends_on": [str(n) for n in range(901)]}, "depends_on: a task for several LLMs may"),
        ({"mode": "vote", "vote": {}}, "needs choices to count the votes for, or a judge who decides, and not both"),
        ({"mode": "vote", "vote": {"choices": ["a", "a"]}}, "choices: each may be there once"),
        ({"mode": "vote", "vote": {"judge": "cem", "weights": {"ana": 2}}}, "weights: a judge weighs the answers"),
        ({"mode": "vote", "vote": {**CHOICES, "weights": {"ana": 0}}}, "Input should be greater than 0"),
    ],
)
def test_a_team_that_makes_no_sense_is_told_why(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(told)):
        decode(Submission, json.dumps({**TEAM, **fields}).encode())


def test_a_task_for_one_llm_may_be_all_that_it_could_be_before() -> None:
    assert not decode(Submission, b'{"description": "x", "assignee": "ana", "excluded": ["bea"]}').is_group


def test_an_earlier_coordinator_understands_who_asks_for_the_llms() -> None:
    assert LLMsQuery().encode() == LLMsQuery(after=None).encode() == b"{}"
    assert LLMsQuery(after="ada", limit=3).encode() == b'{"limit":3,"after":"ada"}'
