"""Results that are checked against the output schemas of their tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from broker.amqp.envelope import Delivery
from coordinator.batch import OutgoingBatch
from coordinator.inbound.output_validation import UncheckedAnswer
from tests.support.batches import (
    BatchHarness,
    assigned,
    claim,
    goodbye,
    hello,
    result,
    submit,
)

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


DIGITS = {"type": "object", "properties": {"n": {"pattern": "^[0-9]+$"}}}


class Here:
    """A channel that is open."""

    is_open = True


def here(delivery: Delivery) -> Delivery:
    delivery._settler = Here()  # type: ignore[assignment]
    return delivery


@contextmanager
def being_checked(harness: BatchHarness, post: OutgoingBatch) -> Iterator[None]:
    """Have the results set aside checked until the end of the block; then their channel is closed."""
    answers = harness.processor._answers
    for it in post.aside:
        assert isinstance(it, UncheckedAnswer)
        answers._open[it.delivery] = it.about
    yield
    answers._open.clear()


def test_a_result_that_violates_its_output_schema_is_a_failed_attempt(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=NUMBER), claim("a"))
    harness.process(claim("a"), result("a", result={"n": "one"}, usage={"input_tokens": 7}))
    [attempt] = harness.views()["a"]["attempts"]
    assert (attempt["outcome"], attempt["error"]["type"]) == ("failed", "output_schema")
    assert attempt["usage"]["input_tokens"] == 7, "it was paid for all the same"
    assert "result" not in harness.views()["a"]
    assert assigned(harness.process(at=5)) == ["a"]
    harness.process(claim("a", 2), result("a", 2, result={"n": 1}))
    assert (harness.status("a"), harness.views()["a"]["result"]) == ("completed", {"n": 1})


def test_a_slow_check_sets_the_result_and_a_later_goodbye_aside(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS), submit("b"), claim("a"), claim("b"))
    harness.process(claim("a"), claim("b"))
    answer, leaving = here(result("a", result={"n": "1"})), here(goodbye())
    post = harness.commit(answer, result("b"), leaving)
    assert [it.delivery for it in post.aside] == [answer, leaving]
    assert (harness.status("a"), harness.status("b")) == ("in_progress", "completed")


def test_an_attempt_is_not_lost_while_its_result_is_checked(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS))
    harness.process(claim("a"))
    answer = here(result("a", result={"n": "1"}))
    post = harness.commit(answer)
    with being_checked(harness, post):
        for second in range(0, 60, 5):
            harness.process(at=second)
        assert harness.status("a") == "in_progress"
    harness.process(at=80)
    assert harness.views()["a"]["attempts"][0]["outcome"] == "lost"


@pytest.mark.parametrize(
    ("late", "wants"),
    [
        (lambda: result("never", result={}), []),
        (lambda: result("a", 7, result={}), []),
        (lambda: result("a", llm="bolt", result={}), []),
        (lambda: result("a", outcome="failed", result=None, error={"type": "x"}), []),
        (lambda: result("a", result={}), ["a"]),
    ],
)
def test_only_a_result_that_would_count_is_checked(
    harness: BatchHarness, late: Callable[[], Delivery], wants: list[str]
) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS))
    harness.process(claim("a"))
    aside = harness.commit(here(late())).aside
    assert [it.about.task_id for it in aside if isinstance(it, UncheckedAnswer)] == wants
