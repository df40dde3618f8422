"""Which task gets a free slot, when, and at which LLM."""

from coordinator.core.tasks.attempts import MOST_UNCLAIMED
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import assignments, claimed, completed, events, retried, seen, submitted


def test_a_task_is_not_ready_before_its_time(atlas: Core) -> None:
    commands = atlas.handle(submitted("t", not_before=5), at=0)
    assert events(commands) == [("t", "blocked")]
    assert assignments(atlas.tick(at=4.9)) == []
    assert assignments(atlas.tick(at=5)) == [("t", 1, "atlas")]


def test_a_task_whose_time_has_passed_is_ready_at_once(atlas: Core) -> None:
    assert assignments(atlas.handle(submitted("t", not_before=-1e9))) == [("t", 1, "atlas")]


def test_a_task_whose_dependencies_end_early_still_waits_for_its_time(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"], not_before=5), at=0)
    running.handle(completed("t"), at=1)
    assert running.status("next") == "blocked"
    assert assignments(running.tick(at=5)) == [("next", 1, "atlas")]


def test_more_tasks_than_wake_at_once_wake_in_the_next_transaction(core: Core) -> None:
    core = Core(woken_at_once=2)
    core.handle(*(submitted(f"t{n}", not_before=1) for n in range(5)), at=0)
    assert [len(events(core.tick(at=1))) for _ in range(4)] == [2, 2, 1, 0]


def test_the_most_urgent_task_goes_first(core: Core) -> None:
    core.handle(
        submitted("old"),
        submitted("young"),
        submitted("due-late", due=300),
        submitted("due-soon", due=200),
        submitted("low", priority=1, due=100),
        submitted("high", priority=9),
    )
    commands = core.handle(seen("atlas", slots=6))
    assert [task_id for task_id, _, _ in assignments(commands)] == [
        "high", "due-soon", "due-late", "old", "young", "low",
    ]  # fmt: skip


def test_a_task_that_a_result_releases_may_take_the_slot_that_it_frees(running: Core) -> None:
    running.handle(submitted("waiting"), submitted("urgent", priority=9, depends_on=["t"]))
    assert assignments(running.handle(completed("t"))) == [("urgent", 1, "atlas")]


def test_the_most_urgent_task_goes_first_whatever_skills_it_needs(core: Core) -> None:
    core.handle(submitted("a", skills=["x"]), submitted("b", skills=["y"], priority=9), submitted("c", skills=["x"]))
    commands = core.handle(seen("atlas", skills=["x", "y"], slots=2))
    assert [task_id for task_id, _, _ in assignments(commands)] == ["b", "a"]


def test_an_llm_gets_no_more_than_all_its_replicas_have_slots_for(core: Core) -> None:
    core.handle(seen("atlas", "i1", slots=2), seen("atlas", "i2", slots=1))
    commands = core.handle(*(submitted(f"t{n}") for n in range(5)))
    assert [task_id for task_id, _, _ in assignments(commands)] == ["t0", "t1", "t2"]
    core.handle(claimed("t0", instance="i1"), claimed("t1", instance="i1"), claimed("t2", instance="i2"))
    assert assignments(core.handle(completed("t2", instance="i2"))) == [("t3", 1, "atlas")]


def test_replicas_may_share_the_work_unevenly(core: Core) -> None:
    core.handle(seen("atlas", "i1", slots=1), seen("atlas", "i2", slots=1), submitted("a"), submitted("b"))
    commands = core.handle(claimed("a", instance="i1"), claimed("b", instance="i1"), submitted("c"))
    assert assignments(commands) == []


def test_a_task_goes_only_to_an_llm_with_all_its_skills(core: Core) -> None:
    core.handle(seen("atlas", skills=["python"]), seen("boreas", skills=["python", "review"]))
    assert assignments(core.handle(submitted("t", skills=["review", "python"]))) == [("t", 1, "boreas")]


def test_a_task_waits_until_an_llm_learns_its_skill(core: Core) -> None:
    core.handle(seen("atlas", skills=["python"]), submitted("t", skills=["review"]))
    assert assignments(core.handle(seen("atlas", skills=["python", "review"]))) == [("t", 1, "atlas")]


def test_an_llm_that_lost_a_skill_gets_no_such_task(core: Core) -> None:
    core.handle(seen("atlas", skills=["review"]), submitted("first", skills=["review"]))
    core.handle(claimed("first"), submitted("second", skills=["review"]))
    core.handle(seen("atlas", tasks=[("first", 1)]))
    assert assignments(core.handle(completed("first"))) == []


def test_a_task_assigned_by_hand_waits_for_that_llm(core: Core) -> None:
    core.handle(seen("boreas", skills=["python"]), submitted("t", assignee="atlas", force=True, skills=["python"]))
    assert core.status("t") == "pending"
    assert assignments(core.handle(seen("atlas"))) == [("t", 1, "atlas")]
    assert core.task("t").why == "assigned by hand"


def test_the_llm_with_the_least_expected_wait_gets_the_task(core: Core) -> None:
    core.handle(seen("atlas", slots=2), seen("boreas", slots=2), submitted("a"), submitted("b"))
    slow, fast = (core.task(id_).llm or "" for id_ in ("a", "b"))
    core.handle(completed("a", llm=slow, duration=100), completed("b", llm=fast, duration=1))
    core.handle(submitted("c", assignee=slow, force=True), submitted("d", assignee=fast, force=True))
    assert assignments(core.handle(submitted("e"))) == [("e", 1, fast)]
    assert (core.task("e").why or "").startswith(f"{fast}: expected finish in 1.0 s (1 of 2 slots free); then {slow} ")


def test_a_draining_instance_gets_nothing_and_keeps_what_it_has(running: Core) -> None:
    commands = running.handle(seen("atlas", draining=True, tasks=[("t", 1)]), submitted("next"))
    assert events(commands) == [("atlas", "draining"), ("next", "pending")]
    assert events(running.handle(completed("t"))) == [("t", "completed")]
    assert assignments(running.handle(seen("atlas"))) == [("next", 1, "atlas")]


def test_what_no_instance_has_claimed_goes_back_when_all_of_them_drain(atlas: Core) -> None:
    atlas.handle(seen("atlas", "i2"), submitted("t"), submitted("u"))
    atlas.handle(seen("atlas", "i1", draining=True))
    assert atlas.status("t") == "assigned"
    atlas.handle(seen("atlas", "i2", draining=True, tasks=[("u", 1)]))
    assert (atlas.status("t"), atlas.status("u")) == ("pending", "assigned")
    error = atlas.task("t").attempts[0].error
    assert error is not None
    assert error.message == "all its instances are draining (attempt 1 at atlas)"
    assert events(atlas.handle(claimed("u", instance="i2"))) == [("u", "in_progress")]


def test_a_task_that_is_never_taken_up_fails_in_the_end(atlas: Core) -> None:
    atlas.handle(submitted("t", max_attempts=3))
    for second in range(0, 200, 4):
        atlas.handle(seen("atlas"), at=second)
    task = atlas.task("t")
    assert task.status == "failed"
    assert [attempt.outcome for attempt in task.attempts] == ["unclaimed"] * MOST_UNCLAIMED
    assert task.error is not None
    assert task.error.message == "no instance claimed it (attempt 10 at atlas)"
    atlas.handle(retried("t"))
    atlas.handle(seen("atlas"), at=204)
    atlas.handle(seen("atlas"), at=204 + LEASE)
    assert atlas.status("t") == "assigned", "a retry gives it all its attempts again"
