"""Rate limits in the core: closed by a provider, opened again, paused by hand, and the figures of an operator."""

from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from broker.protocol.spending import ManageLimit
from broker.protocol.worker_reports import Usage
from broker.timestamps import to_datetime
from coordinator.core.commands import AnnounceLimit, AnswerRequest, Command, Refuse
from coordinator.core.events import ManageLimitRequested
from coordinator.core.limits.control import limit_view
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.queries.waiting import why_waiting
from tests.support.core_driver import Core, moment
from tests.support.core_events import (
    ANA,
    assignments,
    cancelled,
    claimed,
    completed,
    failed,
    resumed,
    seen,
    submitted,
    waited,
)


def managed(**fields: Any) -> ManageLimitRequested:
    return ManageLimitRequested(ManageLimit(**fields), ANA)


def limit(core: Core, name: str = "openai") -> RateLimit:
    found = core.machine.state.limits.get(name)
    assert found is not None
    return found


def announced(commands: list[Command]) -> list[tuple[str, str]]:
    return [(it.name, it.what) for it in commands if isinstance(it, AnnounceLimit)]


def refusals(commands: list[Command]) -> list[str]:
    return [str(problem) for it in commands if isinstance(it, Refuse) for problem in it.problems]


def key(*names: str, slots: int = 2) -> list[Any]:
    return [seen(name, slots=slots, limit="openai") for name in names]


def closed(retry_after: float | None = 30, kind: str = "rate_limited") -> Core:
    """Two LLMs with one key, and one without; the first has been refused."""
    core = Core()
    core.handle(*key("ada", "bea"), submitted("t", assignee="ada"))
    core.handle(claimed("t", llm="ada"))
    core.handle(failed("t", llm="ada", kind=kind, retry_after=retry_after))
    return core


def test_a_refusal_closes_the_limit_for_every_llm_of_the_key_until_the_time_that_was_said() -> None:
    core = closed(30)
    assert assignments(core.handle(*(submitted(f"b{n}", assignee="bea") for n in range(3)))) == []
    assert assignments(core.handle(*key("ada", "bea"), at=29.9)) == []
    assert len(assignments(core.handle(*key("ada", "bea"), at=30))) == 1


def test_the_refused_attempt_does_not_count_and_the_task_goes_to_another_key_at_once() -> None:
    core = Core()
    core.handle(*key("ada", "bea"), submitted("t", max_attempts=1))
    core.handle(seen("local"))
    core.handle(claimed("t", llm="ada"))
    commands = core.handle(failed("t", llm="ada", kind="rate_limited", retry_after=30))
    assert assignments(commands) == [("t", 2, "local")]
    assert core.task("t").starts == 0


def test_people_read_until_when_it_is_closed_and_why() -> None:
    core = closed(30)
    waiting = why_waiting(core.task("t"), core.machine.state.llms, moment(1))
    assert waiting == "closed until 08:00:30 UTC (openai: 429)"
    shown = limit_view(limit(core), ["ada", "bea"], moment(1))
    assert (shown["state"], shown["tier"], shown["allowed"]) == ("closed", "throttle", 1)


def test_after_the_time_one_probe_runs_and_each_success_doubles_what_is_allowed() -> None:
    core = closed(10)
    core.handle(*key("ada", "bea", slots=8), *(submitted(f"t{n}") for n in range(40)))
    running = assignments(core.handle(*key("ada", "bea", slots=8), at=10))
    widths = []
    while running:
        widths.append(len(running))
        commands: list[Command] = []
        for task_id, attempt, name in running:
            commands += core.handle(claimed(task_id, attempt, llm=name))
        for task_id, attempt, name in running:
            commands += core.handle(completed(task_id, attempt, llm=name))
        running = assignments(commands)
    assert widths[:4] == [1, 2, 4, 8]
    assert limit(core).allowed is None
    assert sum(widths) == 41


def test_a_success_of_a_run_that_began_before_the_closure_opens_nothing() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t1"), submitted("t2"))
    core.handle(claimed("t1", llm="ada"), claimed("t2", llm="ada"))
    core.handle(failed("t1", llm="ada", kind="rate_limited", retry_after=5))
    core.handle(*key("ada"), at=5)
    core.handle(completed("t2", llm="ada"))
    assert limit(core).allowed == 1


def test_without_a_time_the_pauses_grow() -> None:
    core, pauses = closed(None), []
    attempts = count(2)
    for _ in range(8):
        until = limit(core).closed_until
        pauses.append(round((until - moment(core.at)) / 1_000_000))
        at = (until - moment(0)) / 1_000_000
        core.handle(*key("ada", "bea"), at=at)
        attempt = next(attempts)
        core.handle(claimed("t", attempt, llm="ada"))
        core.handle(failed("t", attempt, llm="ada", kind="rate_limited"))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_refusals_of_runs_that_were_under_way_are_one_closure() -> None:
    core = Core()
    core.handle(*key("ada", slots=4), *(submitted(f"t{n}") for n in range(4)))
    core.handle(*(claimed(f"t{n}", llm="ada") for n in range(4)))
    core.handle(*(failed(f"t{n}", llm="ada", kind="rate_limited") for n in range(4)))
    assert (limit(core).closures, limit(core).closed_until) == (1, moment(1))


def test_the_later_of_two_times_wins() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t1"), submitted("t2"))
    core.handle(claimed("t1", llm="ada"), claimed("t2", llm="ada"))
    core.handle(failed("t1", llm="ada", kind="rate_limited", retry_after=60))
    core.handle(failed("t2", llm="ada", kind="rate_limited", retry_after=5))
    assert limit(core).closed_until == moment(60)


def test_an_exhausted_quota_closes_for_a_minute_and_more_and_is_announced_as_a_window() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t"))
    core.handle(claimed("t", llm="ada"))
    commands = core.handle(failed("t", llm="ada", kind="quota_exceeded", retryable=False))
    assert [(it.what, it.tier, it.until) for it in commands if isinstance(it, AnnounceLimit)] == [
        ("closed", "window", moment(60))
    ]
    assert core.status("t") == "pending"


@pytest.mark.parametrize(("said", "pause"), [(100_000, 86_400), (1e300, 86_400), (0, 1), (900, 900)])
def test_a_provider_that_lies_is_bounded(said: float, pause: float) -> None:
    core = closed(said)
    assert limit(core).closed_until == moment(pause)
    assert ("asked for" in limit(core).why) == (said > 86_400)


def test_a_late_report_closes_only_for_what_is_left() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t"))
    core.handle(claimed("t", llm="ada"))
    report = failed("t", llm="ada", kind="rate_limited", retry_after=60)
    report = type(report)(report.llm, report.result.model_copy(update={"finished_at": to_datetime(moment(0))}))
    for at in (9, 18):
        core.handle(seen("ada", slots=2, limit="openai", tasks=[("t", 1)]), at=at)
    core.handle(report, at=20)
    assert limit(core).closed_until == moment(60)


def test_a_closed_limit_survives_another_coordinator() -> None:
    core = closed(30)
    core.restart(at=2)
    assert assignments(core.handle(*key("ada", "bea"), submitted("u"), at=3)) == []
    assert len(assignments(core.handle(*key("ada", "bea"), at=30))) == 1
    assert limit(core).allowed == 1


def test_people_hear_that_it_closed_and_that_it_opened() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t1"), submitted("t2"))
    core.handle(claimed("t1", llm="ada"), claimed("t2", llm="ada"))
    commands = core.handle(failed("t1", llm="ada", kind="rate_limited", retry_after=5))
    commands += core.handle(failed("t2", llm="ada", kind="rate_limited", retry_after=5))
    assert announced(commands) == [("openai", "closed")]
    assert announced(core.handle(*key("ada"), at=5)) == [("openai", "opened")]


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_a_person_pauses_a_limit_until_a_time_and_resumes_it() -> None:
    core = Core()
    core.handle(*key("ada"))
    core.handle(managed(limit="openai", paused=True, until=to_datetime(moment(0)) + timedelta(seconds=60)))
    assert assignments(core.handle(submitted("t"))) == []
    assert why_waiting(core.task("t"), core.machine.state.llms, moment(1)) == "paused until 08:01:00 UTC (openai)"
    assert assignments(core.handle(*key("ada"), at=60)) == [("t", 1, "ada")]
    core.handle(managed(limit="openai", paused=True))
    core.handle(submitted("u"))
    assert assignments(core.handle(managed(limit="openai", paused=False))) == [("u", 1, "ada")]


def test_a_person_opens_a_limit_that_a_provider_closed() -> None:
    core = closed(3600)
    assert assignments(core.handle(managed(limit="openai", paused=False))) == [("t", 2, "ada")]
    assert limit(core).allowed is None


def test_wrong_requests_are_refused_with_the_reason() -> None:
    core = Core()
    core.handle(*key("ada"))
    assert refusals(core.handle(managed(limit="openaj", paused=True))) == [
        "limit: there is no rate limit openaj; did you mean openai?"
    ]
    past = to_datetime(moment(0)) - timedelta(seconds=1)
    assert refusals(core.handle(managed(limit="openai", paused=True, until=past))) == ["until: is in the past"]
    assert refusals(core.handle(managed(limit="openai", forget=True))) == [
        "limit: the rate limit openai is used by ada"
    ]


def test_figures_can_be_set_before_an_llm_connects_and_forgotten_again() -> None:
    core = Core()
    commands = core.handle(managed(limit="openai", concurrent=1))
    assert [it.view["concurrent"] for it in commands if isinstance(it, AnswerRequest)] == [1]
    core.restart()
    assert limit(core).concurrent == 1
    core.handle(managed(limit="openai", forget=True))
    core.restart()
    assert core.machine.state.limits.get("openai") is None


# -- figures ---------------------------------------------------------------------------------------------------------


def test_no_more_runs_than_allowed_at_the_same_time_whatever_the_llms_offer() -> None:
    core = Core()
    core.handle(*key("ada", "bea", slots=8), managed(limit="openai", concurrent=3))
    first = assignments(core.handle(*(submitted(f"t{n}") for n in range(10))))
    assert len(first) == 3
    task_id, attempt, name = first[0]
    core.handle(claimed(task_id, attempt, llm=name))
    assert len(assignments(core.handle(completed(task_id, attempt, llm=name)))) == 1


def test_a_run_that_waits_for_another_takes_no_part_of_the_limit() -> None:
    core = Core()
    core.handle(*key("ada", "bea"), managed(limit="openai", concurrent=1), submitted("t", assignee="ada"))
    core.handle(claimed("t", llm="ada"), submitted("part", assignee="bea"))
    assert assignments(core.handle(waited("t", llm="ada"))) == [("part", 1, "bea")]
    core.handle(claimed("part", llm="bea"))
    core.handle(resumed("t", llm="ada"))
    core.handle(completed("part", llm="bea"))
    core.handle(completed("t", llm="ada"))
    assert (limit(core).runs, limit(core).parked) == ({}, {})


def test_requests_per_minute_are_not_exceeded_in_any_minute() -> None:
    core, at = Core(), []
    core.handle(*key("ada", slots=100), managed(limit="openai", requests_per_minute=30))
    commands = core.handle(*(submitted(f"t{n}") for n in range(200)))
    for step in range(480):
        now = step / 4
        commands = [*commands, *core.handle(*key("ada", slots=100), at=now)]
        for task_id, attempt, name in assignments(commands):
            at.append(now)
            core.handle(claimed(task_id, attempt, llm=name))
            core.handle(completed(task_id, attempt, llm=name))
        commands = []
    assert max(sum(begin <= other < begin + 60 for other in at) for begin in at) <= 31
    assert len(at) >= 58


def test_tokens_per_minute_are_settled_by_what_was_used() -> None:
    core, used = Core(), []
    core.handle(*key("ada", slots=100), managed(limit="openai", tokens_per_minute=60_000))
    commands = core.handle(*(submitted(f"t{n}") for n in range(400)))
    for step in range(480):
        now = step / 4
        commands = [*commands, *core.handle(*key("ada", slots=100), at=now)]
        for task_id, attempt, name in assignments(commands):
            core.handle(claimed(task_id, attempt, llm=name))
            used.append(now)
            usage = Usage(input_tokens=2000, output_tokens=1000)
            core.handle(completed(task_id, attempt, llm=name, usage=usage))
        commands = []
    worst = max(sum(begin <= other < begin + 60 for other in used) for begin in used) * 3000
    assert worst <= 60_000 * 1.1 + 3000
    assert len(used) * 3000 >= 2 * 60_000 * 0.9


def test_a_worker_that_reports_absurd_usage_does_not_close_the_limit_for_long() -> None:
    core = Core()
    core.handle(*key("ada"), managed(limit="openai", tokens_per_minute=60_000), submitted("t"), submitted("u"))
    core.handle(claimed("t", llm="ada"))
    core.handle(completed("t", llm="ada", usage=Usage(input_tokens=10**12, requests=10**6)))
    core.handle(cancelled("u"), submitted("v"))
    assert assignments(core.handle(*key("ada"), at=590)) == []
    assert assignments(core.handle(*key("ada"), at=601)) == [("v", 1, "ada")]


def test_figures_count_on_after_another_coordinator_takes_over() -> None:
    core = Core()
    core.handle(*key("ada", slots=10), managed(limit="openai", requests_per_minute=60))
    first = assignments(core.handle(*(submitted(f"t{n}") for n in range(10))))
    core.restart(at=0.1)
    second = assignments(core.handle(*key("ada", slots=10), at=0.2))
    assert (len(first), len(second)) == (2, 0)


def test_runs_move_with_their_llm_to_another_limit() -> None:
    core = Core()
    core.handle(*key("ada"), submitted("t"))
    core.handle(claimed("t", llm="ada"))
    core.handle(seen("ada", slots=2, limit="other", tasks=[("t", 1)]))
    assert (list(limit(core).runs), list(limit(core, "other").runs)) == ([], ["t"])
    core.handle(completed("t", llm="ada"))
    assert limit(core, "other").runs == {}
