"""Attempts that wait, for what they have delegated or for a person."""

from collections.abc import Sequence

import pytest

from broker.protocol.status import Status
from coordinator.core.commands import Refuse
from coordinator.core.events import AssignRequested, RetryRequested
from coordinator.core.tasks.task import view
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    ANA,
    answered,
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    left,
    resumed,
    seen,
    stops,
    submitted,
    told,
    waited,
)


@pytest.fixture
def core() -> Core:
    """Atlas, with one slot, works on t1."""
    core = Core()
    core.handle(seen("atlas"), submitted("t1"), at=0)
    core.handle(claimed("t1"))
    return core


def refusals(commands: Sequence[object]) -> list[str]:
    return [str(problem) for command in commands if isinstance(command, Refuse) for problem in command.problems]


# -- slots -----------------------------------------------------------------------------------------------------------


def test_an_attempt_that_waits_leaves_its_slot_to_another_task(core: Core) -> None:
    assert assignments(core.handle(submitted("t2"))) == []
    assert assignments(core.handle(waited("t1"))) == [("t2", 1, "atlas")]
    assert core.status("t1") == "in_progress"
    assert view(core.task("t1"))["parked"] is True


def test_an_attempt_that_goes_on_takes_its_slot_again(core: Core) -> None:
    core.handle(waited("t1"), submitted("t2"))
    core.handle(claimed("t2"), resumed("t1"))
    assert assignments(core.handle(submitted("t3"))) == []
    assert assignments(core.handle(completed("t2"))) == []
    assert assignments(core.handle(completed("t1"))) == [("t3", 1, "atlas")]


def test_a_parked_attempt_that_ends_gives_no_second_slot_free(core: Core) -> None:
    core.handle(waited("t1"), submitted("t2"), submitted("t3"))
    assert assignments(core.handle(claimed("t2"), completed("t1"))) == []


def test_the_next_coordinator_knows_who_is_parked(core: Core) -> None:
    core.handle(waited("t1"))
    core.restart()
    assert assignments(core.handle(seen("atlas", tasks=[("t1", 1)]), submitted("t2"))) == [("t2", 1, "atlas")]
    core.handle(claimed("t2"), resumed("t1"))
    core.handle(completed("t1"), completed("t2"))
    assert (core.status("t1"), core.status("t2")) == ("completed", "completed")


def test_a_silent_worker_loses_the_task_that_it_has_parked(core: Core) -> None:
    core.handle(waited("t1"))
    commands = core.tick(at=LEASE)
    assert stops(commands) == [("t1", 1, "atlas/i1")]
    assert core.status("t1") == "pending"
    assert not core.task("t1").parked


def test_an_attempt_that_is_lost_while_it_waits_is_not_counted() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t1", max_attempts=1))
    core.handle(claimed("t1"), waited("t1", question="colour"), answered("t1"))
    core.handle(left("atlas"))
    assert core.status("t1") == "pending"
    core.handle(seen("atlas"))
    core.handle(claimed("t1", 2))
    core.handle(left("atlas"))
    assert core.status("t1") == "failed"


def test_who_waits_for_an_attempt_that_is_not_theirs_is_stopped(core: Core) -> None:
    assert stops(core.handle(waited("t1", instance="i2"))) == [("t1", 1, "atlas/i2")]
    assert stops(core.handle(resumed("t1", attempt=2))) == [("t1", 2, "atlas/i1")]
    assert not core.task("t1").parked


def test_an_assignment_that_waits_for_a_slot_is_kept_as_long_as_beats_name_it(core: Core) -> None:
    core.handle(waited("t1"), submitted("t2"))
    for beat in range(1, 4):
        core.handle(seen("atlas", tasks=[("t1", 1), ("t2", 1)]), at=beat * LEASE / 2)
    assert (core.status("t2"), core.task("t2").attempt) == ("assigned", 1)


# -- a question to a person ------------------------------------------------------------------------------------------


def test_a_question_makes_the_task_wait_for_a_person(core: Core) -> None:
    assert events(core.handle(waited("t1", question="colour"), submitted("t2"))) == [
        ("t1", "input_required"),
        ("t2", "assigned"),
    ]
    [asked] = view(core.task("t1"))["questions"]
    assert (asked["id"], asked["text"], "answer" in asked) == ("colour", "colour?", False)


def test_the_answer_goes_to_the_instance_that_asked(core: Core) -> None:
    core.handle(waited("t1", question="colour"), at=5)
    commands = core.handle(answered("t1", "blue"), at=7)
    assert told(commands) == [("t1", 1, "colour", "blue")]
    assert events(commands) == [("t1", "in_progress")]
    assert answers(commands) == [("t1", "task.accepted", "replies-of-ana")]
    assert [(c.by, c.what) for c in core.task("t1").history] == [
        ("atlas", "asked: colour?"),
        ("ana", "answered: blue"),
    ]


def test_the_time_that_people_take_is_counted(core: Core) -> None:
    core.handle(seen("atlas", tasks=[("t1", 1)]), waited("t1", question="colour"), at=5)
    core.handle(answered("t1", "blue"), at=7)
    core.handle(resumed("t1"), at=8)
    core.handle(waited("t1", question="size"), at=10)
    core.handle(completed("t1"), at=10.5)
    assert view(core.task("t1"))["person_wait"] == 2.5


def test_a_question_that_is_asked_again_is_not_asked_twice(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    assert events(core.handle(waited("t1", question="colour"))) == []
    assert len(core.task("t1").questions) == 1


def test_a_lost_answer_is_sent_again(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.handle(answered("t1", "blue"))
    commands = core.handle(waited("t1", question="colour"))
    assert told(commands) == [("t1", 1, "colour", "blue")]
    assert core.status("t1") == "in_progress"


def test_a_task_that_asks_several_people_at_once_goes_on_when_all_have_answered(core: Core) -> None:
    core.handle(waited("t1", question="colour"), waited("t1", question="size"))
    assert refusals(core.handle(answered("t1"))) == [
        "question: is missing: the task has several open questions: colour, size"
    ]
    assert refusals(core.handle(answered("t1", question="taste"))) == [
        "question: taste is not an open question of the task: colour, size"
    ]
    assert told(core.handle(answered("t1", question="size"))) == [("t1", 1, "size", "yes")]
    assert core.status("t1") == "input_required"
    core.handle(answered("t1"))
    assert core.status("t1") == "in_progress"


def test_an_answer_must_be_one_of_the_choices(core: Core) -> None:
    core.handle(waited("t1", question="colour", choices=["red", "blue"]))
    assert refusals(core.handle(answered("t1", "green"))) == ["answer: must be one of: red, blue"]
    assert told(core.handle(answered("t1", "red"))) == [("t1", 1, "colour", "red")]


def test_nothing_is_answered_that_was_not_asked(core: Core) -> None:
    assert refusals(core.handle(answered("t1"))) == ["id: the task has no open question: it is in_progress"]
    assert refusals(core.handle(answered("t9"))) == ["id: there is no such task"]
    core.handle(completed("t1"))
    assert refusals(core.handle(answered("t1"))) == ["id: the task is already completed"]


def test_an_attempt_that_goes_on_without_the_answer_asks_no_more(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    assert events(core.handle(resumed("t1"))) == [("t1", "in_progress")]
    assert core.task("t1").questions == []


# -- when the one that asked is gone ---------------------------------------------------------------------------------


def test_a_task_goes_on_asking_when_its_worker_dies(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.tick(at=LEASE)
    assert core.status("t1") == "input_required"
    core.restart()
    commands = core.handle(seen("boreas"), answered("t1", "blue"))
    assert assignments(commands) == [("t1", 2, "boreas")]
    assert told(commands) == []
    assert [(asked.text, asked.answer) for asked in core.task("t1").questions] == [("colour?", "blue")]


@pytest.mark.parametrize("ending", [left("atlas"), failed("t1")], ids=["left", "failed"])
def test_a_worker_that_leaves_takes_no_question_with_it(core: Core, ending: object) -> None:
    core.handle(waited("t1", question="colour"))
    core.handle(ending)  # type: ignore[arg-type]  # one of the events above
    assert core.status("t1") == "input_required"
    assert assignments(core.handle(seen("boreas"), answered("t1"))) == [("t1", 2, "boreas")]


def test_attempts_that_end_while_a_person_is_asked_are_not_counted() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t1", max_attempts=1))
    for attempt in (1, 2, 3):
        core.handle(seen("atlas"), claimed("t1", attempt), waited("t1", attempt, question=f"q{attempt}"))
        core.handle(left("atlas"))
        core.handle(answered("t1"))
    core.handle(seen("atlas"))
    core.handle(claimed("t1", 4), completed("t1", 4))
    assert core.status("t1") == "completed"


def test_a_final_failure_ends_the_question_too(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.handle(failed("t1", retryable=False))
    assert core.status("t1") == "failed"
    assert core.task("t1").questions == []


def test_a_late_answer_of_the_lost_worker_ends_the_question(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.tick(at=LEASE)
    core.handle(completed("t1"))
    assert core.status("t1") == "completed"


def test_a_task_that_asks_is_cancelled_where_it_waits(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    commands = core.handle(cancelled("t1"))
    assert stops(commands) == [("t1", 1, "atlas/i1")]
    assert core.status("t1") == "cancelled"


def test_a_task_that_asks_and_has_lost_its_worker_is_cancelled_too(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.handle(left("atlas"))
    assert stops(core.handle(cancelled("t1"))) == []
    assert core.status("t1") == "cancelled"


def test_a_task_that_asks_is_moved_only_with_now_and_asks_again(core: Core) -> None:
    core.handle(waited("t1", question="colour"), seen("boreas"))
    assert "use `now`" in refusals(core.handle(AssignRequested("t1", "boreas")))[0]
    commands = core.handle(AssignRequested("t1", "boreas", now=True, sender=ANA))
    assert assignments(commands) == [("t1", 2, "boreas")]
    assert core.task("t1").questions == []


def test_a_task_that_is_run_once_more_asks_again(core: Core) -> None:
    core.handle(waited("t1", question="colour"))
    core.handle(answered("t1"))
    core.handle(resumed("t1"), completed("t1"))
    core.handle(RetryRequested("t1"))
    assert (core.task("t1").questions, core.task("t1").person_wait) == ([], 0)
    assert core.task("t1").status is Status.ASSIGNED
