"""Who gets which task, who is waited for, and what people are told about it."""

import pytest

from broker.protocol.worker_reports import Presence
from coordinator.core.events import Heartbeat
from tests.support.core_driver import Core
from tests.support.core_events import assignments, claimed, completed, failed, left, seen, submitted


@pytest.fixture
def core() -> Core:
    return Core()


def know(core: Core, **seconds: float) -> None:
    """Every LLM has one slot, and three tasks have taken it so many seconds each."""
    core.handle(*(seen(name) for name in seconds))
    for number in range(3):
        for name, duration in seconds.items():
            task_id = f"{name}-{number}"
            core.handle(submitted(task_id, assignee=name))
            core.handle(claimed(task_id, llm=name), completed(task_id, llm=name, duration=duration))


def presence(name: str, *, skills: dict[str, float] | None = None, labels: list[str] | None = None) -> Heartbeat:
    return Heartbeat(Presence(name=name, instance="i1", skills=skills or {}, labels=labels or []))


def test_the_quickest_free_llm_gets_the_task(core: Core) -> None:
    know(core, ada=4.0, ben=2.0, cleo=30.0)
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "ben")]


def test_the_line_names_the_choice_the_reason_and_the_runners_up(core: Core) -> None:
    know(core, ada=4.0, ben=2.0, cleo=30.0)
    core.handle(submitted("t"))
    assert core.task("t").why == "ben: expected finish in 2.0 s (1 of 1 slots free); then ada 4.0 s, cleo 30 s"


def test_a_higher_level_makes_up_for_a_slower_pace(core: Core) -> None:
    know(core, ada=3.0, ben=2.0)
    core.handle(presence("ada", skills={"law": 1.0}), presence("ben", skills={"law": 0.5}))
    assert assignments(core.handle(submitted("t", skills=["law"]))) == [("t", 1, "ada")]
    assert "law 1, " in (core.task("t").why or "")


def test_pace_is_learned_for_each_skill(core: Core) -> None:
    core.handle(seen("ada", skills=["law", "code"]), seen("ben", skills=["law", "code"]))
    for number in range(4):
        for name, law, code in (("ada", 2.0, 20.0), ("ben", 20.0, 2.0)):
            for skill, duration in (("law", law), ("code", code)):
                task_id = f"{name}-{skill}-{number}"
                core.handle(submitted(task_id, assignee=name, skills=[skill]))
                core.handle(claimed(task_id, llm=name), completed(task_id, llm=name, duration=duration))
    commands = core.handle(submitted("sue", skills=["law"]), submitted("fix", skills=["code"]))
    assert assignments(commands) == [("sue", 1, "ada"), ("fix", 1, "ben")]


def test_a_task_waits_for_a_quick_llm_rather_than_go_to_a_slow_one(core: Core) -> None:
    know(core, quick=2.0, slow=40.0)
    core.handle(submitted("first"))
    assert assignments(core.handle(submitted("t"))) == []
    assert core.task("t").why == "waits for quick: expected to finish sooner than at slow"
    core.handle(claimed("first", llm="quick"))
    assert assignments(core.handle(completed("first", llm="quick"))) == [("t", 1, "quick")]


def test_the_slow_llm_works_when_more_waits_than_the_quick_one_can_do_meanwhile(core: Core) -> None:
    know(core, quick=2.0, slow=40.0)
    commands = core.handle(*(submitted(f"t{number:03}") for number in range(100)))
    given = {llm: task_id for task_id, _, llm in assignments(commands)}
    assert given["quick"] == "t000"
    assert given["slow"] > "t001", "the first ones are done sooner by the quick one"
    assert "what ranks before it waits for quicker ones" in (core.task(given["slow"]).why or "")


def test_a_backlog_that_memory_does_not_hold_is_not_near_its_end() -> None:
    core = Core(window=36)
    know(core, quick=2.0, slow=40.0)
    core.handle(left("quick"), left("slow"))
    core.handle(*(submitted(f"t{number}") for number in range(100)))
    commands = core.handle(seen("quick"), seen("slow"), at=100.0)
    assert [llm for _, _, llm in assignments(commands)] == ["quick", "slow"]


def test_a_slot_is_held_back_no_longer_when_the_quick_llm_takes_much_longer_than_expected(core: Core) -> None:
    know(core, quick=2.0, slow=20.0)
    core.handle(submitted("first"), at=0)
    core.handle(claimed("first", llm="quick"))
    core.handle(submitted("t"))
    for at in range(5, 120, 5):
        beats = [seen("quick", tasks=[("first", 1)]), seen("slow")]
        if assignments(core.handle(*beats, at=at)) == [("t", 1, "slow")]:
            return
    pytest.fail("t waits for ever")


def test_llms_nearly_as_quick_are_not_waited_for(core: Core) -> None:
    know(core, ada=2.0, ben=2.5)
    assert assignments(core.handle(submitted("t"), submitted("u"))) == [("t", 1, "ada"), ("u", 1, "ben")]


def test_nothing_is_held_back_for_a_few_milliseconds(core: Core) -> None:
    know(core, ada=0.001, ben=0.01)
    assert assignments(core.handle(submitted("t"), submitted("u"))) == [("t", 1, "ada"), ("u", 1, "ben")]


def test_one_outlier_does_not_change_who_is_quickest(core: Core) -> None:
    know(core, ada=2.0, ben=4.0)
    core.handle(submitted("odd", assignee="ada"))
    core.handle(claimed("odd", llm="ada"), completed("odd", llm="ada", duration=3600))
    know(core, ada=2.0)
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "ada")]


def test_an_llm_that_has_become_slow_loses_its_place(core: Core) -> None:
    know(core, ada=2.0, ben=4.0)
    for number in range(12):
        core.handle(submitted(f"slow{number}", assignee="ada"))
        core.handle(claimed(f"slow{number}", llm="ada"), completed(f"slow{number}", llm="ada", duration=20))
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "ben")]


def test_a_local_only_task_never_goes_to_an_llm_that_is_not_local(core: Core) -> None:
    core.handle(presence("cloud"))
    assert assignments(core.handle(submitted("secret", labels=["local-only"]))) == []
    assert assignments(core.handle(presence("house", labels=["local"]))) == [("secret", 1, "house")]
    assert core.task("secret").why == "the only local LLM online"


def test_a_local_only_task_waits_even_for_an_assignee_that_is_not_local(core: Core) -> None:
    core.handle(presence("cloud"))
    assert assignments(core.handle(submitted("secret", labels=["local-only"], assignee="cloud"))) == []
    assert assignments(core.handle(presence("cloud", labels=["local"]))) == [("secret", 1, "cloud")]


def test_a_task_does_not_go_back_to_the_llm_that_has_just_failed_it(core: Core) -> None:
    know(core, ada=2.0, ben=4.0)
    core.handle(submitted("t"), submitted("u", assignee="ben"))
    core.handle(claimed("t", llm="ada"), claimed("u", llm="ben"))
    core.handle(failed("t", llm="ada"))
    assert assignments(core.handle(at=2)) == [], "ada is free, but ben can do it too"
    assert core.task("t").why == "it has just failed at ada"
    assert assignments(core.handle(completed("u", llm="ben"), at=3)) == [("t", 2, "ben")]


def test_a_task_goes_back_to_the_llm_that_failed_it_when_nobody_else_can(core: Core) -> None:
    know(core, ada=2.0)
    core.handle(submitted("t"))
    core.handle(claimed("t", llm="ada"))
    core.handle(failed("t", llm="ada"))
    assert assignments(core.handle(at=2)) == [("t", 2, "ada")]


def test_the_only_one_who_can_do_the_scarce_work_is_spared_for_it(core: Core) -> None:
    core.handle(seen("ada", skills=["write"]), seen("ben", skills=["write", "law"]), seen("cleo", skills=["write"]))
    busy = [submitted(f"busy-{name}", assignee=name) for name in ("ada", "ben", "cleo")]
    core.handle(*busy, *(submitted(f"w{number}", skills=["write"]) for number in range(4)))
    core.handle(*(submitted(f"l{number}", skills=["law"]) for number in range(6)))
    core.handle(claimed("busy-ben", llm="ben"))
    assert assignments(core.handle(completed("busy-ben", llm="ben"))) == [("l0", 1, "ben")]


def test_scarce_work_of_a_lower_priority_does_not_take_precedence(core: Core) -> None:
    core.handle(seen("ada", skills=["write"]), seen("ben", skills=["write", "law"]))
    core.handle(submitted("busy-ada", assignee="ada"), submitted("busy-ben", assignee="ben"))
    core.handle(submitted("urgent", skills=["write"], priority=9))
    core.handle(*(submitted(f"l{number}", skills=["law"]) for number in range(6)))
    core.handle(claimed("busy-ben", llm="ben"))
    assert assignments(core.handle(completed("busy-ben", llm="ben"))) == [("urgent", 1, "ben")]


def test_a_task_that_cannot_be_in_time_lets_those_go_first_that_can(core: Core) -> None:
    know(core, ada=10.0)
    core.handle(submitted("busy"))
    core.handle(submitted("hopeless", due=5), submitted("possible", due=60), submitted("whenever"))
    core.handle(claimed("busy", llm="ada"))
    order = []
    task_id = "busy"
    while given := assignments(core.handle(completed(task_id, llm="ada", duration=10))):
        [(task_id, _, _)] = given
        order.append(task_id)
        core.handle(claimed(task_id, llm="ada"))
    assert order == ["possible", "hopeless", "whenever"]


def done_beside_urgent_tasks(core: Core, count: int) -> list[str]:
    """What ada does in that many runs of a second, in order, while one more urgent task comes in each of them."""
    order, running = [], "busy"
    for number in range(count):
        core.handle(claimed(running, llm="ada"), submitted(f"urgent-{number}", due=core.at + 3))
        [(running, _, _)] = assignments(core.handle(completed(running, llm="ada", duration=1), at=core.at + 1))
        order.append(running)
    return order


@pytest.mark.parametrize("due", [7, None, 0.5])
def test_what_is_not_urgent_has_its_turn_once_it_has_waited_as_long_as_all_that_waits_needs(
    core: Core, due: float | None
) -> None:
    know(core, ada=1.0)
    core.handle(submitted("busy"))
    core.handle(submitted("patient", due=due))
    assert done_beside_urgent_tasks(core, 3) == ["urgent-0", "urgent-1", "patient"]


def test_the_line_tells_that_a_task_goes_first_because_it_has_waited(core: Core) -> None:
    know(core, ada=1.0, ben=60.0)
    core.handle(submitted("busy"), submitted("busy too", assignee="ben"), submitted("patient"))
    assert "patient" in done_beside_urgent_tasks(core, 3)
    assert "), first because it has waited for long; then ben" in (core.task("patient").why or "")


def test_what_has_much_time_until_it_is_due_does_not_go_before_what_is_urgent(core: Core) -> None:
    know(core, ada=1.0)
    core.handle(submitted("busy"))
    core.handle(submitted("patient", due=1_000))
    assert "patient" not in done_beside_urgent_tasks(core, 9)


def test_a_large_task_that_is_late_already_waits_until_nothing_else_does(core: Core) -> None:
    know(core, ada=1.0)
    core.handle(submitted("busy"))
    core.handle(submitted("huge", due=0.5, inputs="x" * 50_000))
    assert done_beside_urgent_tasks(core, 9) == [f"urgent-{number}" for number in range(9)]
    core.handle(claimed("urgent-8", llm="ada"))
    assert assignments(core.handle(completed("urgent-8", llm="ada"))) == [("huge", 1, "ada")]


def test_priority_comes_before_long_waits(core: Core) -> None:
    know(core, ada=1.0)
    core.handle(submitted("busy"))
    core.handle(submitted("patient", priority=3))
    assert "patient" not in done_beside_urgent_tasks(core, 9)


def test_priority_comes_before_due_dates_that_can_be_met(core: Core) -> None:
    know(core, ada=10.0)
    core.handle(submitted("busy"))
    core.handle(submitted("hopeless", due=5, priority=5), submitted("possible", due=60))
    core.handle(claimed("busy", llm="ada"))
    assert assignments(core.handle(completed("busy", llm="ada"))) == [("hopeless", 1, "ada")]


def test_of_llms_that_nothing_is_known_of_the_emptier_one_is_taken(core: Core) -> None:
    core.handle(seen("ada", slots=2), seen("ben", slots=2))
    commands = core.handle(*(submitted(f"t{number}") for number in range(4)))
    assert [llm for _, _, llm in assignments(commands)] == ["ada", "ben", "ada", "ben"]


def test_a_new_llm_is_tried_before_one_that_is_known_to_be_slow(core: Core) -> None:
    know(core, quick=2.0, slow=40.0)
    core.handle(submitted("busy", assignee="quick"), seen("new"))
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "new")]


def test_what_was_learned_survives_another_coordinator(core: Core) -> None:
    know(core, ada=9.0, ben=2.0)
    core.handle(seen("ada"), seen("ben"))
    core.restart()
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "ben")]
