"""The circuit breaker of an instance, without a core around it."""

import pytest

from broker.protocol.worker_reports import Failure
from coordinator.core.health.breaker import IN_A_ROW, LATEST, SHARE, Breaker, BreakerState
from tests.support.core_driver import moment


def fail(breaker: Breaker, at: float, kind: str = "connection", task: str = "", *, is_unclear: bool = False) -> bool:
    name = task or f"t{breaker.in_a_row}"
    return breaker.failed(Failure(type=kind, message="no"), name, moment(at), is_unclear=is_unclear)


def opened(at: float = 0) -> Breaker:
    breaker = Breaker()
    while not fail(breaker, at):
        pass
    return breaker


def test_a_breaker_opens_after_a_few_failures_in_a_row() -> None:
    breaker = Breaker()
    assert [fail(breaker, 0) for _ in range(IN_A_ROW)] == [False] * (IN_A_ROW - 1) + [True]
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("kind", ["authentication", "quota_exceeded", "model_not_found", "command_not_started"])
def test_a_failure_that_no_repetition_repairs_opens_the_breaker_at_once(kind: str) -> None:
    breaker = Breaker()
    assert fail(breaker, 0, kind)
    assert breaker.why == f"{kind}: no"


def test_a_success_in_between_begins_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(IN_A_ROW - 1):
        fail(breaker, 0)
    breaker.succeeded(moment(0))
    assert not fail(breaker, 0)


def test_a_breaker_opens_when_most_of_the_latest_attempts_failed() -> None:
    breaker, failures = Breaker(), 0
    for number in range(LATEST):
        if number % 3 == 2:
            breaker.succeeded(moment(0))
        else:
            failures += 1
            if fail(breaker, 0):
                break
    assert failures == SHARE


def test_probes_are_allowed_after_pauses_that_double_up_to_a_minute() -> None:
    breaker, at, pauses = opened(), 0.0, []
    for _ in range(9):
        pauses.append((breaker.probe_at - moment(at)) / 1_000_000)
        at = (breaker.probe_at - moment(0)) / 1_000_000
        assert not breaker.time_passed(moment(at - 0.001))
        assert breaker.time_passed(moment(at))
        assert fail(breaker, at)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_successful_probe_closes_the_breaker() -> None:
    breaker = opened()
    breaker.time_passed(breaker.probe_at)
    assert breaker.succeeded(breaker.probe_at)
    assert breaker == Breaker()


def test_a_success_of_an_attempt_that_began_before_proves_nothing() -> None:
    breaker = opened(at=5)
    assert not breaker.succeeded(moment(4))
    assert breaker.state is BreakerState.OPEN


def test_failures_of_attempts_that_were_running_when_it_opened_do_not_prolong_the_pause() -> None:
    breaker = opened()
    before = breaker.probe_at
    assert not fail(breaker, 0.5)
    assert breaker.probe_at == before


def test_one_task_that_fails_again_and_again_does_not_open_the_breaker_if_the_fault_is_unclear() -> None:
    breaker = Breaker()
    assert not any(fail(breaker, 0, "command_failed", "t", is_unclear=True) for _ in range(20))
    assert not fail(breaker, 0, "command_failed", "u", is_unclear=True)
    assert fail(breaker, 0, "command_failed", "v", is_unclear=True)


def test_a_breaker_survives_storage() -> None:
    breaker = opened()
    assert Breaker.from_plain(breaker.plain()) == breaker
    assert Breaker().plain() == {}
    assert Breaker.from_plain(None) == Breaker()
