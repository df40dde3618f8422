"""When another coordinator's lease counts as expired."""

import os

from broker.timestamps import Instant, seconds
from coordinator.storage.leader_lease import Lease, Watch, holder, is_gone

LEAD = seconds(5)
ELSEWHERE = "another-host:1:1"


def lease(expires_at: int, *, name: str = ELSEWHERE, epoch: int = 1) -> Lease:
    return Lease(name, epoch, Instant(expires_at))


def test_a_lease_that_is_not_extended_expires() -> None:
    watch = Watch(LEAD)
    assert not watch.has_run_out(lease(7), seconds(100))
    assert not watch.has_run_out(lease(7), seconds(104.9))
    assert watch.has_run_out(lease(7), seconds(105))


def test_an_extended_lease_does_not_expire() -> None:
    watch = Watch(LEAD)
    for moment in range(0, 100, 4):
        assert not watch.has_run_out(lease(moment), seconds(moment))


def test_a_new_term_has_a_new_lease() -> None:
    watch = Watch(LEAD)
    assert not watch.has_run_out(lease(7), seconds(0))
    assert not watch.has_run_out(lease(7, epoch=2), seconds(5))


def test_the_clock_of_the_holder_does_not_matter() -> None:
    for wrong in (0, 2**61):
        watch = Watch(LEAD)
        assert not watch.has_run_out(lease(wrong), seconds(100))
        assert watch.has_run_out(lease(wrong), seconds(105))


def test_the_lease_of_an_ended_process_on_this_machine_is_over_at_once() -> None:
    host, pid, started = holder().split(":")
    assert Watch(LEAD).has_run_out(lease(7, name=f"{host}:{pid}:{int(started) + 1}"), seconds(0))
    assert not Watch(LEAD).has_run_out(lease(7, name=holder()), seconds(0))


def test_a_process_on_another_machine_never_counts_as_gone() -> None:
    assert not is_gone(ELSEWHERE)
    assert not is_gone(f"another-host:{os.getpid()}:1")
    assert not is_gone("")
