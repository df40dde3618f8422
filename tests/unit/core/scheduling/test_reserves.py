"""Reserve LLMs: when they get tasks, and what people read about it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol.task_requests import ManageLLM
from broker.protocol.worker_reports import Price
from coordinator.core.events import Event, Heartbeat, ManageRequested
from coordinator.core.scheduling.policies import NAMES
from coordinator.policy_loader import load_policy
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import assignments, claimed, completed, left, seen, submitted
from tests.support.thoroughness import examples

PRICE = Price(input=2.0, output=8.0)


def gpt(**properties: Any) -> Heartbeat:
    """The reserve says hello."""
    told: dict[str, Any] = {"reserve": True, "price": PRICE} | properties
    return seen("gpt", **told)


def managed(llm: str, **changes: Any) -> ManageRequested:
    return ManageRequested(ManageLLM.model_validate({"llm": llm, **changes}))


def know(core: Core, **durations: float) -> None:
    """Three tasks have taken each LLM so many seconds."""
    for number in range(3):
        for name, duration in durations.items():
            task_id = f"{name}-{number}"
            core.handle(submitted(task_id, assignee=name))
            core.handle(claimed(task_id, llm=name), completed(task_id, llm=name, duration=duration))


@pytest.fixture
def core() -> Core:
    """atlas, which takes a minute for a task, and gpt in reserve, which takes two seconds."""
    core = Core()
    core.handle(seen("atlas"), gpt())
    know(core, atlas=60.0, gpt=2.0)
    return core


def busy(core: Core) -> None:
    """atlas works on a task without a due date."""
    assert assignments(core.handle(submitted("busy"))) == [("busy", 1, "atlas")]
    core.handle(claimed("busy"))


@pytest.mark.parametrize("policy", NAMES)
def test_a_reserve_gets_nothing_while_another_llm_works(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(seen("atlas"), gpt())
    commands = core.handle(submitted("t"), submitted("u"))
    assert [llm for _, _, llm in assignments(commands)] == ["atlas"]
    assert assignments(core.handle(at=5)) == []


@pytest.mark.parametrize("policy", NAMES)
def test_a_reserve_gets_the_tasks_when_all_other_llms_are_away(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(seen("atlas"), gpt(slots=2))
    busy(core)
    core.handle(submitted("t"))
    assert assignments(core.handle(left("atlas"))) == [("busy", 2, "gpt"), ("t", 1, "gpt")]
    why = core.task("t").why or ""
    assert why.startswith("gpt (reserve, $0.00")
    assert why.endswith(" expected): atlas is offline")


def test_a_reserve_gets_a_task_when_the_other_llm_is_paused(core: Core) -> None:
    core.handle(managed("atlas", paused=True))
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "gpt")]
    assert (core.task("t").why or "").endswith("atlas is paused")


def test_a_reserve_gets_a_task_that_only_it_can_do(core: Core) -> None:
    core.handle(gpt(skills=["law"]))
    assert assignments(core.handle(submitted("t", skills=["law"]))) == [("t", 1, "gpt")]
    assert (core.task("t").why or "").endswith("only reserves can do it")


def test_a_task_assigned_to_a_reserve_by_hand_goes_there(core: Core) -> None:
    assert assignments(core.handle(submitted("t", assignee="gpt"))) == [("t", 1, "gpt")]
    assert core.task("t").why == "assigned by hand"


def test_an_llm_that_is_silent_is_replaced_by_a_reserve_once_its_lease_is_over(core: Core) -> None:
    busy(core)
    core.handle(submitted("t"))
    assert assignments(core.handle(gpt(), at=LEASE - 1)) == []
    commands = core.handle(gpt(), at=LEASE)
    assert {llm for _, _, llm in assignments(commands)} == {"gpt"}


def test_a_task_that_would_be_late_goes_to_the_reserve_with_time_and_price(core: Core) -> None:
    busy(core)
    assert assignments(core.handle(submitted("t", due=90))) == [("t", 1, "gpt")]
    why = core.task("t").why or ""
    assert why.startswith("gpt (reserve, $0.00")
    assert why.endswith("expected): atlas would finish in 120 s, due in 90 s")


def test_a_task_that_a_slow_llm_would_finish_too_late_does_not_go_there(core: Core) -> None:
    assert assignments(core.handle(submitted("t", due=30))) == [("t", 1, "gpt")]


def test_a_task_with_enough_time_waits_until_time_runs_short(core: Core) -> None:
    busy(core)
    assert assignments(core.handle(submitted("t", due=300))) == []
    for at in range(1, 300):
        commands = core.handle(seen("atlas", tasks=[("busy", 1)]), gpt(), at=at)
        if assignments(commands):
            assert assignments(commands) == [("t", 1, "gpt")]
            assert at < 300 - 60, "there is still time to do it at atlas"
            return
    pytest.fail("the task is late")


def test_a_task_far_down_in_the_lane_goes_to_the_reserve_when_all_before_it_take_too_long(core: Core) -> None:
    busy(core)
    tasks = [submitted(f"t{number:02}", due=100_000 + number) for number in range(40)]
    core.handle(*tasks)
    commands = core.handle(submitted("last", due=100_100, inputs="x" * 4_000_000))
    assert [task_id for task_id, _, _ in assignments(commands)] == ["last"]


def test_what_the_reserve_finishes_in_time_goes_before_what_is_late_anyway(core: Core) -> None:
    busy(core)
    commands = core.handle(submitted("overdue", due=0.5), submitted("possible", due=10))
    assert assignments(commands) == [("possible", 1, "gpt")]


def test_a_task_without_a_due_date_waits_for_the_other_llms(core: Core) -> None:
    busy(core)
    assert assignments(core.handle(submitted("t"))) == []


def test_with_never_only_the_absence_of_all_others_counts(core: Core) -> None:
    core.handle(gpt(spill="never"))
    busy(core)
    assert assignments(core.handle(submitted("t", due=5))) == []
    core.handle(managed("atlas", paused=True))
    assert core.task("t").llm == "gpt"


def test_with_busy_a_task_goes_to_the_reserve_when_it_would_wait_too_long(core: Core) -> None:
    core.handle(gpt(spill="busy", spill_after=90.0))
    busy(core)
    assert assignments(core.handle(submitted("t"), submitted("u"))) == [("u", 1, "gpt")]
    assert "would start at atlas 120 s after it was ready, at most 90 s" in (core.task("u").why or "")


def test_with_busy_the_time_that_a_task_has_waited_counts(core: Core) -> None:
    core.handle(gpt(spill="busy", spill_after=90.0))
    busy(core)
    core.handle(submitted("t"))
    given = [
        at
        for at in range(5, 200, 5)
        if assignments(core.handle(seen("atlas", tasks=[("busy", 1)]), gpt(spill="busy", spill_after=90.0), at=at))
    ]
    assert 30 < given[0] <= 95


def test_of_several_reserves_the_cheapest_in_time_gets_the_task(core: Core) -> None:
    core.handle(seen("dear", reserve=True, price=Price(input=9.0, output=9.0)), seen("unknown", reserve=True))
    know(core, dear=1.0, unknown=1.0)
    assert assignments(core.handle(submitted("t", due=30))) == [("t", 1, "gpt")]
    assert assignments(core.handle(submitted("u", due=30))) == [("u", 1, "dear")]
    assert assignments(core.handle(submitted("v", due=30))) == [("v", 1, "unknown")]
    assert "price unknown" in (core.task("v").why or "")


def test_a_local_only_task_never_goes_to_a_reserve_that_is_not_local(core: Core) -> None:
    core.handle(seen("atlas", labels=["local"]))
    busy(core)
    commands = core.handle(submitted("secret", labels=["local-only"], due=5))
    commands += core.handle(left("atlas"), at=6)
    assert "secret" not in [task_id for task_id, _, _ in assignments(commands)]


def test_a_reserve_that_is_released_gets_tasks_like_others(core: Core) -> None:
    busy(core)
    assert assignments(core.handle(submitted("t"))) == []
    assert assignments(core.handle(managed("gpt", reserve=False))) == [("t", 1, "gpt")]
    assert "reserve" not in (core.task("t").why or "")


def test_an_operator_makes_an_llm_a_reserve(core: Core) -> None:
    core.handle(seen("house"), managed("house", reserve=True), managed("gpt", slots=0))
    busy(core)
    assert assignments(core.handle(submitted("t"))) == []


def test_the_reserve_is_known_to_the_next_coordinator(core: Core) -> None:
    core.handle(managed("atlas", reserve=True))
    core.restart()
    assert assignments(core.handle(gpt(), submitted("t"))) in ([("t", 1, "atlas")], [("t", 1, "gpt")])
    assert "reserve" in (core.task("t").why or "")


work = st.dictionaries(st.sampled_from(["t", "u", "v", "w"]), st.none() | st.integers(1, 300))
changes = st.lists(
    st.sampled_from(
        [
            managed("atlas", paused=True),
            managed("atlas", paused=False),
            managed("gpt", reserve=False),
            managed("gpt", reserve=None),
            seen("atlas"),
            gpt(spill="never"),
            gpt(spill="busy", spill_after=20.0),
            left("atlas"),
            left("gpt"),
        ]
    )
)


@settings(max_examples=examples(100), deadline=None)
@given(policy=st.sampled_from(NAMES), tasks=work, events=changes, passed=st.floats(0, 100))
def test_a_reserve_never_takes_what_another_llm_does_in_time(
    policy: str, tasks: dict[str, int | None], events: list[Event], passed: float
) -> None:
    """Core checks after every batch that no task waits for ever beside a free slot."""
    core = Core(policy=load_policy(policy))
    core.handle(seen("atlas"), gpt())
    core.handle(*(submitted(task_id, due=due) for task_id, due in tasks.items()))
    for event in events:
        core.handle(event, at=core.at + passed / (len(events) or 1))
    for task in core.database.tasks.values():
        for why in (task.why or "", *(attempt.why or "" for attempt in task.attempts)):
            if why.startswith("gpt (reserve"):
                assert task.due is not None or any(said in why for said in ("atlas is", "would start", "only"))
