"""What bytes may become a message, and what is said of the others."""

import json
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from broker.errors import DecodeError
from broker.messages import MAX_LEVELS, Assignment, Manage, OtherFields, Result, Retry, Submission, Update, Wire, decode
from broker.views import TaskPage


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
    assert "invalid JSON" in errors(Submission, submission(word.encode()))[""]
    quoted = decode(Submission, submission(json.dumps(word).encode()))
    assert quoted.inputs == word


@pytest.mark.parametrize(
    "wish",
    [Update(id="t", due=None), Retry(id="t", changes=OtherFields(timeout=None)), Manage(llm="a", slots=None)],
)
def test_null_takes_something_away_and_reaches_the_other_side(wish: Wire) -> None:
    arrived = decode(type(wish), wish.encode())
    assert arrived == wish
    assert arrived.model_fields_set == wish.model_fields_set
    assert b"null" in wish.encode()
