"""A submission with a known id: the same once more, or a mistake."""

from typing import Any

import pytest

from broker.protocol.primitives import decode
from broker.protocol.task_requests import Submission, TaskBudget, Vote
from broker.timestamps import from_datetime
from coordinator.core.commands import Refuse
from coordinator.core.events import AssignRequested, RetryRequested, Sender, Submitted, UpdateRequested
from coordinator.core.tasks.resubmission import differences
from coordinator.core.tasks.task import DEFAULT_PRIORITY
from tests.support.core_driver import Core
from tests.support.core_events import answers, completed, seen, submitted
from tests.support.stored_tasks import a_task

BEN = Sender("ben", "replies-of-ben", "c-2")
TEAM: dict[str, Any] = {"assignees": ["ana", "bea"], "mode": "vote"}


def differing(known: dict[str, Any], again: dict[str, Any], *, priority: int = DEFAULT_PRIORITY) -> list[str]:
    """The fields in which a task submitted again differs."""
    task = a_task(1)
    task.spec = decode(Submission, Submission(**{"description": "x", **known}).encode())
    spec = decode(Submission, Submission(**{"description": "x", **again}).encode())
    return [path for path, _ in differences(spec, priority, task)]


OTHER: dict[str, Any] = {
    "description": "other",
    "inputs": {"a": 1},
    "skills": ["python"],
    "assignee": "ana",
    "assignees": ["ana", "bea"],
    "excluded": ["ana"],
    "mode": "all",
    "vote": Vote(judge="cem"),
    "reviewer": "cem",
    "max_rounds": 2,
    "priority": 7,
    "due": "2026-12-01T09:00:00Z",
    "not_before": "2026-12-01T09:00:00Z",
    "depends_on": ["t-0"],
    "on_dependency_failure": "run",
    "timeout": 5.0,
    "max_attempts": 2,
    "output_schema": {"type": "object"},
    "labels": ["nightly"],
    "metadata": {"a": 1},
    "parent_id": "p",
    "conversation_id": "c",
    "needs": ["tools"],
    "budget": TaskBudget(usd=0.5),
}


@pytest.mark.parametrize("name", sorted(Submission.model_fields.keys() - {"id", "force", "answers"}))
def test_every_field_that_says_what_the_task_is_is_compared(name: str) -> None:
    spec = Submission.model_construct(description="x")
    changed = Submission.model_construct(**{"description": "x", name: OTHER[name]})
    if name in ("due", "not_before"):
        changed = decode(Submission, b'{"description": "x", "%b": "%b"}' % (name.encode(), OTHER[name].encode()))
    task = a_task(1)
    task.spec = spec
    priority = 7 if name == "priority" else DEFAULT_PRIORITY
    assert [path for path, _ in differences(changed, priority, task)] == [name]
    assert differences(spec, DEFAULT_PRIORITY, task) == []


@pytest.mark.parametrize(
    ("known", "again"),
    [
        ({}, {"id": "t", "force": True, "answers": "final"}),
        ({}, {"skills": [], "metadata": {}, "max_attempts": 3, "on_dependency_failure": "fail"}),
        ({"inputs": {"a": 1, "b": [1.0]}}, {"inputs": {"b": [1], "a": 1}}),
        ({"skills": ["a", "b"], "labels": ["x", "y"]}, {"skills": ["b", "a"], "labels": ["y", "x", "x"]}),
        ({**TEAM, "vote": Vote(choices=["a", "b"])}, {**TEAM, "vote": Vote(choices=["a", "b"], weights={})}),
        ({"timeout": 5}, {"timeout": 5.0}),
    ],
)
def test_what_means_the_same_is_the_same(known: dict[str, Any], again: dict[str, Any]) -> None:
    assert differing(known, again) == differing(again, known) == []


@pytest.mark.parametrize(
    ("known", "again", "names"),
    [
        ({"inputs": {"a": True}}, {"inputs": {"a": 1}}, ["inputs"]),
        ({"inputs": [1, 2]}, {"inputs": [2, 1]}, ["inputs"]),
        ({"inputs": [1, 2]}, {"inputs": [1]}, ["inputs"]),
        ({"inputs": {"a": None}}, {"inputs": {}}, ["inputs"]),
        ({"metadata": {"a": "1"}}, {"metadata": {"a": 1}}, ["metadata"]),
        ({**TEAM, "vote": Vote(choices=["a", "b"])}, {**TEAM, "vote": Vote(choices=["b", "a"])}, ["vote"]),
    ],
)
def test_what_means_something_else_differs(known: dict[str, Any], again: dict[str, Any], names: list[str]) -> None:
    assert differing(known, again) == differing(again, known) == names


def test_the_same_moment_by_another_clock_is_the_same() -> None:
    def due(text: str) -> Submission:
        return decode(Submission, b'{"description": "x", "due": "%b"}' % text.encode())

    task = a_task(1)
    task.spec = due("2026-12-01T09:00:00Z")
    assert differences(due("2026-12-01T11:00:00+02:00"), DEFAULT_PRIORITY, task) == []
    assert [path for path, _ in differences(due("2026-12-01T09:00:01Z"), DEFAULT_PRIORITY, task)] == ["due"]


def test_the_priority_of_the_property_counts_as_that_of_the_body() -> None:
    assert differing({}, {}, priority=7) == ["priority"]
    assert differing({"priority": DEFAULT_PRIORITY}, {}) == []


def test_a_part_of_a_task_has_the_priority_and_the_labels_that_its_task_has_by_then() -> None:
    part = {"parent_id": "p"}
    assert differing({**part, "labels": ["local-only"]}, part, priority=9) == []
    assert differing(part, {**part, "description": "y"}) == ["description"]


def refused(commands: list[Any]) -> list[str]:
    return [path for command in commands if isinstance(command, Refuse) for path, _ in command.problems]


@pytest.fixture
def core() -> Core:
    core = Core()
    core.handle(seen("atlas"), seen("boreas"), submitted("t", priority=2, labels=["first"]))
    return core


def test_another_task_with_a_known_id_is_refused_with_the_fields_that_differ(core: Core) -> None:
    commands = core.handle(submitted("t", description="something else", priority=9, sender=BEN))
    assert refused(commands) == ["description", "priority", "labels"]
    assert answers(core.handle(completed("t"))) == [("t", "task.completed", "replies-of-ana")]


@pytest.mark.parametrize(
    "change",
    [
        UpdateRequested("t", {"priority": 9, "labels": ["second"], "metadata": {"a": 1}, "due": None}),
        AssignRequested("t", "boreas", now=True),
    ],
)
def test_what_others_have_changed_meanwhile_makes_no_difference(core: Core, change: Any) -> None:
    core.handle(change)
    core.handle(UpdateRequested("t", {"priority": 8}))
    again = core.handle(submitted("t", priority=2, labels=["first"], sender=BEN))
    assert [kind for _, kind, _ in answers(again)] == ["task.accepted"]
    assert refused(core.handle(submitted("t", priority=8, labels=["first"]))) == ["priority"]


def test_what_was_changed_with_a_retry_makes_no_difference(core: Core) -> None:
    core.handle(completed("t"))
    core.handle(RetryRequested("t", Sender(), {"description": "better", "inputs": [1], "skills": []}))
    assert refused(core.handle(submitted("t", priority=2, labels=["first"]))) == []
    assert refused(core.handle(submitted("t", description="better", priority=2, labels=["first"]))) == ["description"]


def test_of_a_task_that_may_have_been_changed_earlier_nothing_differs(core: Core) -> None:
    core.handle(submitted("u", depends_on=["t"]))
    core.database.tasks["u"].original = None
    assert refused(core.handle(submitted("u", description="something else"))) == []
    core.handle(UpdateRequested("u", {"priority": 8}))
    assert core.task("u").original is None


def test_a_changed_due_date_is_kept_as_it_was(core: Core) -> None:
    spec = decode(Submission, b'{"description": "-", "due": "2026-12-01T09:00:00Z"}')
    core.handle(Submitted("u", spec, DEFAULT_PRIORITY))
    core.handle(UpdateRequested("u", {"due": None}))
    assert spec.due is not None
    assert core.task("u").original == {"due": from_datetime(spec.due)}
    assert refused(core.handle(Submitted("u", spec, DEFAULT_PRIORITY))) == []


def test_whoever_wants_the_final_answer_alone_gets_no_other(core: Core) -> None:
    assert answers(core.handle(submitted("u", answers="final"))) == []
    assert answers(core.handle(submitted("u", answers="final"))) == []
    assert [kind for _, kind, _ in answers(core.handle(submitted("u")))] == ["task.accepted"]
    assert [kind for _, kind, _ in answers(core.handle(completed("u", llm="boreas")))] == ["task.completed"]
    assert [kind for _, kind, _ in answers(core.handle(submitted("u", answers="final")))] == ["task.completed"]


def test_whoever_wants_the_final_answer_alone_is_told_of_a_rejection(core: Core) -> None:
    assert refused(core.handle(submitted("t", description="something else", answers="final"))) != []
