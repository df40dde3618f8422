"""Answers to queries, compared with a naive filter over the stored tasks."""

import json
import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel, TypeAdapter
from structlog.testing import capture_logs

from broker.protocol.queries import LLMsQuery, ReportQuery, TaskQuery, TasksQuery
from broker.protocol.report_catalog import PREDEFINED
from broker.protocol.status import FINAL, Status
from broker.protocol.views import LLMList, LLMView, Rejection, ReportView, TaskPage, TaskView
from broker.timestamps import Instant, seconds, to_datetime
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Change, Task
from coordinator.core.usage import cost_is_known
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.random_tasks import LABELS, LLMS, many_tasks
from tests.support.stored_tasks import ATTEMPT, NOW, a_task, commit, stored

M = TypeVar("M", bound=BaseModel)


def ask(queries: QueryHandlers, query: Any, kind: type[M]) -> M:
    """Return the answer to a query as a model."""
    answer_type, body = queries.answer(query.routing_key, query.encode())
    assert answer_type == "query.answer", body
    return TypeAdapter(kind).validate_json(body)


def refused(queries: QueryHandlers, routing_key: str, body: bytes) -> list[tuple[str, str]]:
    """Return the problems of a query."""
    kind, answer = queries.answer(routing_key, body)
    assert kind == "query.rejected"
    return [(wrong.path, wrong.message) for wrong in Rejection.model_validate_json(answer).errors]


@pytest.fixture
def tasks(store: Store) -> list[Task]:
    """Three hundred tasks, stored."""
    tasks = many_tasks(300)
    stored(store, *tasks)
    return tasks


# -- one task --------------------------------------------------------------------------------------------------------


def test_a_task_is_shown_with_all_fields(queries: QueryHandlers, store: Store) -> None:
    task = a_task(
        1,
        status=Status.IN_PROGRESS,
        inputs={"text": "𝄞"},
        labels=["red"],
        attempt=2,
        llm="atlas",
        instance="i1",
        why="the only LLM online",
        assigned_at=Instant(T0 + 7),
        attempts=[ATTEMPT],
        history=[Change(NOW, "ana", "moved")],
    )
    stored(store, task)
    shown = ask(queries, TaskQuery(id="t1"), TaskView)
    assert (shown.id, shown.status, shown.inputs, shown.llm) == ("t1", Status.IN_PROGRESS, {"text": "𝄞"}, "atlas")
    assert shown.submitted_at == to_datetime(T0)
    first, present = shown.attempts
    assert (first.attempt, first.llm, first.outcome, first.duration) == (1, "boreas", "failed", 1.234567)
    assert (first.error, first.usage) == (ATTEMPT.error, ATTEMPT.usage)
    assert (present.attempt, present.llm, present.outcome) == (2, "atlas", None)
    assert [(change.at, change.by, change.what) for change in shown.history] == [(to_datetime(NOW), "ana", "moved")]


def test_a_query_for_an_unknown_task_is_rejected(queries: QueryHandlers) -> None:
    assert refused(queries, "task", b'{"id": "t1"}') == [("id", "there is no task t1")]


# -- lists -----------------------------------------------------------------------------------------------------------


def fits(query: TasksQuery) -> Callable[[Task], bool]:
    """Return whether a task matches a query, the naive way."""

    def fit(task: Task) -> bool:
        return (
            (not query.status or task.status in query.status)
            and (query.llm is None or task.llm == query.llm)
            and all(label in task.spec.labels for label in query.label)
            and (not query.text or query.text.lower() in task.spec.description.lower())
            and (query.before is None or task.seq < query.before)
        )

    return fit


def any_query(chance: random.Random) -> TasksQuery:
    """Some filters, a page of some size."""
    return TasksQuery(
        status=chance.choices(list(Status), k=chance.choice([0, 0, 1, 2, 4])),
        llm=chance.choice([None, None, *LLMS, "nobody"]),
        label=chance.choices(LABELS, k=chance.choice([0, 0, 1, 2, 3])),
        text=chance.choice([None, None, "summ", "review", "0%", "%", "_", "g_f", "r%e", "/", "nothing"]),
        limit=chance.choice([1, 3, 50, 1000]),
        before=chance.choice([None, None, 1, 150, 2**53]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_list_returns_the_newest_matching_tasks(queries: QueryHandlers, tasks: list[Task], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        query = any_query(chance)
        expected = sorted((task.seq for task in filter(fits(query), tasks)), reverse=True)
        page = ask(queries, query, TaskPage)
        assert [int(shown.id[1:]) for shown in page.tasks] == expected[: query.limit], query
        more = len(expected) > query.limit
        assert page.next == (expected[query.limit - 1] if more else None), query


def test_all_descendants_of_a_task_are_found(queries: QueryHandlers, store: Store) -> None:
    parents = {2: "t1", 3: "t2", 4: "t2", 5: "t4", 6: None, 7: "t6"}
    stored(store, a_task(1), *(a_task(number, parent_id=parent) for number, parent in parents.items()))
    for task_id, parts in {"t1": ["t5", "t4", "t3", "t2"], "t2": ["t5", "t4", "t3"], "t5": [], "nobody": []}.items():
        assert [shown.id for shown in ask(queries, TasksQuery(within=task_id), TaskPage).tasks] == parts
    page = ask(queries, TasksQuery(within="t1", limit=2), TaskPage)
    assert [shown.id for shown in page.tasks] == ["t5", "t4"]
    page = ask(queries, TasksQuery(within="t1", limit=2, before=page.next), TaskPage)
    assert ([shown.id for shown in page.tasks], page.next) == (["t3", "t2"], None)


def test_pages_have_neither_gap_nor_overlap(queries: QueryHandlers, tasks: list[Task]) -> None:
    seen: list[str] = []
    query: TasksQuery | None = TasksQuery(limit=7, status=[Status.COMPLETED, Status.FAILED])
    while query:
        page = ask(queries, query, TaskPage)
        seen += [shown.id for shown in page.tasks]
        query = query.model_copy(update={"before": page.next}) if page.next is not None else None
    expected = [t.id for t in reversed(tasks) if t.status in (Status.COMPLETED, Status.FAILED)]
    assert seen == expected


def test_a_list_leaves_out_inputs_and_results_and_has_the_rest(queries: QueryHandlers, tasks: list[Task]) -> None:
    by_id = {task.id: task for task in tasks}
    for shown in ask(queries, TasksQuery(limit=1000), TaskPage).tasks:
        task = by_id[shown.id]
        assert (shown.inputs, shown.result) == (None, None)
        assert (shown.description, shown.labels, shown.usage) == (task.spec.description, task.spec.labels, task.usage)
        assert [a.outcome for a in shown.attempts if a.outcome] == [attempt.outcome for attempt in task.attempts]


def test_an_empty_list_is_returned_without_tasks(queries: QueryHandlers) -> None:
    assert ask(queries, TasksQuery(), TaskPage) == TaskPage(tasks=[])


# -- LLMs ------------------------------------------------------------------------------------------------------------


def test_llms_are_shown_with_their_tasks(queries: QueryHandlers, store: Store) -> None:
    atlas = LLM("atlas", model="demo", skills={"python": 0.5}, told_skills={"python": 0.5}, last_seen=NOW)
    atlas.instances = {"i2": Instance("i2", 2, NOW), "i1": Instance("i1", 1, NOW)}
    work = [
        a_task(1, status=Status.IN_PROGRESS, llm="atlas", attempt=1),
        a_task(2, status=Status.COMPLETED, llm="atlas", attempt=1),
        a_task(3, status=Status.ASSIGNED, llm="atlas", attempt=1),
        a_task(4, status=Status.INPUT_REQUIRED, llm="atlas", instance="i1", attempt=1, parked=True),
        a_task(5, status=Status.INPUT_REQUIRED, llm="atlas", attempt=1),
    ]
    commit(store, StateChanges(new=work, llms={"boreas": LLM("boreas"), "atlas": atlas}))
    first, second = ask(queries, LLMsQuery(), LLMList).llms
    assert first == LLMView(
        name="atlas",
        state="online",
        model="demo",
        skills={"python": 0.5},
        slots=3,
        in_hand=2,
        parked=1,
        instances=["i1", "i2"],
        last_seen=to_datetime(NOW),
        tasks=["t1", "t3", "t4"],
        limit="atlas",
    )
    assert (second.name, second.state, second.slots) == ("boreas", "offline", 0)
    assert ask(queries, LLMsQuery(name="boreas"), LLMList).llms == [second]
    assert refused(queries, "llms", b'{"name": "clio"}') == [("name", "there is no LLM clio")]
    assert refused(queries, "llms", b'{"name": "borea"}') == [("name", "there is no LLM borea; did you mean boreas?")]


# -- the summary -----------------------------------------------------------------------------------------------------


def mean(values: list[int]) -> float | None:
    return sum(values) / len(values) / 1_000_000 if values else None


def naive_summary(tasks: list[Task]) -> dict[str, Any]:
    """Return the expected summary, computed task by task."""
    done = [task for task in tasks if task.status is Status.COMPLETED]
    counts = {status: sum(task.status is status for task in tasks) for status in Status}
    tried = [attempt for task in tasks for attempt in task.attempts]
    busy = sum(attempt.duration or 0 for attempt in tried)
    usage = [attempt.usage for attempt in tried if attempt.usage]

    def total(figures: Iterable[float | None]) -> float | None:
        known = [figure for figure in figures if figure is not None]
        return sum(known) if known else None

    nanos = total(None if used.cost_usd is None else round(used.cost_usd * 10**9) for used in usage)
    workload = []
    for llm in sorted({attempt.llm for attempt in tried}):
        theirs = [attempt for attempt in tried if attempt.llm == llm]
        run = sum(attempt.duration or 0 for attempt in theirs)
        workload.append(
            {
                "llm": llm,
                "completed": sum(attempt.outcome == "completed" for attempt in theirs),
                "failed": sum(attempt.outcome == "failed" for attempt in theirs),
                "attempts": len(theirs),
                "busy": run / 1_000_000,
                "share": run / busy if busy else None,
            }
        )
    return {
        "total_tasks": len(tasks),
        "completed_tasks": len(done),
        "failed_tasks": counts[Status.FAILED],
        "cancelled_tasks": counts[Status.CANCELLED],
        "open_tasks": sum(task.status not in FINAL for task in tasks),
        "by_status": {status.value: count for status, count in counts.items() if count},
        "completion_rate": len(done) / len(tasks) if tasks else None,
        "avg_task_time": mean([task.duration for task in done if task.duration is not None]),
        "avg_queue_wait": mean([task.started_at - (task.ready_at or 0) for task in done if task.started_at]),
        "avg_turnaround": mean([(task.finished_at or 0) - task.submitted_at for task in done]),
        "input_tokens": total(used.input_tokens for used in usage),
        "output_tokens": total(used.output_tokens for used in usage),
        "cost_usd": None if nanos is None else nanos / 10**9,
        "unknown_cost": sum(not cost_is_known(used) for used in usage) if tried else None,
        "workload_distribution": workload,
    }


@pytest.mark.parametrize(
    ("since", "until"), [(None, None), (100, None), (None, 100), (50, 250), (250, 50), (301, None)]
)
def test_the_summary_adds_up(queries: QueryHandlers, tasks: list[Task], since: int | None, until: int | None) -> None:
    start, end = (None if n is None else T0 + n * 1_000_000 for n in (since, until))
    asked = ReportQuery(
        since=None if start is None else to_datetime(start), until=None if end is None else to_datetime(end)
    )
    within = [t for t in tasks if (start is None or t.submitted_at >= start) and (end is None or t.submitted_at < end)]
    report = ask(queries, asked, ReportView)
    assert report.values == naive_summary(within)
    assert (report.name, report.generated_at) == ("summary", to_datetime(NOW))


def test_the_summary_without_tasks_is_empty(queries: QueryHandlers) -> None:
    assert ask(queries, ReportQuery(), ReportView).values == naive_summary([])


def test_an_unknown_report_is_rejected(queries: QueryHandlers) -> None:
    assert refused(queries, "report", b'{"name": "nonsense"}') == [
        ("name", f"there is no report 'nonsense'; there are: {', '.join(PREDEFINED)}, custom")
    ]


# -- queries that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routing_key", "body"),
    [
        ("task", b""),
        ("task", b"{}"),
        ("task", b"\xff"),
        ("task", b'{"id": "t1", "more": 1}'),
        ("tasks", b'{"limit": 0}'),
        ("tasks", b'{"status": ["nonsense"]}'),
        ("tasks", b'{"text": "a\\u0000b"}'),
        ("tasks", b"[" * 10_000),
        ("report", b'{"since": "2026-12-01T00:00:00"}'),
        ("nonsense", b"{}"),
    ],
)
def test_a_bad_query_is_refused(queries: QueryHandlers, routing_key: str, body: bytes) -> None:
    assert refused(queries, routing_key, body)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
@pytest.mark.parametrize(
    ("routing_key", "field"),
    [("placement", "due"), ("placement", "not_before"), ("report", "since"), ("report", "until")],
)
def test_a_moment_outside_the_calendar_is_rejected(
    queries: QueryHandlers, routing_key: str, field: str, moment: str
) -> None:
    body = {"description": "x", field: moment} if routing_key == "placement" else {field: moment}
    assert refused(queries, routing_key, json.dumps(body).encode()) == [(field, "is out of range")]


def test_a_query_with_a_thousand_errors_is_rejected_with_the_first_ones(queries: QueryHandlers) -> None:
    errors = refused(queries, "tasks", json.dumps({f"field-{n}": n for n in range(1000)}).encode())
    assert len(errors) == 21
    assert errors[-1] == ("", "and 980 more")


@pytest.mark.parametrize(
    "query",
    [
        {"before": 10**30},
        {"status": ["pending"] * 1000},
        {"label": ["red"] * 1000},
        {"label": [f"l{n}" for n in range(8)], "status": [status.value for status in Status]},
        {"label": [f"l{n}" for n in range(5000)]},
        {"text": "%" * 200},
    ],
)
def test_an_extreme_query_gets_an_answer_or_a_rejection(
    queries: QueryHandlers, tasks: list[Task], query: dict[str, Any]
) -> None:
    kind, _ = queries.answer("tasks", json.dumps(query).encode())
    assert kind in ("query.answer", "query.rejected")


def test_a_query_that_raises_an_error_is_rejected_and_not_requeued(store: Store) -> None:
    queries = QueryHandlers(store.engine, clock=lambda: NOW, policy="nonsense", lease=seconds(10))
    with capture_logs() as log:
        [(_, problem)] = refused(queries, "placement", b'{"description": "x"}')
    assert len(log) == 1
    assert problem == "the coordinator cannot answer this query: ConfigurationError"
