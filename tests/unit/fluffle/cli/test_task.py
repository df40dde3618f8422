"""What the task commands and the report print, without a broker."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.protocol.status import Status
from broker.protocol.views import AttemptView, ChangeView, ReportView, TaskView
from broker.protocol.worker_reports import Failure, Progress
from fluffle.cli.report import print_report
from fluffle.cli.task.printing import print_end
from fluffle.cli.task.show import describe
from fluffle.cli.task.watch import Printer
from fluffle.client.events import Event
from fluffle.presentation.task_text import cancelled_text, remark, where
from fluffle.presentation.timeline import timeline

START = datetime(2026, 12, 1, 9, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def view(status: Status = Status.PENDING, task_id: str = "t-1", **fields: Any) -> TaskView:
    return TaskView(id=task_id, status=status, description="x", priority=4, submitted_at=START, **fields)


def text(task_id: str, text: str) -> Progress:
    return Progress(task_id=task_id, attempt=1, instance="i-1", text=text)


def test_the_timeline_is_in_order_with_reasons() -> None:
    lost = AttemptView(
        attempt=1,
        llm="atlas",
        instance="i-1",
        why="the only LLM online",
        outcome="lost",
        error=Failure(type="lost", message="the instance fell silent"),
        assigned_at=after(1),
        started_at=after(2),
        finished_at=after(20),
    )
    told = timeline(
        view(
            Status.CANCELLED,
            ready_at=after(20),
            finished_at=after(30),
            attempts=[lost],
            history=[
                ChangeView(at=after(25), by="coordinator", what="waits for a slot again"),
                ChangeView(at=after(30), by="ana", what="cancelled while pending"),
            ],
            submitted_by="bo",
        )
    )
    assert told == [
        (after(0), "submitted by bo"),
        (after(1), "attempt 1 assigned to atlas: the only LLM online"),
        (after(2), "attempt 1 started at i-1"),
        (after(20), "ready"),
        (after(20), "attempt 1 lost: lost: the instance fell silent"),
        (after(25), "waits for a slot again"),
        (after(30), "cancelled while pending (by ana)"),
        (after(30), "cancelled"),
    ]


def test_the_timeline_is_printed_with_the_time_between_entries(capsys: pytest.CaptureFixture[str]) -> None:
    describe(view(ready_at=after(75)))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "2026-12-01T09:00:00.000Z                submitted",
        "2026-12-01T09:01:15.000Z   +1 min 15 s  ready",
    ]


def test_moved_attempts_are_counted_separately(capsys: pytest.CaptureFixture[str]) -> None:
    tried = [AttemptView(attempt=number, llm="atlas", outcome=end) for number, end in ((1, "moved"), (2, "completed"))]
    describe(view(attempts=tried, max_attempts=1))
    assert "Attempts:    2 (1 moved), at most 1" in capsys.readouterr().out


def test_an_end_says_how_long_it_took_and_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_end(view(Status.COMPLETED, finished_at=after(1.5)), as_json=False)
    print_end(view(Status.FAILED, finished_at=after(2), error=Failure(type="broken", message="no\nink")), as_json=False)
    assert capsys.readouterr().out == "t-1\tcompleted\t1.500\nt-1\tfailed\t2.000\tbroken: no ink\n"


def test_the_text_of_one_task_streams_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(several=False)
    printer.progress(text("t-1", "half a "))
    assert capsys.readouterr().out == "half a "
    printer.progress(text("t-1", "line\x1b[2J"))
    printer.state(view(Status.COMPLETED, llm="atlas", finished_at=after(1)))
    printed = capsys.readouterr().out
    assert printed == "line[2J\n2026-12-01T09:00:01.000Z  t-1  completed at atlas\n"


def test_texts_of_several_tasks_do_not_mix_within_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(several=True)
    for piece in (text("a", "one "), text("b", "two\n"), text("a", "three\nfo"), text("a", "ur")):
        printer.progress(piece)
    printer.state(view(Status.COMPLETED, "a", finished_at=after(1)))
    assert capsys.readouterr().out.splitlines() == [
        "b  two",
        "a  one three",
        "a  four",
        "2026-12-01T09:00:01.000Z  a  completed",
    ]


def test_a_repeated_state_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(several=True)
    printer.state(view())
    printer.state(view())
    assert capsys.readouterr().out.count("pending") == 1


def test_notes_and_fractions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(several=True).progress(
        Progress(task_id="t-1", attempt=1, instance="i-1", fraction=0.5, note="halfway\x1b[2J")
    )
    assert capsys.readouterr().out == "t-1  50% halfway[2J\n"


def test_figures_have_their_units_and_missing_ones_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "total_tasks": 12_345,
        "completed_tasks": 6_000,
        "completion_rate": 0.5,
        "avg_task_time": 75.0,
        "avg_queue_wait": None,
        "input_tokens": 0,
        "cost_usd": 0.25,
        "by_status": {"completed": 6_000},
        "workload_distribution": [{"llm": "atlas", "completed": 6_000, "busy": 3.0, "share": 1.0}],
    }
    print_report(ReportView(name="summary", generated_at=START, values=values))
    assert capsys.readouterr().out.splitlines() == [
        "Tasks:           12,345",
        "Completed:       6,000",
        "Failed:          -",
        "Cancelled:       -",
        "Open:            -",
        "Completion rate: 50%",
        "Mean run time:   1 min 15 s",
        "Mean queue wait: -",
        "Mean turnaround: -",
        "Cost in USD:     0.2500",
        "",
        "By status",
        "completed: 6,000",
        "",
        "Attempts by LLM",
        "atlas\t-\t6,000\t-\t3 s\t100%",
    ]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (view(Status.PENDING), "waiting for an LLM"),
        (view(Status.PENDING, skills=["python", "review"]), "waiting for an LLM with python, review"),
        (view(Status.PENDING, skills=["python"], assignee="atlas"), "waiting for atlas"),
        (view(Status.PENDING, assignee="atlas", overdue=True), "overdue, waiting for atlas"),
        (view(Status.BLOCKED, waiting_on=1, assignee="atlas"), "waiting for 1 task"),
        (view(Status.BLOCKED, waiting_on=2), "waiting for 2 tasks"),
        (view(Status.BLOCKED, not_before=after(60)), "starts 2026-12-01T09:01:00.000Z"),
        (view(Status.BLOCKED, attempt=1, not_before=after(60)), "waiting for the next attempt"),
        (view(Status.IN_PROGRESS, llm="atlas", assignee="atlas"), ""),
        (view(Status.COMPLETED, llm="atlas", overdue=True), "overdue"),
    ],
)
def test_the_remark_says_what_a_task_waits_for(shown: TaskView, told: str) -> None:
    assert remark(shown) == told


def test_a_running_task_is_shown_with_its_llm() -> None:
    assert where(view(Status.ASSIGNED, llm="atlas")) == "at atlas"
    assert where(view(Status.COMPLETED, llm="atlas")) == ""


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([], "was waiting"),
        ([{"attempt": 1, "finished_at": after(5)}], "was waiting after 1 attempt"),
        ([{"attempt": 1, "finished_at": after(9)}], "taken back from atlas; atlas had not yet started attempt 1"),
        ([{"attempt": 2, "started_at": after(6), "finished_at": after(9)}], "stopped at atlas in attempt 2"),
    ],
)
def test_the_text_of_a_cancel_says_what_it_ended(attempts: list[dict[str, Any]], told: str) -> None:
    tried = [AttemptView(llm="atlas", **fields) for fields in attempts]
    assert cancelled_text(view(Status.CANCELLED, finished_at=after(9), attempts=tried)) == told


def test_an_overdue_task_is_printed_and_its_state_only_if_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(several=True)
    printer.event(Event(id="1", type="fluffle.task.pending", subject="t-1", time=after(0), data=view()))
    printer.event(Event(id="2", type="fluffle.task.overdue", subject="t-1", time=after(1), data=view(overdue=True)))
    assert capsys.readouterr().out.splitlines() == [
        "2026-12-01T09:00:00.000Z  t-1  pending",
        "2026-12-01T09:00:01.000Z  t-1  overdue",
    ]
