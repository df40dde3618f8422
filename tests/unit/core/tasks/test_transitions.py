from itertools import product

import pytest

from broker.errors import IllegalTransition
from broker.protocol.status import FINAL, Status
from broker.protocol.task_requests import Submission
from coordinator.core.tasks.task import Task
from coordinator.core.tasks.transitions import TRANSITIONS, Trigger, after
from tests.support.core_driver import T0

LEGAL = list(TRANSITIONS)
ILLEGAL = [pair for pair in product(Status, Trigger) if pair not in TRANSITIONS]


def a_task(status: Status) -> Task:
    return Task(id="t", seq=1, spec=Submission(description="x"), status=status, priority=4, submitted_at=T0)


def name(value: Status | Trigger) -> str:
    return value.name.lower()


@pytest.mark.parametrize(("status", "trigger"), LEGAL, ids=name)
def test_a_legal_transition_leads_to_the_state_of_the_table(status: Status, trigger: Trigger) -> None:
    task = a_task(status)
    task.move(trigger)
    assert task.status is TRANSITIONS[status, trigger]


@pytest.mark.parametrize(("status", "trigger"), ILLEGAL, ids=name)
def test_an_illegal_transition_raises_and_changes_nothing(status: Status, trigger: Trigger) -> None:
    task = a_task(status)
    with pytest.raises(IllegalTransition, match=f"a task that is {status} cannot "):
        task.move(trigger)
    assert task.status is status


def test_every_state_is_reached_from_blocked() -> None:
    reached, to_visit = {Status.BLOCKED}, [Status.BLOCKED]
    while to_visit:
        here = to_visit.pop()
        following = {to for (start, _), to in TRANSITIONS.items() if start is here} - reached
        reached |= following
        to_visit += following
    assert reached == set(Status)


@pytest.mark.parametrize("status", sorted(FINAL), ids=name)
def test_a_finished_task_goes_on_only_when_it_is_retried(status: Status) -> None:
    assert [trigger for start, trigger in TRANSITIONS if start is status] == [Trigger.RETRY]
    assert after(status, Trigger.RETRY) is Status.BLOCKED


@pytest.mark.parametrize("status", sorted({start for start, _ in TRANSITIONS} - FINAL), ids=name)
def test_every_live_task_can_end_in_each_way(status: Status) -> None:
    endings = {after(status, trigger) for trigger in (Trigger.COMPLETE, Trigger.FAIL, Trigger.CANCEL)}
    assert endings == FINAL


def test_only_an_assigned_task_can_be_claimed_and_only_a_pending_one_assigned() -> None:
    assert [start for start, trigger in TRANSITIONS if trigger is Trigger.CLAIM] == [Status.ASSIGNED]
    assert [start for start, trigger in TRANSITIONS if trigger is Trigger.ASSIGN] == [Status.PENDING]
