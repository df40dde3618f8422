"""LLMs and rate limits, read from the database."""

from collections.abc import Callable, Mapping

from pydantic_core import to_json
from sqlalchemy import Connection, select

from broker.errors import Problem, QueryRejected, did_you_mean
from broker.protocol.queries import LLMsQuery
from broker.protocol.spending import LimitsQuery
from broker.timestamps import Instant, to_iso
from coordinator.core.limits.control import limit_view
from coordinator.core.limits.registry import RateLimits
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.view import llm_view
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.outbound.size_limits import Page
from coordinator.storage import schema
from coordinator.storage.readers import limits_of, tasks_of
from coordinator.storage.rows import llm_of

_MAX_SUGGESTIONS = 100  # LLMs that are compared with a name that does not exist

_tasks, _llms = schema.tasks, schema.llms


def llms(connection: Connection, query: LLMsQuery, now: Instant, quiet_since: Callable[[str], Instant | None]) -> bytes:
    """Return an LLMList as JSON. `quiet_since`: see Task.quiet_since."""
    wanted = select(_llms).order_by(_llms.c.name).limit(query.limit + 1)
    if query.name:
        wanted = wanted.where(_llms.c.name == query.name)
    if query.after:
        wanted = wanted.where(_llms.c.name > query.after)
    rows = connection.execute(wanted).mappings().all()
    if query.name and not rows:
        known = connection.execute(select(_llms.c.name).limit(_MAX_SUGGESTIONS)).scalars()
        raise QueryRejected([Problem("name", f"there is no LLM {query.name}{did_you_mean(query.name, known)}")])
    held: dict[str, dict[str, bool]] = {}
    in_hand = select(_tasks.c.llm, _tasks.c.id, _tasks.c.parked).where(schema.is_in_hand).order_by(_tasks.c.seq)
    for name, task_id, parked in connection.execute(in_hand):
        held.setdefault(name, {})[task_id] = bool(parked)
    limits = {limit.name: limit for limit in limits_of(connection)}
    page, last = Page("llms"), None
    for row in rows[: query.limit]:
        llm, its = llm_of(row), held.get(row["name"], {})
        llm.rate_limit = limits.get(llm.limit)
        shown = llm_view(llm, its, now) | {"state": row["state"]}
        if quiet := {task_id: to_iso(at) for task_id in its if (at := quiet_since(task_id)) is not None}:
            shown["quiet"] = quiet
        if not page.take(shown):
            return page.encoded(last)
        last = row["name"]
    return page.encoded(last if len(rows) > query.limit else None)


def limits(connection: Connection, query: LimitsQuery, now: Instant) -> bytes:
    """Return a LimitList as JSON."""
    registry = RateLimits(ReadyQueue(0), {})
    running = tasks_of(connection, connection.execute(select(_tasks).where(schema.is_in_hand)).mappings().all())
    registry.restore(limits_of(connection), known_llms(connection).values(), running, now)
    names = sorted(registry.names())
    if query.name is not None and query.name not in names:
        hint = did_you_mean(query.name, names[:_MAX_SUGGESTIONS])
        raise QueryRejected([Problem("name", f"there is no rate limit {query.name}{hint}")])
    shown = [
        limit_view(registry.add(name), sorted(registry.members(name)), now)
        for name in names
        if query.name in (None, name)
    ]
    return to_json({"limits": shown})


def known_llms(connection: Connection) -> Mapping[str, LLM]:
    """Return every LLM by name, without tasks."""
    return {row["name"]: llm_of(row) for row in connection.execute(select(_llms)).mappings()}


def llms_with_limits(connection: Connection, *, trusts_labels: bool) -> Mapping[str, LLM]:
    """Return every LLM by name, each with its rate limit, without tasks. `trusts_labels`: see MachineOptions."""
    limits = {limit.name: limit for limit in limits_of(connection)}
    found = known_llms(connection)
    for llm in found.values():
        llm.rate_limit, llm.label_counts = limits.get(llm.limit), trusts_labels
    return found
