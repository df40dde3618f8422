"""What is learned from finished runs."""

from math import log

import pytest

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import EPOCH, Instant, seconds
from coordinator.core.llms.duration_estimates import BASE_LENGTH, FIRST_GUESS, HALF_LIFE, DurationEstimates, text_length
from coordinator.core.tasks.task import Task


def learned(*durations: float, skill: str = "law") -> DurationEstimates:
    """What a few runs of tasks of 1,000 characters tell; `durations` in seconds."""
    known = DurationEstimates()
    for duration in durations:
        known.learn([skill], 1000, seconds(duration), EPOCH)
    return known


def expected(known: DurationEstimates, skill: str = "law", now: Instant = EPOCH) -> float:
    """Seconds for such a task."""
    return 1000 * known.pace([skill], now) / 1_000_000


def test_the_first_run_is_believed() -> None:
    assert expected(learned(7)) == pytest.approx(7)


def test_where_nothing_is_known_a_short_task_takes_ten_seconds() -> None:
    assert BASE_LENGTH * DurationEstimates().pace([], EPOCH) == pytest.approx(seconds(10))


def test_one_outlier_moves_the_estimate_little() -> None:
    assert expected(learned(*[2.0] * 20, 7200)) < 2.5


def test_a_tenfold_change_is_learned_within_twenty_runs() -> None:
    assert expected(learned(*[2.0] * 50, *[20.0] * 20)) > 15


def test_a_skill_that_was_never_used_is_expected_to_be_like_the_others() -> None:
    assert expected(learned(4, 4), skill="code") == pytest.approx(4)


def test_a_skill_is_told_apart_from_the_others() -> None:
    known = learned(*[2.0] * 10)
    for _ in range(10):
        known.learn(["code"], 1000, seconds(20), EPOCH)
    assert expected(known) < 4
    assert expected(known, skill="code") > 12


def test_an_estimate_fades_to_the_guess_when_an_llm_does_nothing() -> None:
    known = learned(*[200.0] * 5)
    guess = log(seconds(2) / 1000)
    half, long_after = (1000 * known.pace(["law"], Instant(HALF_LIFE * n), guess) / 1e6 for n in (1, 20))
    assert half == pytest.approx(20)
    assert long_after == pytest.approx(2, rel=0.01)


def test_an_unlucky_run_is_as_long_as_expected_where_all_runs_are_alike() -> None:
    assert learned(*[2.0] * 300).unlucky == pytest.approx(0, abs=0.3)


def test_an_unlucky_run_takes_much_longer_where_one_in_twenty_does() -> None:
    assert learned(*([2.0] * 19 + [40.0]) * 30).unlucky > log(8)


def test_what_is_learned_goes_to_plain_data_and_back() -> None:
    known = learned(3, 5, 8)
    assert DurationEstimates.from_plain(known.plain()) == known
    assert DurationEstimates.from_plain(None) == DurationEstimates()


def test_an_instant_run_and_an_endless_one_are_no_error() -> None:
    assert learned(0, 1e9, 0).pace(["law"], EPOCH) > 0
    assert DurationEstimates().overall.log == FIRST_GUESS


@pytest.mark.parametrize(
    ("value", "length"),
    [(None, 0), ("text", 4), ({"key": "text"}, 7), (["a", ["bc"]], 3), (12.5, 4), (True, 4)],
)
def test_the_length_of_any_json_is_that_of_its_text(value: object, length: int) -> None:
    assert text_length(value) == length  # type: ignore[arg-type]  # a mixture of JSON values


def test_the_size_of_a_task_is_its_text_and_a_constant() -> None:
    spec = Submission(description="Sum up", inputs={"text": "x" * 100})
    task = Task("t", 1, spec, Status.PENDING, 4, EPOCH, context_length=50)
    assert task.size == BASE_LENGTH + 6 + 104 + 50
