"""The answer to each kind of query, read on a separate connection, never on that of the batch loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import structlog
from pydantic_core import from_json, to_json
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Engine,
    LargeBinary,
    RowMapping,
    Select,
    case,
    cast,
    exists,
    func,
    null,
    select,
    union_all,
)

from broker.errors import DecodeError, Problem, QueryRejected, StoreUnavailable
from broker.protocol.primitives import MAX_ANSWER_BYTES, decode
from broker.protocol.queries import (
    ConversationsQuery,
    LLMsQuery,
    MessagesQuery,
    PlacementQuery,
    ReportQuery,
    ReportsQuery,
    TaskQuery,
    TasksQuery,
)
from broker.protocol.spending import BudgetsQuery, LimitsQuery
from broker.protocol.status import Status
from broker.protocol.views import ErrorDetail, Rejection
from broker.timestamps import Instant, Micros, in_seconds, to_iso
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.machine import Machine, MachineOptions
from coordinator.core.tasks.task import Task, view
from coordinator.outbound.size_limits import BEGINNING, LATEST, Page, beginning, fitted, in_a_list, without_bulk
from coordinator.policy_loader import load_policy
from coordinator.queries import budgets, history
from coordinator.queries.dry_run import placement
from coordinator.queries.llms import limits, llms, llms_with_limits
from coordinator.queries.reports.answer import report_list, report_view
from coordinator.queries.waiting import why_waiting
from coordinator.storage import schema
from coordinator.storage.engine import database_errors
from coordinator.storage.readers import tasks_of
from coordinator.telemetry.snapshot import Backlog
from coordinator.validation import must_be_schema, shortened_problems

LIVE = tuple(status.value for status in Status if not status.is_final)
_AT_ONCE = 20  # rows of a list in memory
MAX_NOT_SUBMITTED = 20  # ids that `not_submitted` of a task names
MAX_LABELS = 8  # of a query: each one makes its planning slower

Q = TypeVar("Q", TasksQuery, MessagesQuery, ConversationsQuery)

_log = structlog.get_logger("coordinator")
_tasks, _attempts, _labels = schema.tasks, schema.attempts, schema.labels


class QueryHandlers:
    """Answers queries by their routing key. Used by one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], Instant],
        policy: str,
        lease: Micros,
        suggest_skills: bool = False,
        trusts_labels: bool = True,
        quiet_since: Callable[[str], Instant | None] = lambda task_id: None,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> None:
        """An answer has at most `max_answer` bytes. `quiet_since`: see Task; `trusts_labels`: see MachineOptions."""
        self._max_answer = max_answer
        self._engine = engine
        self._clock = clock
        self._policy = policy
        self._lease = lease
        self._quiet_since = quiet_since
        self._trusts_labels = trusts_labels
        self._expertise = Expertise() if suggest_skills else None

    def answer(self, routing_key: str, body: bytes) -> tuple[str, bytes]:
        """Return the type and the body of the answer: `query.answer`, or `query.rejected` with every error.

        Raises StoreUnavailable.
        """
        try:
            with database_errors(), self._engine.begin() as connection:
                shown: bytes | dict[str, Any]
                match routing_key:
                    case "task":
                        shown = self._task(connection, decode(TaskQuery, body))
                    case "tasks":
                        shown = self._list(connection, _answerable(decode(TasksQuery, body)))
                    case "llms":
                        shown = llms(connection, decode(LLMsQuery, body), self._clock(), self._quiet_since)
                    case "limits":
                        shown = limits(connection, decode(LimitsQuery, body), self._clock())
                    case "placement":
                        wanted = decode(PlacementQuery, body)
                        must_be_schema(wanted.output_schema)
                        shown = self._placement(connection, wanted)
                    case "report":
                        shown = self._report(connection, decode(ReportQuery, body))
                    case "reports":
                        decode(ReportsQuery, body)
                        shown = report_list(connection)
                    case "messages":
                        shown = history.messages(connection, _answerable(decode(MessagesQuery, body)))
                    case "conversations":
                        shown = history.conversations(connection, _answerable(decode(ConversationsQuery, body)))
                    case "budgets":
                        shown = budgets.listed(connection, decode(BudgetsQuery, body), self._clock())
                    case _:
                        raise QueryRejected([Problem("", f"there is no query {routing_key!r}")])
                body = shown if isinstance(shown, bytes) else to_json(shown)
                if len(body) > self._max_answer:
                    raise QueryRejected([Problem("", too_large(len(body), self._max_answer))])
                return "query.answer", body
        except (DecodeError, QueryRejected) as error:
            return rejected(shortened_problems(error.problems))
        except StoreUnavailable:
            raise
        except Exception as error:  # one query must not prevent the answers to others
            _log.exception("a query cannot be answered", query=routing_key)
            return rejected([Problem("", f"the coordinator cannot answer this query: {type(error).__name__}")])

    def backlog(self) -> Backlog:
        """Return how many tasks are live, and the age of the oldest pending one. Raises StoreUnavailable."""
        status, submitted_at = _tasks.c.status, _tasks.c.submitted_at
        live = select(status, func.count()).where(status.in_(LIVE)).group_by(status)
        oldest = select(submitted_at).where(status == Status.PENDING.value).order_by(_tasks.c.seq).limit(1)
        with database_errors(), self._engine.begin() as connection:
            counts = dict.fromkeys(LIVE, 0) | {row[0]: row[1] for row in connection.execute(live)}
            since = connection.scalar(oldest)
        return Backlog(counts, None if since is None else in_seconds(max(0, self._clock() - since)))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _task(self, connection: Connection, query: TaskQuery) -> dict[str, Any]:
        rows = connection.execute(select(_tasks).where(_tasks.c.id == query.id)).mappings().all()
        if not rows:
            raise QueryRejected([Problem("id", f"there is no task {query.id}")])
        (task,) = tasks_of(connection, rows)
        shown = view(task) | _named(not_submitted(connection, [task]).get(task.id))
        shown |= _waits(task, partial(llms_with_limits, connection, trusts_labels=self._trusts_labels), self._clock())
        if task.spec.budget is not None:
            shown["budget"] = shown["budget"] | budgets.spent_of_tree(connection, task.id, self._clock())
        its = (_attempts.c.task_seq == rows[0]["seq"]) & _attempts.c.result.is_not(None)
        earlier = connection.execute(select(_attempts.c.attempt, _attempts.c.result).where(its))
        results = {attempt: from_json(result) for attempt, result in earlier}
        for attempt in shown["attempts"]:
            if attempt["attempt"] in results:
                attempt["result"] = results[attempt["attempt"]]
        if (quiet := self._quiet_since(query.id)) is not None and "outcome" not in shown["attempts"][-1]:
            shown["attempts"][-1]["quiet_since"] = to_iso(quiet)
        return fitted(shown, self._max_answer)

    def _list(self, connection: Connection, query: TasksQuery) -> bytes:
        description = _tasks.c.description
        instead = {
            "inputs": null(),
            "result": null(),
            "description": func.substr(description, 1, BEGINNING + 1),
        }
        columns = [instead[c.name].label(c.name) if c.name in instead else c for c in _tasks.c]
        columns.append(case((func.length(description) > BEGINNING, self._bytes_of(description))).label("cut"))
        newest_first = _tasks.c.seq.desc()
        wanted = select(*columns).where(_tasks.c.seq.in_(_page(query))).order_by(newest_first).limit(query.limit + 1)
        page, shown, last, now = Page("tasks"), 0, None, self._clock()
        known = cache(partial(llms_with_limits, connection, trusts_labels=self._trusts_labels))
        with connection.execution_options(stream_results=True, max_row_buffer=_AT_ONCE).execute(wanted) as rows:
            for some in rows.mappings().partitions(_AT_ONCE):
                for seq, listed in _listed(connection, some, known, now):
                    if shown == query.limit or not page.take(listed):
                        return page.encoded(last)
                    shown, last = shown + 1, seq
        return page.encoded(None)

    def _bytes_of(self, text: ColumnElement[str]) -> ColumnElement[int]:
        if self._engine.dialect.name == "postgresql":
            return func.octet_length(text)
        return func.length(cast(text, LargeBinary))

    def _placement(self, connection: Connection, query: PlacementQuery) -> dict[str, Any]:
        policy = partial(load_policy, self._policy)
        options = MachineOptions(self._lease, policy, self._expertise, trusts_labels=self._trusts_labels)
        return placement(connection, query, Machine(options), self._clock())

    def _report(self, connection: Connection, query: ReportQuery) -> dict[str, Any]:
        return report_view(connection, query, self._clock())


def too_large(size: int, most: int | None) -> str:
    """Return the problem of an answer that is too large."""
    limit = "" if most is None else f"; the limit is {most:,}"
    return f"the answer has {size:,} bytes{limit}: ask for less"


def _waits(task: Task, llms: Callable[[], Mapping[str, LLM]], now: Instant) -> dict[str, str]:
    """Return the field `waits` of a task that waits for an LLM, which `llms` reads, or for a budget."""
    if task.status is Status.PENDING:
        return {"waits": why_waiting(task, llms(), now).removeprefix("waits ")}
    if task.status is Status.BLOCKED and task.waits_for is not None and task.why is not None:
        return {"waits": task.why.removeprefix("waits ")}
    return {}


def _listed(
    connection: Connection, rows: Sequence[RowMapping], llms: Callable[[], Mapping[str, LLM]], now: Instant
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbers and list views of the tasks of these rows."""
    light, left_out = [], []
    for row in rows:
        smaller, large = without_bulk(row)
        if row["cut"] is not None:
            large["description"] = row["cut"]
            smaller = {**smaller, "description": beginning(row["description"])}
        light.append(smaller)
        left_out.append(large)
    tasks = tasks_of(connection, light, latest=LATEST)
    missing = not_submitted(connection, tasks)
    for task, large in zip(tasks, left_out, strict=True):
        yield task.seq, in_a_list(view(task) | _named(missing.get(task.id)) | _waits(task, llms, now), large)


def _named(ids: Sequence[str] | None) -> dict[str, Any]:
    return {"not_submitted": ids} if ids else {}


def not_submitted(connection: Connection, tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Return by task id the dependencies that are not submitted yet, at most MAX_NOT_SUBMITTED of each task."""
    waiting = [task.id for task in tasks if task.waiting_on]
    if not waiting:
        return {}
    edges, known = schema.dependencies, _tasks.alias()
    unknown = ~exists().where(known.c.id == edges.c.depends_on)
    wanted = select(edges.c.task_id, edges.c.depends_on).where(
        edges.c.task_id.in_(waiting), edges.c.met.is_(False), unknown
    )
    found: dict[str, list[str]] = {}
    for task_id, depends_on in connection.execute(wanted.order_by(edges.c.depends_on)):
        ids = found.setdefault(task_id, [])
        if len(ids) < MAX_NOT_SUBMITTED:
            ids.append(depends_on)
    return found


def _answerable(query: Q) -> Q:
    """Return the query. Raises QueryRejected for values that the types allow and a database cannot handle."""
    if "\0" in (getattr(query, "text", None) or ""):
        raise QueryRejected([Problem("text", "must not contain NUL")])
    if (query.before or 0) >= 2**63:
        raise QueryRejected([Problem("before", "is out of range")])
    if isinstance(query, TasksQuery) and len(query.label) > MAX_LABELS:
        raise QueryRejected([Problem("label", f"must have at most {MAX_LABELS} labels")])
    return query


def rejected(problems: Sequence[Problem]) -> tuple[str, bytes]:
    """Return the type and the body of a `query.rejected`."""
    errors = [ErrorDetail(path=problem.path, message=problem.message) for problem in problems]
    return "query.rejected", Rejection(errors=errors).encode()


def _page(query: TasksQuery) -> CompoundSelect[tuple[int]]:
    """Select the numbers of the newest matching tasks, by status: each is read from the end of an index."""
    newest = _newest(query)
    parts = [newest.where(_tasks.c.status == status.value) for status in set(query.status)] or [newest]
    return union_all(*(select(part.subquery().c.seq) for part in parts))


def _newest(query: TasksQuery) -> Select[tuple[int]]:
    """Select the numbers of the newest matching tasks of any status."""
    if query.label:
        seq = _labels.c.task_seq.label("seq")
        wanted = select(seq).join(_tasks, _tasks.c.seq == seq).where(_labels.c.label == query.label[0])
    else:
        seq = _tasks.c.seq.label("seq")
        wanted = select(seq)
    for label in set(query.label[1:]):
        other = _labels.alias()
        wanted = wanted.where(exists().where(other.c.label == label, other.c.task_seq == seq))
    if query.llm:
        wanted = wanted.where(_tasks.c.llm == query.llm)
    if query.text:
        wanted = wanted.where(_tasks.c.description.icontains(query.text, autoescape=True))
    if query.within:
        children = select(_tasks.c.id, _tasks.c.seq).where(schema.is_child)
        parts = children.where(_tasks.c.parent_id == query.within).cte(recursive=True)
        parts = parts.union_all(children.where(_tasks.c.parent_id == parts.c.id))
        wanted = wanted.where(seq.in_(select(parts.c.seq)))
    if query.before is not None:
        wanted = wanted.where(seq < query.before)
    return wanted.order_by(seq.desc()).limit(query.limit + 1)
