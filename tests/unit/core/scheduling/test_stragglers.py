"""A run that takes much longer than expected starts again where it ends sooner, if nothing else is to do there."""

from typing import Any

import pytest

from broker.protocol.task_requests import ManageLLM
from coordinator.core.commands import Command
from coordinator.core.events import Event, ManageRequested
from coordinator.policy_loader import load_policy
from tests.support.core_driver import Core
from tests.support.core_events import assignments, claimed, completed, failed, left, seen, stops, submitted

FAR_TOO_LONG = 150  # seconds, for a task that `slow` is expected to do in a minute


def straggling(core: Core, **fields: Any) -> Core:
    """`slow` has run `hard` since the start, the only one online. It takes a minute for such, `quick` two seconds."""
    core.handle(seen("slow"), seen("quick"))
    for number in range(3):
        for name, duration in (("slow", 60.0), ("quick", 2.0)):
            task_id = f"{name}-{number}"
            core.handle(submitted(task_id, assignee=name))
            core.handle(claimed(task_id, llm=name), completed(task_id, llm=name, duration=duration))
    core.handle(left("quick"))
    core.handle(submitted("hard", **fields))
    core.handle(claimed("hard", llm="slow"))
    return core


def at(core: Core, moment: float, *events: Event, tasks: tuple[tuple[str, int], ...] = (("hard", 1),)) -> list[Command]:
    """What follows from these events, while `slow` goes on with what it has."""
    core.handle(seen("slow", tasks=tasks), at=moment - 1)
    return core.handle(seen("slow", tasks=tasks), *events, at=moment)


def until(core: Core, moment: int) -> None:
    """Time passes, and `slow` beats."""
    for second in range(0, moment, 5):
        core.handle(seen("slow", tasks=[("hard", 1)]), at=second)


@pytest.fixture
def core() -> Core:
    core = straggling(Core())
    until(core, FAR_TOO_LONG)
    return core


def test_a_straggler_begins_again_at_a_much_faster_free_llm(core: Core) -> None:
    commands = at(core, FAR_TOO_LONG, seen("quick"))
    assert stops(commands) == [("hard", 1, "slow/i1")]
    assert assignments(commands) == [("hard", 2, "quick")]
    told = "moved: slow takes much longer than expected; quick is faster and has a free slot"
    assert [change.what for change in core.task("hard").history] == [told]
    assert core.task("hard").attempts[0].outcome == "moved"


def test_it_costs_none_of_the_attempts_that_it_has() -> None:
    core = straggling(Core(), max_attempts=1)
    until(core, FAR_TOO_LONG)
    at(core, FAR_TOO_LONG, seen("quick"))
    core.handle(claimed("hard", 2, llm="quick"), completed("hard", 2, llm="quick"))
    assert core.status("hard") == "completed"


def test_a_run_of_the_usual_length_goes_on(core: Core) -> None:
    core = straggling(Core())
    until(core, 60)
    assert stops(at(core, 60, seen("quick"))) == []


def test_a_straggler_goes_on_while_the_quick_llm_has_other_things_to_do(core: Core) -> None:
    others = [submitted(f"other-{number}") for number in range(3)]
    commands = at(core, FAR_TOO_LONG, seen("quick"), *others)
    assert [llm for _, _, llm in assignments(commands)] == ["quick"]
    assert stops(commands) == []


def test_a_straggler_is_not_moved_to_one_that_is_hardly_quicker() -> None:
    core = Core()
    core.handle(seen("slow"), seen("same"))
    for name in ("slow", "same"):
        core.handle(submitted(name, assignee=name))
        core.handle(claimed(name, llm=name), completed(name, llm=name, duration=60.0))
    core.handle(left("same"), submitted("hard"))
    core.handle(claimed("hard", llm="slow"))
    until(core, FAR_TOO_LONG)
    assert stops(at(core, FAR_TOO_LONG, seen("same"))) == []


def test_a_task_that_was_given_by_hand_stays_where_it_is() -> None:
    core = straggling(Core(), assignee="slow")
    until(core, FAR_TOO_LONG)
    assert stops(at(core, FAR_TOO_LONG, seen("quick"))) == []


def test_a_straggler_is_moved_only_once(core: Core) -> None:
    at(core, FAR_TOO_LONG, seen("quick"))
    core.handle(failed("hard", 2, llm="quick"), ManageRequested(ManageLLM(llm="quick", paused=True)))
    core.handle(at=core.at + 2)
    core.handle(claimed("hard", 3, llm="slow"), at=core.at + 1)
    for _ in range(60):
        core.handle(seen("slow", tasks=[("hard", 3)]), seen("quick"), at=core.at + 5)
    commands = core.handle(ManageRequested(ManageLLM(llm="quick", paused=False)), at=core.at + 2)
    assert core.task("hard").llm == "slow"
    assert stops(commands) == []


def test_other_policies_leave_runs_where_they_are() -> None:
    core = straggling(Core(policy=load_policy("least-loaded")))
    until(core, FAR_TOO_LONG)
    assert stops(at(core, FAR_TOO_LONG, seen("quick"))) == []
