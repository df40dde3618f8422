"""What LLMs may not ask, and what everybody may, where everybody is known."""

from typing import Any

import pytest

from broker.instants import seconds
from broker.messages import Manage, Submission
from coordinator.core.authority import objection
from coordinator.core.commands import Answer, Refuse
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    CancelRequested,
    ManageRequested,
    Request,
    RetryRequested,
    Sender,
    Submitted,
    UpdateRequested,
)
from coordinator.core.machine import Machine
from tests.support.books import a_task
from tests.support.core import LEASE, T0

TASKS = {"t1": a_task(1, submitted_by="ana"), "t2": a_task(2, submitted_by="atlas")}
STEERING = (
    lambda task_id, sender: CancelRequested(task_id, sender),
    lambda task_id, sender: RetryRequested(task_id, sender),
    lambda task_id, sender: AssignRequested(task_id, "atlas", sender=sender),
    lambda task_id, sender: UpdateRequested(task_id, {"priority": 9}, sender),
)


def objected(request: Request) -> bool:
    return objection(request, TASKS, {"atlas"}) is not None


@pytest.mark.parametrize("steer", STEERING)
def test_an_llm_steers_what_it_has_submitted_and_a_person_everything(steer: Any) -> None:
    assert objected(steer("t1", Sender("atlas")))
    assert not objected(steer("t2", Sender("atlas")))
    assert not objected(steer("t1", Sender("bo")))
    assert not objected(steer("t2", Sender("bo")))
    assert not objected(steer("unknown", Sender("atlas")))  # which is told otherwise


def test_an_llm_manages_none() -> None:
    assert objected(ManageRequested(Manage(llm="vega", paused=True), Sender("atlas")))
    assert not objected(ManageRequested(Manage(llm="atlas", paused=True), Sender("bo")))


def test_an_llm_answers_no_question_that_a_person_is_asked() -> None:
    assert objected(AnswerGiven("t2", "yes", None, Sender("atlas")))
    assert not objected(AnswerGiven("t2", "yes", None, Sender("bo")))


def test_an_id_belongs_to_whoever_has_submitted_it_first() -> None:
    spec = Submission(description="-")
    assert objected(Submitted("t1", spec, 4, Sender("bo")))
    assert objected(Submitted("t1", spec, 4, Sender(None)))
    assert not objected(Submitted("t1", spec, 4, Sender("ana")))
    assert not objected(Submitted("t3", spec, 4, Sender("bo")))


@pytest.mark.parametrize(("require_identity", "answer"), [(True, Refuse), (False, Answer)])
def test_it_is_looked_at_only_where_identity_is_required(require_identity: bool, answer: type[object]) -> None:
    machine = Machine(lease=seconds(LEASE), require_identity=require_identity)
    known = a_task(1, submitted_by="ana")
    machine.load([known])
    commands = machine.handle(Submitted("t1", known.spec, known.priority, Sender("bo", "queue")), now=T0)
    assert isinstance(commands[0], answer)
