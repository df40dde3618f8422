"""What the web page makes of what it knows: filters, phases, notices, reports. No browser."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.protocol.status import Status
from broker.protocol.views import AttemptView, QuestionView, ReportColumn, ReportView, TaskView
from fluffle.web.charts import chart
from fluffle.web.live import DECODE_ERRORS, RateLimitedRefresh, Update, read
from fluffle.web.notifications import Notifications
from fluffle.web.pages.budgets import raised
from fluffle.web.pages.reports import Choice
from fluffle.web.pages.submit import asked
from fluffle.web.pages.task_filters import TaskFilter
from fluffle.web.pages.task_phases import phases

T0 = datetime(2026, 12, 1, 9, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def task(status: Status, **fields: Any) -> TaskView:
    return TaskView(id="t-1", status=status, description="x", priority=4, submitted_at=T0, **fields)


def lengths(view: TaskView, now: float) -> list[tuple[str, float]]:
    return [(phase.kind, phase.seconds) for phase in phases(view, at(now))]


# -- filters -----------------------------------------------------------------------------------------------------------


def test_a_filter_survives_its_way_through_the_url() -> None:
    pairs = [
        ("status", "failed"),
        ("status", "pending"),
        ("llm", "ada"),
        ("label", "a, b"),
        ("text", " x&y "),
        ("before", "7"),
    ]
    wanted = TaskFilter.read(pairs)
    assert wanted == TaskFilter((Status.PENDING, Status.FAILED), "ada", ("a", "b"), "x&y", 7)
    assert wanted.query() == "?status=pending&status=failed&llm=ada&label=a&label=b&text=x%26y&before=7"


@pytest.mark.parametrize(
    "pairs", [[("status", "odd")], [("before", "x")], [("before", "-1")], [("other", "1")], [("text", " ")]]
)
def test_invalid_values_of_a_filter_are_ignored(pairs: list[tuple[str, str]]) -> None:
    assert TaskFilter.read(pairs) == TaskFilter()
    assert TaskFilter.read(pairs).query() == ""


# -- where the time went -----------------------------------------------------------------------------------------------


def test_time_is_split_into_waiting_and_running() -> None:
    attempts = [AttemptView(attempt=1, llm="ada", started_at=at(2), finished_at=at(5), duration=3)]
    assert lengths(task(Status.COMPLETED, finished_at=at(5), attempts=attempts), 99) == [("waited", 2), ("ran", 3)]


def test_a_running_task_runs_until_now() -> None:
    attempts = [
        AttemptView(attempt=1, llm="ada", started_at=at(1), finished_at=at(2)),
        AttemptView(attempt=2, llm="ben", started_at=at(6)),
    ]
    view = task(Status.IN_PROGRESS, attempts=attempts)
    assert lengths(view, 10) == [("waited", 1), ("ran", 1), ("waited", 4), ("ran", 4)]


def test_the_wait_for_a_person_is_a_separate_phase() -> None:
    asked_at = QuestionView(id="q", text="?", asked_at=at(3), answer="!", answered_at=at(8))
    attempts = [AttemptView(attempt=1, llm="ada", started_at=at(1), finished_at=at(9))]
    view = task(Status.COMPLETED, finished_at=at(9), attempts=attempts, questions=[asked_at])
    assert lengths(view, 99) == [("waited", 1), ("ran", 2), ("asked", 5), ("ran", 1)]


def test_a_short_attempt_whose_start_arrived_with_its_end_has_its_duration() -> None:
    attempts = [AttemptView(attempt=1, llm="ada", started_at=at(5.1), finished_at=at(5), duration=2)]
    assert lengths(task(Status.COMPLETED, finished_at=at(5), attempts=attempts), 99) == [("waited", 3), ("ran", 2)]


def test_a_task_without_an_attempt_only_waits() -> None:
    assert lengths(task(Status.PENDING), 7) == [("waited", 7)]


# -- notices -----------------------------------------------------------------------------------------------------------


class Bell:
    """Notifications with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = T0
        self.told: list[tuple[str, int]] = []
        self.notices = Notifications(lambda: self.now)
        self.notices.listeners.add(lambda notice: self.told.append((notice.title, notice.count)))

    def hear(self, what: str, task_id: str = "t-1", event: str | None = None) -> None:
        event_id = event or f"{task_id}/{what}/{self.now}"
        self.notices.on_update(Update("task", what, task_id, event_id, {"description": f"do {task_id}"}))


def test_a_failure_is_one_notice_even_if_its_event_arrives_twice() -> None:
    bell = Bell()
    for _ in range(3):
        bell.hear("failed", event="e-1")
    assert bell.told == [("A task failed", 1)]
    assert bell.notices.latest[0].description == "do t-1"


def test_many_failures_are_one_notice_with_a_count() -> None:
    bell = Bell()
    for number in range(500):
        bell.now = at(number / 100)
        bell.hear("failed", f"t-{number}")
    assert [notice.title for notice in bell.notices.latest] == ["500 tasks failed"]
    bell.now = at(60)
    bell.hear("failed", "t-later")
    assert [notice.count for notice in bell.notices.latest] == [1, 500]


def test_only_the_owner_of_a_task_sees_that_it_has_finished() -> None:
    bell = Bell()
    bell.hear("completed", "t-1")
    assert bell.told == []
    bell.notices.own("t-2", "session of ana")
    bell.hear("completed", "t-2")
    notice = bell.notices.latest[0]
    assert notice.title == "A task finished"
    assert notice.is_for("session of ana")
    assert not notice.is_for("session of ben")


def test_overdue_tasks_make_notices_and_other_changes_do_not() -> None:
    bell = Bell()
    for what in ("overdue", "pending", "assigned", "in_progress", "cancelled"):
        bell.hear(what)
    assert bell.told == [("A task is overdue", 1)]


def news(bell: Bell, about: str, what: str, name: str, **data: Any) -> None:
    event_id = f"{what}/{name}/{bell.now}"
    bell.notices.on_update(Update(about, what, name, event_id, {"name": name, **data}))


def test_an_llm_that_fails_and_works_again_makes_two_notices() -> None:
    bell = Bell()
    news(bell, "llm", "circuit_open", "vega", why="authentication failed")
    news(bell, "llm", "circuit_closed", "vega")
    news(bell, "llm", "online", "vega")
    assert bell.told == [("vega gets no tasks: it fails", 1), ("vega works again", 1)]
    assert bell.notices.latest[1].description == "authentication failed"


def test_the_same_news_about_the_same_llm_is_told_again_only_after_minutes() -> None:
    bell = Bell()
    for seconds in (0, 60, 599, 601, 660):
        bell.now = at(seconds)
        news(bell, "llm", "circuit_open", "vega")
    assert bell.told == [("vega gets no tasks: it fails", 1)] * 2


def test_many_llms_that_fail_at_once_share_a_notice() -> None:
    bell = Bell()
    for number in range(5):
        news(bell, "llm", "circuit_open", f"vega-{number}")
    assert [notice.title for notice in bell.notices.latest] == ["5 LLMs get no tasks: they fail"]


def test_a_limit_makes_a_notice_only_when_it_is_closed_for_hours() -> None:
    bell = Bell()
    news(bell, "limit", "closed", "openai-main", tier="throttle")
    news(bell, "limit", "closed", "openai-main", tier="window", why="5 hours are used up")
    news(bell, "limit", "opened", "openai-main")
    assert bell.told == [("The limit openai-main is closed for hours", 1)]


def test_each_part_of_a_divided_budget_makes_a_notice_of_its_own() -> None:
    bell = Bell()
    for value in ("ana", "ben", "ana"):
        news(bell, "budget", "empty", "people", value=value, why="5 USD are spent")
        bell.now += timedelta(seconds=20)
    assert [notice.description for notice in bell.notices.latest] == ["ben: 5 USD are spent", "ana: 5 USD are spent"]
    news(bell, "budget", "warning", "people")
    assert bell.notices.latest[0].title == "The budget people is nearly used up"


def test_news_with_impossible_data_do_no_harm() -> None:
    bell = Bell()
    impossible: list[Any] = [None, [], 7, {"name": None, "why": [1], "value": {}}]
    for number, data in enumerate(impossible):
        bell.notices.on_update(Update("budget", "empty", f"b-{number}", f"e-{number}", data))
    assert bell.notices.latest[0].count == 4


def test_the_number_of_remembered_notices_is_bounded() -> None:
    bell = Bell()
    for number in range(12_000):
        bell.now = at(number * 60)
        bell.hear("failed", f"t-{number}")
        bell.notices.own(f"t-{number}", "s")
    assert len(bell.notices.latest) == 50
    assert len(bell.notices._seen) <= 10_000
    assert len(bell.notices._owners) <= 10_000


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"more": "2.5", "unit": "USD"}, {"raise_usd": 2.5}),
        ({"more": "1000", "unit": "tokens"}, {"raise_tokens": 1000}),
        ({"more": "3", "unit": "runs"}, {"raise_runs": 3}),
        ({"more": "inf", "unit": "tokens"}, {"raise_tokens": 0}),
        ({"more": "nan", "unit": "USD"}, {"raise_usd": 0.0}),
        ({"more": "much"}, {"raise_usd": 0.0}),
        ({}, {"raise_usd": 0.0}),
    ],
)
def test_a_form_raises_a_budget_by_an_amount_of_its_unit(given: dict[str, str], changes: dict[str, Any]) -> None:
    assert raised(given, None) == changes
    assert raised(given, "ana") == {**changes, "value": "ana"}


# -- what comes in -----------------------------------------------------------------------------------------------------


def test_an_event_is_read_by_its_routing_key_and_its_head() -> None:
    body = b'{"id": "e", "subject": "t-1", "type": "fluffle.task.failed", "data": {"id": "t-1"}}'
    assert read("fluffle.events", "task.failed.ada", body) == Update("task", "failed", "t-1", "e", {"id": "t-1"})
    body = b'{"task_id": "t-1", "attempt": 1, "instance": "i", "text": "and"}'
    assert read("fluffle.status", "ada.progress", body).subject == "t-1"
    body = b'{"message_id": "m-1", "conversation_id": "c", "instance": "i", "text": "and"}'
    assert (told := read("fluffle.status", "ada.progress", body)).about == "writing"
    assert told.data["conversation_id"] == "c"


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b"{}"])
def test_an_invalid_message_raises_one_of_the_expected_errors(body: bytes) -> None:
    with pytest.raises(DECODE_ERRORS):
        read("fluffle.status", "ada.progress", body)


async def test_many_nudges_cause_few_refreshes_and_one_after_the_last() -> None:
    seen: list[int] = []
    state = 0

    async def refresh() -> None:
        seen.append(state)

    paced = RateLimitedRefresh(refresh, 0.2)
    running = asyncio.create_task(paced.run())
    for state in range(1, 101):  # noqa: B007 - refresh sees it
        paced.nudge()
        await asyncio.sleep(0)
    while not seen or seen[-1] != 100:  # noqa: ASYNC110 - an event would have to be set by what is tested
        await asyncio.sleep(0.001)
    running.cancel()
    assert len(seen) <= 3


# -- a new task --------------------------------------------------------------------------------------------------------


def test_a_form_becomes_a_submission() -> None:
    pairs = [
        ("description", " Summarise "),
        ("inputs", "some text"),
        ("skills", "Summarise, review"),
        ("labels", "a b"),
        ("assignee", ""),
        ("priority", "7"),
        ("due", "2026-12-01T09:00:00.000Z"),
        ("max_attempts", ""),
    ]
    assert asked(pairs) == (
        "Summarise",
        {
            "inputs": {"text": "some text"},
            "skills": ["summarise", "review"],
            "labels": ["a", "b"],
            "priority": 7,
            "due": T0,
        },
    )


@pytest.mark.parametrize(
    ("text", "inputs"), [('{"a": 1}', {"a": 1}), ("[1]", [1]), ("7", {"text": "7"}), ("{a", {"text": "{a"})]
)
def test_inputs_that_look_like_json_are_json(text: str, inputs: Any) -> None:
    assert asked([("inputs", text)])[1]["inputs"] == inputs


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_choice_survives_its_way_through_the_url() -> None:
    pairs = [
        ("name", "custom"),
        ("group_by", "llm"),
        ("group_by", "odd"),
        ("metrics", "tasks"),
        ("since", "7d"),
        ("llm", "ada"),
    ]
    choice = Choice.read(pairs)
    assert choice == Choice("custom", ("llm",), ("tasks",), "ada", "", "7d")
    assert choice.query() == "?name=custom&group_by=llm&metrics=tasks&llm=ada&since=7d"
    assert choice.asked(T0) == (
        None,
        {"group_by": ["llm"], "metrics": ["tasks"], "where": {"llm": ["ada"]}, "since": T0 - timedelta(days=7)},
    )


def test_a_predefined_report_is_asked_for_by_its_name() -> None:
    assert Choice.read([("name", "workload"), ("metrics", "tasks")]).asked(T0) == ("workload", {})
    assert Choice.read([("name", "../../etc")]) == Choice()


def test_a_chart_draws_the_figures_of_one_unit() -> None:
    view = ReportView(
        name="workload",
        generated_at=T0,
        group_by=["llm"],
        metrics=["attempts", "attempts_failed", "busy_time"],
        columns=[
            ReportColumn(name="llm", title="LLM"),
            ReportColumn(name="attempts", title="Attempts", unit="count"),
            ReportColumn(name="attempts_failed", title="Failed attempts", unit="count"),
            ReportColumn(name="busy_time", title="Busy", unit="s"),
        ],
        rows=[
            {"llm": "ada", "attempts": 3, "attempts_failed": 1, "busy_time": 2.5},
            {"llm": None, "attempts": 1, "attempts_failed": 0, "busy_time": 1.0},
        ],
    )
    drawn = chart(view)
    assert drawn is not None
    assert [(series["name"], series["data"]) for series in drawn["series"]] == [
        ("Attempts", [3, 1]),
        ("Failed attempts", [1, 0]),
    ]
    assert drawn["yAxis"]["data"] == ["ada", "none"]
    assert chart(view.model_copy(update={"rows": []})) is None
