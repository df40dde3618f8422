"""Submissions: accepted, assigned, answered, and known ones that come again."""

from coordinator.core.commands import AnswerSubmitter
from coordinator.core.events import Sender
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.tasks.task import view
from tests.support.core_driver import Core
from tests.support.core_events import answers, assignments, completed, events, seen, submitted

BEN = Sender("ben", "replies-of-ben", "c-2")


def test_a_task_waits_when_no_llm_is_there(core: Core) -> None:
    commands = core.handle(submitted("t"))
    assert events(commands) == [("t", "pending")]
    assert answers(commands) == [("t", "task.accepted", "replies-of-ana")]
    assert core.status("t") == "pending"


def test_a_task_is_assigned_at_once_to_an_llm_with_a_free_slot(atlas: Core) -> None:
    commands = atlas.handle(submitted("t"))
    assert assignments(commands) == [("t", 1, "atlas")]
    assert events(commands) == [("t", "assigned")]  # pending was never a fact
    task = atlas.task("t")
    assert (task.llm, task.attempt, task.why) == ("atlas", 1, "the only LLM online")


def test_a_waiting_task_is_assigned_when_an_llm_arrives(core: Core) -> None:
    core.handle(submitted("t"))
    commands = core.handle(seen("atlas"))
    assert events(commands) == [("atlas", "online"), ("t", "assigned")]


def test_a_submission_without_an_address_is_not_answered(core: Core) -> None:
    assert answers(core.handle(submitted("t", sender=Sender()))) == []


def test_an_answer_carries_the_correlation_id_and_the_task_as_it_stood(core: Core) -> None:
    [answer] = [c for c in core.handle(submitted("t", priority=7)) if isinstance(c, AnswerSubmitter)]
    assert answer.correlation_id == "c-1"
    assert answer.view["status"] == "pending"
    assert answer.view["priority"] == 7
    assert answer.view["submitted_by"] == "ana"


def test_the_same_id_again_changes_nothing_and_is_answered_at_the_newest_address(running: Core) -> None:
    commands = running.handle(submitted("t", sender=BEN))
    assert assignments(commands) == []
    assert events(commands) == []
    assert answers(commands) == [("t", "task.accepted", "replies-of-ben")]
    assert answers(running.handle(completed("t"))) == [("t", "task.completed", "replies-of-ben")]


def test_the_same_id_again_without_an_address_leaves_the_first_address(running: Core) -> None:
    assert running.handle(submitted("t", sender=Sender())) == [
        AnswerSubmitter("task.accepted", "replies-of-ana", "c-1", view(running.task("t")), known=True)
    ]
    assert answers(running.handle(completed("t"))) == [("t", "task.completed", "replies-of-ana")]


def test_the_id_of_a_finished_task_is_answered_with_its_result(running: Core) -> None:
    running.handle(completed("t", result=42))
    commands = running.handle(submitted("t", sender=BEN))
    assert answers(commands) == [("t", "task.accepted", "replies-of-ben"), ("t", "task.completed", "replies-of-ben")]
    assert [c.view["result"] for c in commands if isinstance(c, AnswerSubmitter)] == [42, 42]
    assert assignments(commands) == []


def test_the_same_id_twice_in_one_batch_makes_one_task(atlas: Core) -> None:
    commands = atlas.handle(submitted("t"), submitted("t", sender=BEN))
    assert assignments(commands) == [("t", 1, "atlas")]
    assert [kind for _, kind, _ in answers(commands)] == ["task.accepted", "task.accepted"]


def test_a_task_without_skills_and_assignee_gets_the_skills_that_its_text_suggests() -> None:
    core = Core(expertise=Expertise())
    core.handle(seen("ada", skills=["translate"], description="translates letters into French"))
    core.handle(seen("ben", skills=["python"], description="writes and debugs Python programs"))
    commands = core.handle(submitted("t", description="debug this Python program"))
    assert assignments(commands) == [("t", 1, "ben")]
    assert core.task("t").spec.skills == ["python"]
    assert [change.what for change in core.task("t").history] == ["skills suggested by the text: python"]


def test_a_task_with_skills_or_an_assignee_keeps_what_it_says() -> None:
    core = Core(expertise=Expertise())
    core.handle(seen("ada", skills=["translate"], description="translates letters into French"))
    core.handle(seen("ben", skills=["python"], description="writes and debugs Python programs"))
    core.handle(submitted("s", description="debug this Python program", skills=["translate"]))
    core.handle(submitted("a", description="debug this Python program", assignee="ada"))
    assert (core.task("s").llm, core.task("a").spec.skills) == ("ada", [])
