"""A naive reference implementation of reports: from the published events, task by task, with fractions.

It shares only the names with the coordinator's SQL.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import product
from typing import Any

Event = Mapping[str, Any]
Item = dict[str, Any]  # dimension -> its values, most have one; "_…" -> what is measured

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FINAL = ("completed", "failed", "cancelled")
COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "requests")
COST_PER_TASK = {"cost_per_completed", "cost_per_accepted"}
USAGE = {*COUNTS, "cost_usd", "unknown_cost", *COST_PER_TASK}
ATTEMPTS = {"attempts", "attempts_completed", "attempts_failed", "attempts_lost", "busy_time", "busy_share",
            "tokens_per_second", *USAGE}  # fmt: skip


def micros(moment: str | None) -> int | None:
    """Return an ISO 8601 moment as microseconds since 1970."""
    return None if moment is None else (datetime.fromisoformat(moment) - EPOCH) // timedelta(microseconds=1)


class Log:
    """The last state of every task and the states of every LLM, from the events."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.tasks: dict[str, Mapping[str, Any]] = {}
        self.models: dict[str, str] = {}
        self.slots: dict[str, list[tuple[int, int]]] = {}
        for event in events:
            if event["type"].startswith("fluffle.llm.") and "model" in event["data"]:
                self.models[event["subject"]] = event["data"]["model"]
                at = micros(event["time"]) or 0
                self.slots.setdefault(event["subject"], []).append((at, event["data"]["slots"]))
            elif event["type"].startswith("fluffle.task.") and event["type"] != "fluffle.task.rejected":
                self.tasks[event["subject"]] = event["data"]

    def rows(
        self,
        *,
        group_by: Sequence[str],
        metrics: Sequence[str],
        where: Mapping[str, Sequence[Any]],
        moment: str,
        since: int | None,
        until: int | None,
        now: int,
    ) -> list[dict[str, Any]]:
        """The rows, in the order of their groups."""

        def within(item: Item) -> bool:
            at = item["_at"]
            return at is not None and (since is None or at >= since) and (until is None or at < until)

        def grouped(items: Iterable[Item]) -> dict[tuple[Any, ...], list[Item]]:
            groups: dict[tuple[Any, ...], list[Item]] = {} if group_by else {(): []}
            for item in filter(within, items):
                if not all(set(item[name]) & set(values) for name, values in where.items()):
                    continue
                for key in product(*(item[name] for name in group_by)):
                    if all(value in where.get(name, (value,)) for name, value in zip(group_by, key, strict=True)):
                        groups.setdefault(key, []).append(item)
            return groups

        wanted = set(metrics)
        tasks: dict[tuple[Any, ...], list[Item]] = {}
        if of_tasks := wanted - ATTEMPTS - {"utilisation"}:
            tasks = grouped(self._tasks(moment, now))
        elif wanted & COST_PER_TASK:
            tasks = grouped(item for item in self._tasks(moment, now) if item["_done"])
        if not of_tasks and not group_by:
            tasks.setdefault((), [])
        attempts = grouped(self._attempts(moment, now)) if wanted & ATTEMPTS else {}
        divided = bool(wanted & USAGE) and ("model" in group_by or "model" in where)
        used = grouped(self._shares(moment, now)) if divided else attempts
        slots = self._slots(group_by, where, since, until, now) if "utilisation" in wanted else {}
        busy = sum(item["_duration"] or 0 for items in attempts.values() for item in items)
        first = min((item["_at"] for items in tasks.values() for item in items), default=None)
        rows = []
        keys = tasks.keys() | attempts.keys() | used.keys() | slots.keys() | (set() if group_by else {()})
        for key in sorted(keys, key=_in_order):
            length = _length(dict(zip(group_by, key, strict=True)), first, since, until, now)
            told = {
                **_of_tasks(tasks.get(key, []), length),
                **_of_attempts(attempts.get(key, []), busy),
                **_of_usage(used.get(key, []), attempts.get(key, []), tasks.get(key, []), alone=not group_by),
                "utilisation": slots.get(key),
            }
            named = dict(zip(group_by, key, strict=True))
            rows.append({**named, **{name: told[name] for name in metrics}})
        return rows

    def _tasks(self, moment: str, now: int) -> Iterable[Item]:
        for view in self.tasks.values():
            at = micros(view["submitted_at"] if moment == "submitted" else view.get("finished_at"))
            started, ready = micros(view.get("started_at")), micros(view.get("ready_at"))
            finished, submitted = micros(view.get("finished_at")), micros(view["submitted_at"]) or 0
            waited = started is not None and ready is not None and started >= ready
            yield {
                **self._dimensions(view, view, at, now),
                "_at": at,
                "_status": view["status"],
                "_late": _lateness(view, now),
                "_done": view["status"] == "completed" and view.get("llm") is not None,
                "_queue_wait": (started or 0) - (ready or 0) if waited else None,
                "_run_time": _whole(view.get("duration")),
                "_person_wait": _whole(view.get("person_wait")),
                "_turnaround": None if finished is None else finished - submitted,
                "_lateness": _lateness(view, now),
            }

    def _attempts(self, moment: str, now: int) -> Iterable[Item]:
        for view in self.tasks.values():
            for attempt in view["attempts"]:
                if "outcome" not in attempt:
                    continue
                at = micros(view["submitted_at"] if moment == "submitted" else attempt["finished_at"])
                usage = attempt.get("usage", {})
                yield {
                    **self._dimensions(view, attempt, at, now),
                    "outcome": [attempt["outcome"]],
                    "_at": at,
                    "_duration": _whole(attempt.get("duration")),
                    "_usage": usage,
                    "_used": _used(usage),
                }

    def _shares(self, moment: str, now: int) -> Iterable[Item]:
        """The usage of each attempt by model: what is left of the whole is that of the model that answered."""
        for item in self._attempts(moment, now):
            left = item["_used"]
            for model, usage in item["_usage"].get("models", {}).items():
                its = _used(usage)
                left = {name: value - its.get(name, 0) for name, value in left.items()}
                yield {**item, "model": [model], "_used": its}
            yield {**item, "_used": left}

    def _dimensions(self, view: Any, it: Any, at: int | None, now: int) -> Item:
        """Of a task, or of an attempt of it: `it` tells whose it is."""
        priority, llm, error = view["priority"], it.get("llm"), it.get("error")
        return {
            "status": [view["status"]],
            "llm": [llm],
            "model": [it.get("model", self.models.get(llm or ""))],
            "assignee": [view.get("assignee")],
            "skill": list(dict.fromkeys(view["skills"])) or [None],
            "label": list(dict.fromkeys(view["labels"])) or [None],
            "priority": [priority],
            "priority_band": ["low" if priority < 4 else "normal" if priority < 7 else "high"],
            "submitted_by": [view.get("submitted_by")],
            "conversation": [view.get("conversation_id")],
            "error": [error["type"] if error else None],
            "overdue": [_lateness(view, now) is not None],
            **({} if at is None else _calendar(EPOCH + timedelta(microseconds=at))),
        }

    def _slots(
        self,
        group_by: Sequence[str],
        where: Mapping[str, Sequence[Any]],
        since: int | None,
        until: int | None,
        now: int,
    ) -> dict[tuple[Any, ...], float | None]:
        end = now if until is None else min(until, now)

        def overlap(start: int, stop: int) -> int:
            return max(0, min(stop, end) - (start if since is None else max(start, since)))

        offered: dict[str, int] = {}
        for llm, steps in self.slots.items():
            for place, (at, count) in enumerate(steps):
                stop = steps[place + 1][0] if place + 1 < len(steps) else end
                offered[llm] = offered.get(llm, 0) + count * overlap(at, stop)
        used: dict[str, int] = {}
        for view in self.tasks.values():
            for attempt in view["attempts"]:
                start, stop = micros(attempt.get("started_at")), micros(attempt.get("finished_at")) or now
                if start is not None and (length := overlap(start, stop)):
                    used[attempt["llm"]] = used.get(attempt["llm"], 0) + length
        llms = [llm for llm in offered.keys() | used.keys() if llm in where.get("llm", (llm,))]
        groups: dict[tuple[Any, ...], list[str]] = {}
        for llm in llms:
            groups.setdefault((llm,) if group_by else (), []).append(llm)
        return {
            key: _divided(sum(used.get(llm, 0) for llm in group), sum(offered.get(llm, 0) for llm in group))
            for key, group in groups.items()
        }


def _of_tasks(items: Sequence[Item], length: int | None) -> dict[str, Any]:
    of = {status: sum(item["_status"] == status for item in items) for status in FINAL}
    told: dict[str, Any] = {
        "tasks": len(items),
        **of,
        "open": len(items) - sum(of.values()),
        "late": sum(item["_late"] is not None for item in items),
        "completion_rate": _divided(of["completed"], len(items)),
        "throughput": None if not length else float(Fraction(of["completed"] * 3_600_000_000, length)),
    }
    for measure in ("queue_wait", "run_time", "person_wait", "turnaround", "lateness"):
        values = sorted(item[f"_{measure}"] for item in items if item[f"_{measure}"] is not None)
        told[f"{measure}_mean"] = float(Fraction(sum(values), len(values) * 10**6)) if values else None
        told[f"{measure}_p50"] = _nearest(values, Fraction(1, 2))
        told[f"{measure}_p95"] = _nearest(values, Fraction(95, 100))
        told[f"{measure}_max"] = values[-1] / 10**6 if values else None
    return told


def _of_attempts(items: Sequence[Item], busy: int) -> dict[str, Any]:
    def ended(*outcomes: str) -> int:
        return sum(item["outcome"][0] in outcomes for item in items)

    def total(name: str) -> int:
        return sum(item[name] or 0 for item in items)

    timed = [item for item in items if item["_duration"] is not None and "output_tokens" in item["_used"]]
    return {
        "attempts": len(items),
        "attempts_completed": ended("completed"),
        "attempts_failed": ended("failed"),
        "attempts_lost": ended("lost", "unclaimed"),
        "busy_time": total("_duration") / 10**6,
        "busy_share": _divided(total("_duration"), busy),
        "tokens_per_second": _divided(
            sum(item["_used"]["output_tokens"] for item in timed) * 10**6, sum(item["_duration"] for item in timed)
        ),
    }


def _used(usage: Mapping[str, Any]) -> dict[str, int]:
    """What is known of a usage, the cost in whole billionths."""
    known: dict[str, int] = {name: usage[name] for name in COUNTS if name in usage}
    return known | ({"cost_usd": round(usage["cost_usd"] * 10**9)} if "cost_usd" in usage else {})


def _of_usage(
    shares: Sequence[Item], attempts: Sequence[Item], tasks: Sequence[Item], *, alone: bool
) -> dict[str, Any]:
    def total(name: str) -> int | None:
        known = [item["_used"][name] for item in shares if name in item["_used"]]
        return sum(known) if known else None

    def is_unknown(usage: Mapping[str, Any]) -> bool:
        used = any(usage.get(name) for name in ("input_tokens", "output_tokens", "requests"))
        return (used and "cost_usd" not in usage) or any(
            "cost_usd" not in its for its in usage.get("models", {}).values()
        )

    unknown = sum(is_unknown(item["_usage"]) for item in attempts)
    cost, done = total("cost_usd"), sum(item["_done"] for item in tasks)
    if unknown and not cost:
        cost = None
    return {
        **{name: total(name) for name in COUNTS},
        "unknown_cost": unknown if shares or alone else None,
        "cost_usd": None if cost is None else cost / 10**9,
        **dict.fromkeys(COST_PER_TASK, None if cost is None else _divided(cost, done * 10**9)),
        "accepted": done,
    }


def _nearest(values: Sequence[int], fraction: Fraction) -> float | None:
    return values[math.ceil(len(values) * fraction) - 1] / 10**6 if values else None


def _divided(above: int, below: int) -> float | None:
    return float(Fraction(above, below)) if below else None


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 10**6)


def _lateness(view: Mapping[str, Any], now: int) -> int | None:
    due, end = micros(view.get("due")), micros(view.get("finished_at")) or now
    return end - due if due is not None and due < end else None


def _calendar(at: datetime) -> dict[str, list[Any]]:
    monday = at - timedelta(days=at.weekday())
    return {
        "hour": [at.strftime("%Y-%m-%dT%H:00Z")],
        "day": [at.strftime("%Y-%m-%d")],
        "week": [monday.strftime("%Y-%m-%d")],
        "hour_of_day": [at.hour],
        "weekday": [at.isoweekday()],
    }


_LENGTHS: dict[str, Callable[[datetime], datetime]] = {
    "hour": lambda start: start + timedelta(hours=1),
    "day": lambda start: start + timedelta(days=1),
    "week": lambda start: start + timedelta(weeks=1),
}


def _length(key: Mapping[str, Any], first: int | None, since: int | None, until: int | None, now: int) -> int | None:
    end = now if until is None else min(until, now)
    start = first if since is None else since
    for name, after in _LENGTHS.items():
        if name in key:
            begins = datetime.fromisoformat(key[name].replace("Z", "")).replace(tzinfo=UTC)
            its_start = micros(begins.isoformat()) or 0
            start = its_start if since is None else max(since, its_start)
            end = min(end, micros(after(begins).isoformat()) or 0)
            break
    return None if start is None or end <= start else end - start


def _in_order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((value is None, 0 if value is None else value) for value in key)
