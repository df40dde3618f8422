"""What reviews and votes find, and what it changes about who gets a task."""

from broker.timestamps import Instant, seconds
from coordinator.core.llms.duration_estimates import DurationEstimates
from coordinator.core.llms.quality import HALF_LIFE, LEAST, MOST, Quality
from tests.support.core_driver import T0, Core
from tests.support.core_events import assignments, seen, submitted


def after(*scores: float) -> Quality:
    """What is known after these findings, one a second."""
    quality = Quality()
    for number, score in enumerate(scores):
        quality.learn(score, Instant(T0 + seconds(number)))
    return quality


NOW = Instant(T0 + seconds(100))


def test_what_is_said_counts_as_long_as_nothing_was_found() -> None:
    assert Quality().factor(NOW) == 1


def test_good_work_counts_for_more_and_bad_work_for_less_within_bounds() -> None:
    good, bad = after(*[1.0] * 100), after(*[0.0] * 100)
    assert 1.2 < good.factor(NOW) <= MOST
    assert LEAST <= bad.factor(NOW) < 0.57


def test_who_is_right_two_times_out_of_three_is_taken_for_what_is_said() -> None:
    assert abs(after(*[1.0, 1.0, 0.0] * 5).factor(NOW) - 1) < 0.001


def test_one_finding_changes_little() -> None:
    assert 0.85 < after(0.0).factor(NOW) < 1 < after(1.0).factor(NOW) < 1.1


def test_the_newest_findings_count_most() -> None:
    assert after(*[0.0] * 40, *[1.0] * 40).factor(NOW) > 1


def test_what_was_found_is_forgotten() -> None:
    bad = after(*[0.0] * 20)
    factors = [bad.factor(Instant(NOW + weeks * HALF_LIFE)) for weeks in range(10)]
    assert factors == sorted(factors)
    assert factors[-1] > 0.99


def test_it_is_kept_with_what_else_is_learned() -> None:
    learned = DurationEstimates()
    learned.judge(["x", "y"], 0.25, NOW)
    again = DurationEstimates.from_plain(learned.plain())
    assert again == learned
    assert again.quality["x"].factor(NOW) == learned.quality["x"].factor(NOW)


def test_an_llm_whose_work_was_sent_back_gets_the_task_no_longer_first() -> None:
    core = Core()
    core.handle(seen("atlas", slots=2, skills=["x"]), seen("boreas", slots=2, skills=["x"]))
    assert assignments(core.handle(submitted("before", skills=["x"]))) == [("before", 1, "atlas")]
    core = Core()
    core.handle(seen("atlas", slots=2, skills=["x"]), seen("boreas", slots=2, skills=["x"]))
    for _ in range(5):
        core.machine.state.llms["atlas"].learned.judge(["x"], 0.0, T0)
    assert assignments(core.handle(submitted("after", skills=["x"]))) == [("after", 1, "boreas")]
