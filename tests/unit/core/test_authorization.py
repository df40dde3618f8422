"""What LLMs may ask for, and what everybody may, where every user is known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import pytest

from broker.protocol.spending import ManageBudget, ManageLimit, ManageSpending
from broker.protocol.status import Status
from broker.protocol.task_requests import ManageLLM, Submission
from broker.timestamps import seconds
from coordinator.core.authorization import MAY_STEER, Restricted, objection
from coordinator.core.commands import AnswerSubmitter, Refuse
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    CancelRequested,
    ManageBudgetRequested,
    ManageLimitRequested,
    ManageRequested,
    ManageSpendingRequested,
    NotesRequested,
    ReportSaved,
    RetryRequested,
    Sender,
    Shared,
    Submitted,
    SubmitterNote,
    UpdateRequested,
)
from coordinator.core.llms.llm import LLM
from coordinator.core.machine import Machine, MachineOptions
from coordinator.core.tasks.task import Task
from tests.support.core_driver import LEASE, T0
from tests.support.stored_tasks import ATTEMPT, a_task

ATLAS, BO = Sender("atlas", is_llm=True), Sender("bo")
STEERING: tuple[Callable[[str, Sender], Restricted], ...] = (
    lambda task_id, sender: CancelRequested(task_id, sender),
    lambda task_id, sender: RetryRequested(task_id, sender),
    lambda task_id, sender: AssignRequested(task_id, "atlas", sender=sender),
    lambda task_id, sender: UpdateRequested(task_id, {"priority": 9}, sender),
)


def task(number: int, by: str, *, at: str | None = None, **fields: Any) -> Task:
    """A task that somebody has submitted, in progress at that LLM."""
    held: dict[str, Any] = {"status": Status.IN_PROGRESS, "llm": at, "instance": "i", "attempt": 1} if at else {}
    return a_task(number, submitted_by=by, **held, **fields)


class State(NamedTuple):
    """What the coordinator knows."""

    tasks: dict[str, Task]
    llms: dict[str, LLM]


@pytest.fixture
def state() -> State:
    """Ana's task t1 is at atlas and t2 at vega. Atlas gave the part t3 of t1 to vega, which made the part t6 of it.

    Nobody has atlas' own task t4; an attempt of t5 was at atlas once.
    """
    tasks = [
        task(1, "ana", at="atlas", conversation_id="t1-talk"),
        task(2, "ana", at="vega", conversation_id="t2-talk"),
        task(3, "atlas", at="vega", parent_id="t1", conversation_id="t1-talk"),
        task(4, "atlas"),
        task(5, "ana", attempts=[replace(ATTEMPT, llm="atlas")]),
        task(6, "vega", parent_id="t3"),
    ]
    llms = {name: LLM(name) for name in ("atlas", "vega")}
    for it in tasks:
        if it.llm:
            llms[it.llm].instance("i", T0, seconds(LEASE)).hold(it.id)
    return State({it.id: it for it in tasks}, llms)


def submission(task_id: str, sender: Sender, **fields: Any) -> Submitted:
    return Submitted(task_id, Submission(id=task_id, description=f"do {task_id}", **fields), 4, sender)


def path(state: State, request: Restricted) -> str | None:
    """What the objection to a request is about; None when there is none."""
    problem = objection(request, state.tasks, state.llms)
    return None if problem is None else problem.path


@pytest.mark.parametrize("steer", STEERING)
def test_an_llm_changes_what_it_has_submitted_and_a_person_everything(state: State, steer: Any) -> None:
    assert path(state, steer("t1", ATLAS)) == "id"
    assert path(state, steer("t2", ATLAS)) == "id"
    assert path(state, steer("t4", ATLAS)) is None
    assert path(state, steer("t1", BO)) is None
    assert path(state, steer("t4", BO)) is None
    assert path(state, steer("unknown", ATLAS)) is None  # refused later, as for everybody


def test_the_role_does_not_depend_on_whether_the_llm_has_said_hello(state: State) -> None:
    silent = Sender("iris", is_llm=True)
    assert "iris" not in state.llms
    assert path(state, CancelRequested("t1", silent)) == "id"
    assert path(state, AnswerGiven("t1", "yes", None, silent)) == "id"
    assert path(state, ManageRequested(ManageLLM(llm="vega", paused=True), silent)) == "llm"


def test_an_llm_with_the_rights_of_an_earlier_version_is_an_llm_once_it_has_said_hello(state: State) -> None:
    earlier = Sender("vega")  # it may still publish to fluffle.tasks
    assert path(state, CancelRequested("t1", earlier)) == "id"
    assert path(state, ManageRequested(ManageLLM(llm="atlas", paused=True), earlier)) == "llm"


def test_an_llm_manages_no_llm_saves_no_report_and_answers_for_no_person(state: State) -> None:
    for request, about in (
        (ManageRequested(ManageLLM(llm="vega", paused=True), ATLAS), "llm"),
        (ManageLimitRequested(ManageLimit(limit="openai", paused=True), ATLAS), "limit"),
        (ManageBudgetRequested(ManageBudget(budget="team", raise_usd=1), ATLAS), "budget"),
        (ManageSpendingRequested(ManageSpending(stopped=False), ATLAS), "stopped"),
        (ReportSaved("weekly", None, ATLAS), "name"),
        (AnswerGiven("t1", "yes", None, ATLAS), "id"),
    ):
        assert path(state, request) == about
        assert path(state, replace(request, sender=BO)) is None


def test_every_kind_of_request_is_denied_to_an_llm_unless_it_is_in_the_table() -> None:
    """A kind that somebody adds is denied until somebody allows it."""
    steering = {CancelRequested, RetryRequested, AssignRequested, UpdateRequested}
    assert set(MAY_STEER) == steering
    kinds = set(get_args(Restricted))
    assert steering < kinds
    managing = {
        ManageRequested,
        ManageLimitRequested,
        ManageBudgetRequested,
        ManageSpendingRequested,
        ReportSaved,
    }
    assert kinds - steering == {Submitted, AnswerGiven, Shared, NotesRequested} | managing


@pytest.mark.parametrize(
    ("depends_on", "is_allowed"),
    [("t1", True), ("t3", True), ("t4", True), ("t5", True), ("t6", True), ("t2", False), ("unknown", False)],
)
def test_an_llm_depends_only_on_tasks_that_it_has_to_do_with(state: State, depends_on: str, is_allowed: bool) -> None:
    """t6 belongs to the tree of t1, which atlas has."""
    part = submission("x", ATLAS, parent_id="t1", conversation_id="t1-talk", depends_on=[depends_on])
    assert path(state, part) == (None if is_allowed else "depends_on.0")
    assert path(state, submission("x", BO, depends_on=[depends_on])) is None


def test_without_a_parent_an_llm_has_no_tree(state: State) -> None:
    assert path(state, submission("atlas.x", ATLAS, depends_on=["t6"])) == "depends_on.0"
    assert path(state, submission("atlas.x", ATLAS, depends_on=["t1"])) is None


def test_an_llm_adds_parts_only_to_tasks_that_it_has_or_has_submitted(state: State) -> None:
    for parent, about in (("t1", None), ("t4", None), ("t2", "parent_id"), ("t5", "parent_id")):
        talk = {"t1": "t1-talk", "t2": "t2-talk"}.get(parent, parent)
        assert path(state, submission("x", ATLAS, parent_id=parent, conversation_id=talk)) == about


def test_an_llm_names_no_conversation_but_that_of_the_parent(state: State) -> None:
    assert path(state, submission("atlas.x", ATLAS, conversation_id="t1-talk")) == "conversation_id"
    assert path(state, submission("x", ATLAS, parent_id="t1", conversation_id="t2-talk")) == "conversation_id"


def test_an_llm_chooses_no_id_that_could_be_the_conversation_of_others(state: State) -> None:
    assert path(state, submission("ana-talk", ATLAS)) == "id"
    assert path(state, submission("atlas-2.x", ATLAS)) == "id"
    assert path(state, submission("atlas.x", ATLAS)) is None
    assert path(state, submission("ana-talk", BO)) is None


def test_notes_are_open_to_the_llms_that_have_a_task_of_the_conversation(state: State) -> None:
    for board, user, about in (
        ("t1-talk", "atlas", None),
        ("t1-talk", "vega", None),  # by its part t3
        ("t2-talk", "vega", None),
        ("t2-talk", "atlas", "board"),
        ("t4", "atlas", "board"),  # nobody has it
        ("unknown", "atlas", "board"),
    ):
        sender = Sender(user, is_llm=True)
        assert path(state, NotesRequested(board, None, sender)) == about
        assert path(state, Shared(note(board, f"llm.{user}"), sender)) == about
        assert path(state, NotesRequested(board, None, BO)) is None


def note(board: str, by: str) -> SubmitterNote:
    return SubmitterNote(board, "facts", "-", by, T0)


def test_the_author_of_a_note_is_its_user(state: State) -> None:
    for by, sender, about in (
        ("llm.vega", ATLAS, "by"),
        ("user.bo", ATLAS, "by"),
        ("llm.atlas", ATLAS, None),
        ("user.ana", BO, "by"),
        ("llm.atlas", BO, "by"),
        ("user.bo", BO, None),
        ("bo", BO, None),
    ):
        assert path(state, Shared(note("t1-talk", by), sender)) == about


def test_an_id_belongs_to_its_first_submitter(state: State) -> None:
    assert path(state, submission("t1", BO)) == "id"
    assert path(state, submission("t1", Sender(None))) == "id"
    assert path(state, submission("t1", Sender("ana"))) is None
    assert path(state, submission("t99", BO)) is None


@pytest.mark.parametrize(("require_identity", "answer"), [(True, Refuse), (False, AnswerSubmitter)])
def test_requests_are_authorized_only_where_identity_is_required(require_identity: bool, answer: type[object]) -> None:
    machine = Machine(MachineOptions(seconds(LEASE), require_identity=require_identity))
    machine.load([a_task(1, submitted_by="ana")])
    commands = machine.handle(Submitted("t1", Submission(description="do 1"), 4, Sender("bo", "queue")), now=T0)
    assert isinstance(commands[0], answer)
