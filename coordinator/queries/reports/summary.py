"""The figures of the report `summary`, which has separate fields besides rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from broker.protocol.report_catalog import Filters, Report
from broker.protocol.status import Status
from coordinator.queries.reports.engine import ReportResult, Row, run_report
from coordinator.queries.reports.facts import Span
from coordinator.queries.reports.figures import FORMULAS

_TIMES = {"avg_task_time": "run_time_mean", "avg_queue_wait": "queue_wait_mean", "avg_turnaround": "turnaround_mean"}
_USED = ("input_tokens", "output_tokens", "cost_usd", "unknown_cost")
_WORKLOAD = {
    "completed": "attempts_completed",
    "failed": "attempts_failed",
    "attempts": "attempts",
    "busy": "busy_time",
    "share": "busy_share",
}


def summary(connection: Connection, report: Report, span: Span, by_status: Sequence[Row]) -> dict[str, Any]:
    """Return counts, times in seconds and the work of each LLM, of the tasks that match the report's filters.

    `by_status` are the rows of the report.

    `avg_task_time` is the mean run time of completed tasks by the workers' clocks; `avg_queue_wait` the mean time
    from ready to started, `avg_turnaround` from submitted to finished. `workload_distribution` counts, for each LLM,
    the attempts that ended, by outcome, the time they took and its share of that time.
    """

    def ask(*metrics: str, by: tuple[str, ...] = (), where: Filters = report.where) -> ReportResult:
        return run_report(connection, Report(by, metrics, where, report.moment), span)

    completed = Status.COMPLETED.value
    counts: dict[str, Any] = {str(row["status"]): row["tasks"] for row in by_status}
    times: dict[str, Any] = {}
    if completed in counts:
        [times] = ask(*_TIMES.values(), where={**report.where, "status": (completed,)}).rows
    by_llm = ask(*_WORKLOAD.values(), *_USED, by=("llm",))
    total = sum(counts.values())
    return {
        "total_tasks": total,
        "completed_tasks": counts.get(completed, 0),
        "failed_tasks": counts.get(Status.FAILED.value, 0),
        "cancelled_tasks": counts.get(Status.CANCELLED.value, 0),
        "open_tasks": sum(count for status, count in counts.items() if not Status(status).is_final),
        "by_status": {status.value: counts[status.value] for status in Status if status.value in counts},
        "completion_rate": counts.get(completed, 0) / total if total else None,
        **{figure: times.get(metric) for figure, metric in _TIMES.items()},
        **{figure: FORMULAS[figure].make(by_llm.total) for figure in _USED},
        "workload_distribution": [
            {"llm": row["llm"], **{figure: row[metric] for figure, metric in _WORKLOAD.items()}} for row in by_llm.rows
        ],
    }
