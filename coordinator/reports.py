"""Reports: figures out of the books."""

from typing import Any

from sqlalchemy import Connection, and_, func, select

from broker.errors import Problem, QueryRejected
from broker.instants import Instant, in_seconds
from broker.messages import FINAL, Status
from coordinator.schema import attempts, is_completed, tasks

REPORTS = ("summary",)


def report(connection: Connection, name: str, since: Instant | None, until: Instant | None) -> dict[str, Any]:
    """The figures of that report on the tasks submitted in [since, until). Raises QueryRejected for another name."""
    if name != "summary":
        raise QueryRejected([Problem("name", f"there is no report {name!r}; there are: {', '.join(REPORTS)}")])
    return summary(connection, since, until)


def summary(connection: Connection, since: Instant | None, until: Instant | None) -> dict[str, Any]:
    """How much was done, how long it took, who did it. Durations are seconds.

    `avg_task_time` is the mean run time of completed tasks by the workers' clocks; `avg_queue_wait` the mean time
    from ready to started, `avg_turnaround` from submitted to finished. `workload_distribution` counts, for each LLM,
    the attempts that ended, by outcome, the time they took and its share of that time.
    """
    span = [tasks.c.submitted_at >= since] if since is not None else []
    if until is not None:
        span.append(tasks.c.submitted_at < until)
    by_status = select(tasks.c.status, func.count()).where(*span).group_by(tasks.c.status)
    counts: dict[str, int] = dict(connection.execute(by_status).all())
    # Sums and counts are whole numbers: the same in every database.
    times = connection.execute(
        select(
            func.count(tasks.c.duration),
            func.sum(tasks.c.duration),
            func.count(tasks.c.started_at - tasks.c.ready_at),
            func.sum(tasks.c.started_at - tasks.c.ready_at),
            func.sum(tasks.c.finished_at - tasks.c.submitted_at),
            func.sum(tasks.c.input_tokens),
            func.sum(tasks.c.output_tokens),
            func.sum(tasks.c.cost_usd),
        ).where(is_completed, *span)
    ).one()
    total = sum(counts.values())
    done = counts.get(Status.COMPLETED.value, 0)
    return {
        "total_tasks": total,
        "completed_tasks": done,
        "failed_tasks": counts.get(Status.FAILED.value, 0),
        "cancelled_tasks": counts.get(Status.CANCELLED.value, 0),
        "open_tasks": total - sum(counts.get(status.value, 0) for status in FINAL),
        "by_status": {status.value: counts[status.value] for status in Status if status.value in counts},
        "completion_rate": done / total if total else None,
        "avg_task_time": _mean(times[1], times[0]),
        "avg_queue_wait": _mean(times[3], times[2]),
        "avg_turnaround": _mean(times[4], done),
        "input_tokens": int(times[5] or 0),
        "output_tokens": int(times[6] or 0),
        "cost_usd": float(times[7] or 0),
        "workload_distribution": _workload(connection, span),
    }


def _workload(connection: Connection, span: list[Any]) -> list[dict[str, Any]]:
    ended = select(attempts.c.llm, attempts.c.outcome, func.count(), func.sum(attempts.c.duration))
    if span:
        ended = ended.join(tasks, and_(tasks.c.seq == attempts.c.task_seq, *span))
    by_llm: dict[str, dict[str, tuple[int, int]]] = {}
    for llm, outcome, count, run in connection.execute(ended.group_by(attempts.c.llm, attempts.c.outcome)):
        by_llm.setdefault(llm, {})[outcome] = (count, int(run or 0))
    busy = {llm: sum(run for _, run in outcomes.values()) for llm, outcomes in by_llm.items()}
    total = sum(busy.values())
    return [
        {
            "llm": llm,
            "completed": by_llm[llm].get("completed", (0, 0))[0],
            "failed": by_llm[llm].get("failed", (0, 0))[0],
            "attempts": sum(count for count, _ in by_llm[llm].values()),
            "busy": in_seconds(busy[llm]),
            "share": busy[llm] / total if total else None,
        }
        for llm in sorted(by_llm)
    ]


def _mean(total: Any, count: int) -> float | None:
    return int(total) / count / 1_000_000 if count else None
