"""Sick LLMs in the core: whose fault a failure is, breakers, probes, and what it costs the tasks."""

from collections import Counter

import pytest

from broker.protocol.task_requests import ManageLLM
from coordinator.core.commands import AnnounceHealth, Command, SendSlots
from coordinator.core.events import ManageRequested
from coordinator.core.health.blame import MOST_EXCUSED
from coordinator.core.health.view import health_state, why_not
from coordinator.core.llms.llm import LLM
from tests.support.core_driver import Core, moment
from tests.support.core_events import assignments, claimed, completed, failed, left, seen, submitted


def run(core: Core, commands: list[Command], sick: dict[str, str], at: float) -> Counter[str]:
    """Claim and end every assignment, and those that follow, at that time; return how many each LLM got.

    LLMs in `sick` fail with that type of failure, the others complete.
    """
    got: Counter[str] = Counter()
    todo = assignments(commands)
    while todo:
        task_id, attempt, llm = todo.pop(0)
        got[llm] += 1
        more = core.handle(claimed(task_id, attempt, llm=llm), at=at)
        kind = sick.get(llm, "")
        ended = failed(task_id, attempt, llm=llm, kind=kind, retryable=kind == "command_failed") if kind else None
        more += core.handle(ended or completed(task_id, attempt, llm=llm), at=at)
        todo += assignments(more)
    return got


def llm(core: Core, name: str = "atlas") -> LLM:
    return core.machine.state.llms[name]


def announced(commands: list[Command]) -> list[tuple[str, str]]:
    return [(it.name, it.what) for it in commands if isinstance(it, AnnounceHealth)]


@pytest.mark.parametrize("kind", ["authentication", "provider_error", "connection", "model_not_found"])
def test_a_sick_llm_costs_no_task_an_attempt_while_another_can_do_it(kind: str) -> None:
    core = Core()
    commands = core.handle(seen("atlas"), seen("boreas"), *(submitted(f"t{n}", max_attempts=1) for n in range(60)))
    got = run(core, commands, {"atlas": kind}, at=0)
    assert {core.status(f"t{n}") for n in range(60)} == {"completed"}
    assert got["atlas"] <= 3
    assert {core.task(f"t{n}").starts for n in range(60)} == {1}


def test_a_sick_llm_that_is_alone_keeps_its_tasks_waiting_and_gets_one_probe_at_a_time() -> None:
    core = Core()
    commands = core.handle(seen("atlas", slots=4), *(submitted(f"t{n}", max_attempts=1) for n in range(8)))
    assert run(core, commands, {"atlas": "authentication"}, at=0)["atlas"] == 4
    assert {core.status(f"t{n}") for n in range(8)} == {"pending"}
    probes = 0
    for second in range(1, 3600):
        commands = core.handle(seen("atlas", slots=4), at=second)
        assert len(assignments(commands)) <= 1
        probes += run(core, commands, {"atlas": "authentication"}, at=second)["atlas"]
    assert 14 <= probes <= 20
    assert {core.status(f"t{n}") for n in range(8)} == {"pending"}
    done: Counter[str] = Counter()
    for second in range(3600, 3600 + 301):
        done += run(core, core.handle(seen("atlas", slots=4), at=second), {}, at=second)
    assert done["atlas"] == 8
    assert {core.status(f"t{n}") for n in range(8)} == {"completed"}


def test_the_breaker_survives_another_coordinator() -> None:
    core = Core()
    run(core, core.handle(seen("atlas"), submitted("t")), {"atlas": "authentication"}, at=0)
    core.restart(at=1)
    assert assignments(core.handle(seen("atlas"), at=2)) == []
    assert health_state(llm(core))[0] == "open"
    assert assignments(core.handle(seen("atlas"), at=5.1)) == [("t", 2, "atlas")]
    assert health_state(llm(core))[0] == "probing"


def test_the_last_failure_and_the_figures_of_the_hour_are_kept() -> None:
    core = Core()
    run(core, core.handle(seen("atlas"), seen("boreas"), submitted("t")), {"atlas": "connection"}, at=0)
    core.restart(at=1)
    core.handle(seen("atlas"), at=1)
    record = llm(core).health
    assert record.last_failure is not None
    assert record.last_failure.type == "connection"
    assert (record.last_hour(moment(1)).completed, record.last_hour(moment(1)).failed) == (0, 1)
    assert record.last_hour(moment(3601)).failed == 0


def test_people_hear_once_that_a_breaker_opened_and_that_it_closed() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"))
    core.handle(claimed("t"))
    assert announced(core.handle(failed("t", kind="authentication"))) == [("atlas", "circuit_open")]
    core.handle(seen("atlas"), at=5)
    core.handle(claimed("t", 2))
    assert announced(core.handle(failed("t", 2, kind="authentication"))) == []
    core.handle(seen("atlas"), at=15)
    core.handle(claimed("t", 3))
    assert announced(core.handle(completed("t", 3))) == [("atlas", "circuit_closed")]


def test_a_person_closes_the_breaker() -> None:
    core = Core()
    run(core, core.handle(seen("atlas"), submitted("t")), {"atlas": "authentication"}, at=0)
    assert (why_not(llm(core), moment(0)) or "").startswith("circuit open: authentication")
    commands = core.handle(ManageRequested(ManageLLM(llm="atlas", paused=False)), at=1)
    assert announced(commands) == [("atlas", "circuit_closed")]
    assert assignments(commands) == [("t", 2, "atlas")]


def test_a_broken_machine_is_not_the_llm() -> None:
    core = Core()
    core.handle(seen("atlas", "good", slots=2), seen("atlas", "bad", slots=2))
    core.handle(*(submitted(f"t{n}") for n in range(3)))
    for number in range(3):
        core.handle(claimed(f"t{number}", instance="bad" if number < 2 else "good"))
    commands = core.handle(failed("t0", instance="bad", kind="command_not_started"))
    orders = [(it.instance, it.slots) for it in commands if isinstance(it, SendSlots)]
    assert orders == [("bad", 0)]
    assert health_state(llm(core))[0] == "failing"
    assert llm(core).available
    assert [it[0] for it in assignments(commands)] == ["t0"]  # for the good machine has one more slot
    probe = core.handle(seen("atlas", "good", slots=2), seen("atlas", "bad", slots=2), at=5.1)
    assert [(it.instance, it.slots) for it in probe if isinstance(it, SendSlots)] == [("bad", 1)]


def test_an_instance_that_connects_again_is_told_again() -> None:
    core = Core()
    core.handle(seen("atlas", "good"), seen("atlas", "bad"), submitted("t0"))
    core.handle(claimed("t0", instance="bad"))
    core.handle(failed("t0", instance="bad", kind="authentication"))
    commands = core.handle(seen("atlas", "bad", control="llm.atlas.bad.2"))
    assert [(it.instance, it.slots) for it in commands if isinstance(it, SendSlots)] == [("bad", 0)]


def test_the_last_instance_is_never_told_to_take_nothing() -> None:
    core = Core()
    core.handle(seen("atlas", "good"), seen("atlas", "bad"), submitted("t0"))
    core.handle(claimed("t0", instance="bad"))
    core.handle(failed("t0", instance="bad", kind="authentication"))
    commands = core.handle(left("atlas", "good"))
    assert [(it.instance, it.slots) for it in commands if isinstance(it, SendSlots)] == [("bad", None)]


def test_a_task_that_an_llm_fails_while_it_does_others_is_to_blame_after_a_while() -> None:
    core = Core()
    commands = core.handle(seen("atlas"), submitted("poison", max_attempts=2, priority=1))
    attempts = 0
    while core.status("poison") != "failed":
        assert attempts < 50
        for task_id, attempt, _ in assignments(commands):
            core.handle(claimed(task_id, attempt))
            ended = failed(task_id, attempt, kind="provider_error") if task_id == "poison" else completed(task_id)
            attempts += task_id == "poison"
            core.handle(ended, submitted(f"good{attempts}", priority=9))
        commands = core.handle(seen("atlas"), at=core.at + 1)
        for task_id, attempt, _ in assignments(commands):
            if task_id != "poison":
                core.handle(claimed(task_id, attempt))
                core.handle(completed(task_id, attempt))
        commands = [*commands, *core.handle(seen("atlas"), at=core.at + 1)]
    assert MOST_EXCUSED < attempts <= MOST_EXCUSED + 5


def test_a_command_that_fails_with_one_task_is_not_sick() -> None:
    core = Core()
    commands = core.handle(seen("atlas"), submitted("t", max_attempts=3))
    for second in range(20):
        for task_id, attempt, _ in assignments(commands):
            core.handle(claimed(task_id, attempt))
            core.handle(failed(task_id, attempt, kind="command_failed"))
        commands = core.handle(seen("atlas"), at=second)
    assert core.status("t") == "failed"
    assert llm(core).available


def test_a_command_that_fails_with_every_task_is_sick() -> None:
    core = Core()
    commands = core.handle(seen("atlas"), *(submitted(f"t{n}") for n in range(20)))
    run(core, commands, {"atlas": "command_failed"}, at=0)
    assert health_state(llm(core))[0] == "open"
    assert {core.status(f"t{n}") for n in range(20)} <= {"pending", "failed", "blocked"}
    assert Counter(core.status(f"t{n}") for n in range(20))["pending"] >= 17


def test_an_unclear_failure_is_tried_elsewhere_at_no_cost_once() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"))
    core.handle(claimed("t"), seen("boreas"))
    commands = core.handle(failed("t", kind="command_failed"))
    assert assignments(commands) == [("t", 2, "boreas")]
    assert core.task("t").starts == 0
    core.handle(claimed("t", 2, llm="boreas"))
    core.handle(failed("t", 2, llm="boreas", kind="command_failed"))
    assert core.task("t").starts == 1


def test_the_fault_of_a_task_is_no_sign_of_health() -> None:
    core = Core()
    for number in range(10):
        core.handle(seen("atlas"), submitted(f"t{number}", max_attempts=1))
        core.handle(claimed(f"t{number}"))
        core.handle(failed(f"t{number}", kind="content_filter", retryable=False))
    assert health_state(llm(core))[0] == "healthy"
    assert {core.status(f"t{n}") for n in range(10)} == {"failed"}


def test_an_unclear_failure_that_is_not_retryable_is_the_fault_of_the_task() -> None:
    core = Core()
    for number in range(5):
        core.handle(seen("atlas"), seen("boreas"), submitted(f"t{number}", assignee="atlas"))
        core.handle(claimed(f"t{number}"))
        core.handle(failed(f"t{number}", kind="no_text", retryable=False))
    assert {core.status(f"t{n}") for n in range(5)} == {"failed"}
    assert health_state(llm(core))[0] == "healthy"
