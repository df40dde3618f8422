"""Size limits of answers: large fields are left out, and the answer names them."""

import json
from typing import Any

from pydantic_core import to_json

from broker.protocol.worker_reports import MOST_ERROR_MESSAGE, MOST_ERROR_TYPE, Failure
from coordinator.outbound.size_limits import Page, fitted, fitted_body

TASK = {"id": "t", "status": "completed", "description": "do it", "priority": 4, "submitted_at": "2026"}


def test_a_view_that_fits_is_unchanged() -> None:
    view = {**TASK, "inputs": "x" * 100, "result": "y" * 100}
    assert fitted(view, 2000) is view


def test_the_largest_fields_are_left_out_first_and_the_result_last() -> None:
    view = {**TASK, "inputs": "i" * 4000, "result": "r" * 5000, "metadata": {"a": "m" * 50}}
    assert fitted(view, 8000) == {
        **TASK,
        "result": "r" * 5000,
        "metadata": {"a": "m" * 50},
        "left_out": {"inputs": 4002},
    }


def test_a_result_that_does_not_fit_by_itself_is_left_out_alone() -> None:
    view = {**TASK, "inputs": "i" * 4000, "result": "r" * 9000}
    assert fitted(view, 8000) == {**TASK, "inputs": "i" * 4000, "left_out": {"result": 9002}}


def test_a_description_is_cut_and_not_left_out() -> None:
    shown = fitted({**TASK, "description": "word " * 4000}, 8000)
    assert shown["description"] == "word " * 100 + "…"
    assert shown["left_out"] == {"description": 20_002}


def test_the_view_of_any_task_fits() -> None:
    for most in (2000, 10_000, 100_000):
        for size in (100, 5000, 50_000, 500_000):
            view: dict[str, Any] = {**TASK, "description": "d" * size, "result": "ä" * size}
            view |= {"inputs": ["i" * size], "metadata": {"m": "m" * size}, "history": [{"what": "h" * size}]}
            assert len(to_json(fitted(view, most))) <= most


def test_the_body_of_an_event_is_shortened() -> None:
    event = {"specversion": "1.0", "id": "e", "data": {**TASK, "result": "r" * 5000}}
    smaller = fitted_body(to_json(event), 3000)
    assert smaller is not None
    assert len(smaller) <= 3000
    assert json.loads(smaller) == {**event, "data": {**TASK, "left_out": {"result": 5002}}}


def test_a_page_ends_at_its_limit_but_holds_at_least_one_view() -> None:
    page = Page("tasks", 1000)
    assert [page.take({"id": "x" * 400}) for _ in range(3)] == [True, True, False]
    assert json.loads(page.encoded(7)) == {"tasks": [{"id": "x" * 400}] * 2, "next": 7}
    large, whole = Page("tasks", 1000), Page("messages", 1000, whole=True)
    for page in (large, whole):
        assert page.take({"id": "x", "content": "y" * 4000})
    assert json.loads(large.encoded(None))["tasks"] == [
        {"id": "x", "content": "y" * 500 + "…", "left_out": {"content": 4002}}
    ]
    assert json.loads(whole.encoded(None))["messages"] == [{"id": "x", "content": "y" * 4000}]


def test_long_texts_of_an_error_are_cut() -> None:
    error = Failure.model_validate_json(to_json({"type": "t" * 1000, "message": "m" * 1_000_000}))
    assert (len(error.type), len(error.message)) == (MOST_ERROR_TYPE, MOST_ERROR_MESSAGE)
    assert error.message.endswith("m…")
