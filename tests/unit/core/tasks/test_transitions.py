from collections.abc import Callable
from copy import deepcopy
from itertools import product

import pytest

from broker.errors import IllegalTransition
from broker.protocol.status import FINAL, Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import OpenQuestion, Task
from coordinator.core.tasks.transitions import TRANSITIONS, Trigger, after
from tests.support.core_driver import T0

LEGAL = list(TRANSITIONS)
ILLEGAL = [pair for pair in product(Status, Trigger) if pair not in TRANSITIONS]
NOW = Instant(T0 + 1)

FUNCTIONS: dict[Trigger, Callable[[Task], None]] = {
    Trigger.READY: lambda task: transitions.make_ready(task, NOW),
    Trigger.ASSIGN: lambda task: transitions.assign(task, "atlas", "quickest", NOW),
    Trigger.EXPAND: lambda task: transitions.expand(task, NOW),
    Trigger.CLAIM: lambda task: transitions.claim(task, "i1", "m", NOW),
    Trigger.ASK: lambda task: transitions.ask(task, OpenQuestion("q", "q?", (), NOW), NOW),
    Trigger.RESUME: lambda task: transitions.resume(task, NOW),
    Trigger.RELEASE: lambda task: transitions.release(task, NOW),
    Trigger.BACK_OFF: lambda task: transitions.back_off(task, NOW),
    Trigger.HOLD: lambda task: transitions.hold(task, "team", NOW, "too little is left"),
    Trigger.COMPLETE: lambda task: transitions.complete(task, "done", NOW),
    Trigger.FAIL: lambda task: transitions.fail(task, Failure(type="lost", message="gone"), NOW),
    Trigger.CANCEL: lambda task: transitions.cancel(task, "ana", None, NOW),
    Trigger.RETRY: lambda task: transitions.retry(task, "ana", (), NOW),
}


def a_task(status: Status) -> Task:
    return Task(id="t", seq=1, spec=Submission(description="x"), status=status, priority=4, submitted_at=T0)


def name(value: Status | Trigger) -> str:
    return value.name.lower()


@pytest.mark.parametrize(("status", "trigger"), LEGAL, ids=name)
def test_a_legal_transition_leads_to_the_state_of_the_table(status: Status, trigger: Trigger) -> None:
    task = a_task(status)
    FUNCTIONS[trigger](task)
    assert task.status is TRANSITIONS[status, trigger]


@pytest.mark.parametrize(("status", "trigger"), ILLEGAL, ids=name)
def test_an_illegal_transition_raises_and_changes_nothing(status: Status, trigger: Trigger) -> None:
    task = a_task(status)
    before = deepcopy(task)
    with pytest.raises(IllegalTransition, match=f"a task that is {status} cannot "):
        FUNCTIONS[trigger](task)
    assert task.status is status
    assert all(getattr(task, name) == getattr(before, name) for name in Task.__slots__)


def test_every_trigger_has_a_function() -> None:
    assert set(FUNCTIONS) == set(Trigger)


def test_a_claimed_attempt_counts_and_an_excused_one_does_not() -> None:
    task = a_task(Status.ASSIGNED)
    transitions.claim(task, "i1", "m", NOW)
    assert task.starts == 1
    transitions.release(task, NOW, counts=False)
    assert task.starts == 0
    assert (task.llm, task.instance, task.started_at) == (None, None, None)


def test_a_second_question_leaves_the_status_and_the_waiting_time_as_they_are() -> None:
    task = a_task(Status.IN_PROGRESS)
    for number in range(2):
        transitions.ask(task, OpenQuestion(f"q{number}", "?", (), NOW), Instant(NOW + number))
    assert (task.status, task.asking_since) == (Status.INPUT_REQUIRED, NOW)
    assert [asked.id for asked in task.open_questions] == ["q0", "q1"]


def test_a_retry_takes_back_all_that_the_run_before_has_left() -> None:
    task, fresh = a_task(Status.IN_PROGRESS), a_task(Status.BLOCKED)
    transitions.complete(task, "done", NOW)
    transitions.retry(task, "ana", ["priority"], NOW)
    assert [change.what for change in task.history] == ["retried after it was completed, with changed priority"]
    task.history.clear()
    assert all(getattr(task, name) == getattr(fresh, name) for name in Task.__slots__)


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
