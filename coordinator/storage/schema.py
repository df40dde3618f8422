"""The tables, the same in SQLite and PostgreSQL. Moments and durations are whole microseconds (broker.timestamps)."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    literal_column,
)

from broker.protocol.report_catalog import MEASURES
from coordinator.core.tasks.task import NO_DUE_DATE

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only an INTEGER PRIMARY KEY


def _more_usage() -> list[Column[Any]]:
    """Return the columns of tokens besides the input and output tokens, which contain them, and of requests."""
    return [
        Column(name, BigInteger) for name in ("cached_tokens", "cache_write_tokens", "reasoning_tokens", "requests")
    ]


tasks = Table(
    "tasks",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=False),  # order of submission
    Column("id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("lane", Text, nullable=False),  # Task.lane: the LLMs that may take it
    Column("priority", SmallInteger, nullable=False),
    Column("due_order", BigInteger, nullable=False),  # the due date, or NO_DUE_DATE: Task.rank
    Column("assignee", Text),
    Column("parent_id", Text),
    Column("conversation_id", Text),
    Column("submitted_by", Text),
    Column("reply_to", Text),
    Column("correlation_id", Text),
    Column("attempt", Integer, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("waiting_on", Integer, nullable=False),
    Column("context_length", Integer, nullable=False),  # characters of the results of its dependencies
    Column("wake_at", BigInteger),
    Column("overdue", SmallInteger, nullable=False),  # 1 once it is announced
    Column("parked", SmallInteger, nullable=False),  # 1 while its attempt waits without holding a slot
    Column("asking_since", BigInteger),
    Column("person_wait", BigInteger, nullable=False),  # how long it waited for persons who answered
    Column("llm", Text),
    Column("instance", Text),
    Column("why", Text),
    Column("submitted_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger),
    Column("assigned_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("duration", BigInteger),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost_nanos", BigInteger),  # billionths of a US dollar: exact sums
    Column("error_type", Text),
    Column("description", Text, nullable=False),
    Column("spec", Text, nullable=False),  # the rest of the submission, JSON
    Column("inputs", Text),  # JSON
    Column("result", Text),  # JSON
    Column("error", Text),  # JSON
    Column("questions", Text),  # JSON
    Column("history", Text),  # JSON
    Column("trace", Text),  # traceparent
    Column("model", Text),  # of the instance that has or had it
    Column("original", Text),  # JSON: the original values of changed fields; null if unknown
    *_more_usage(),
    Column("models", Text),  # JSON: the usage by model, if there were several
    Column("reserved_nanos", BigInteger),  # set aside in its budgets while it is assigned or running
    Column("reserved_tokens", BigInteger),
    Column("charged_to", Text),  # JSON: the tasks of its tree whose budgets it is charged to
    Column("waits_for", Text),  # the budget that it waits for
    Column("accepted", SmallInteger),  # of a part: 1 if its group accepted it, else 0; NULL for other tasks
)
Index("tasks_by_id", tasks.c.id, unique=True)
Index("tasks_by_status", tasks.c.status, tasks.c.seq, tasks.c.submitted_at)  # lists, held tasks, counts

# Conditions of partial indexes. A query must contain the same condition to use the index. Even so, the status is the
# first column of the index, because otherwise SQLite would use tasks_by_status.
is_pending = tasks.c.status == literal_column("'pending'")
is_in_hand = (tasks.c.status.in_(("assigned", "in_progress")) & tasks.c.llm.is_not(None)) | (  # Task.in_hand
    (tasks.c.status == literal_column("'input_required'")) & tasks.c.instance.is_not(None)
)
is_over = tasks.c.finished_at.is_not(None)
waits_for_a_moment = tasks.c.wake_at.is_not(None) & (tasks.c.waiting_on == literal_column("0"))
is_pausing = (
    waits_for_a_moment
    & (tasks.c.status == literal_column("'blocked'"))
    & (tasks.c.starts > 0)
    & tasks.c.waits_for.is_(None)  # a period of a budget ends when it ends
)
is_timed = waits_for_a_moment & (tasks.c.status == literal_column("'in_progress'"))
was_assigned = tasks.c.llm.is_not(None)
is_child = tasks.c.parent_id.is_not(None)
may_become_overdue = (
    tasks.c.finished_at.is_(None)
    & (tasks.c.overdue == literal_column("0"))
    & (tasks.c.due_order < literal_column(str(NO_DUE_DATE)))
)


def _partial_index(name: str, condition: ColumnElement[bool], *columns: Any) -> None:
    Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


_partial_index(
    "tasks_ready",
    is_pending,
    tasks.c.status,
    tasks.c.lane,
    tasks.c.priority.desc(),
    tasks.c.due_order,
    tasks.c.seq,
)
_partial_index("tasks_waking", waits_for_a_moment, tasks.c.wake_at)
_partial_index("tasks_of_budget", tasks.c.waits_for.is_not(None), tasks.c.waits_for)
_partial_index("tasks_due", may_become_overdue, tasks.c.due_order)
_partial_index("tasks_of_parent", is_child, tasks.c.parent_id, tasks.c.seq)
_partial_index("tasks_of_llm", was_assigned, tasks.c.llm, tasks.c.seq)
_partial_index(  # covers what reports add up of finished tasks; new entries go to the end
    "tasks_over",
    is_over,
    tasks.c.finished_at,
    tasks.c.status,
    tasks.c.llm,
    tasks.c.submitted_at,
    tasks.c.ready_at,
    tasks.c.started_at,
    tasks.c.duration,
    tasks.c.person_wait,
    tasks.c.due_order,
    tasks.c.priority,
)

attempts = Table(
    "attempts",
    metadata,
    Column("task_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("llm", Text, nullable=False),
    Column("instance", Text),
    Column("why", Text),
    Column("outcome", Text, nullable=False),
    Column("assigned_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger, nullable=False),
    Column("duration", BigInteger),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost_nanos", BigInteger),
    Column("submitted_at", BigInteger, nullable=False),  # of the task
    Column("error_type", Text),
    Column("error", Text),  # JSON
    Column("model", Text),  # of the instance that had it; NULL without one, and from earlier versions
    Column("result", Text),  # JSON, only if a completed task was retried
    *_more_usage(),
    Column("models", Text),  # JSON: the usage by model, if there were several
    Column("charged_nanos", BigInteger),  # what its budgets are charged
    Column("charged_tokens", BigInteger),
)
Index(  # covers what reports add up; new entries go to the end
    "attempts_over",
    attempts.c.finished_at,
    attempts.c.llm,
    attempts.c.outcome,
    attempts.c.submitted_at,
    attempts.c.started_at,
    attempts.c.duration,
    attempts.c.input_tokens,
    attempts.c.output_tokens,
    attempts.c.cost_nanos,
    attempts.c.error_type,
)
has_models = attempts.c.models.is_not(None)
_partial_index("attempts_of_models", has_models, attempts.c.finished_at)

dependencies = Table(
    "dependencies",
    metadata,
    Column("depends_on", Text, primary_key=True),
    Column("task_id", Text, primary_key=True),
    Column("met", Boolean, nullable=False),  # whether the end of `depends_on` is counted in waiting_on
)
Index("dependencies_of", dependencies.c.task_id)

labels = Table(
    "labels",
    metadata,
    Column("task_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text, primary_key=True),
    sqlite_with_rowid=False,
)
Index("labels_by_label", labels.c.label, labels.c.task_seq)

skills = Table(  # that a task requires
    "skills",
    metadata,
    Column("task_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("skill", Text, primary_key=True),
    sqlite_with_rowid=False,
)

llms = Table(
    "llms",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("skills", Text, nullable=False),  # JSON: tag -> level
    Column("description", Text, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("told_skills", Text, nullable=False),  # JSON: tag -> level, as its instances report them
    Column("skills_given", Text),  # JSON: tag -> level, if set by an operator
    Column("labels", Text, nullable=False),  # JSON
    Column("paused", Boolean, nullable=False),
    Column("slots_limit", Integer),
    Column("learned", Text, nullable=False),  # JSON: core/llms/duration_estimates.py
    Column("properties", Text),  # JSON: limit, price, reserve and others, as reported and as set by hand
    Column("health", Text),  # JSON: core/health
    Column("instances", Text, nullable=False),  # JSON: id -> {slots, draining}
)

messages = Table(
    "messages",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),  # order of arrival at the coordinator
    Column("id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("metadata", Text),  # JSON
    Column("in_reply_to", Text),
    Column("sent_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("delivered", Boolean, nullable=False),
)
Index("messages_by_id", messages.c.id, unique=True)
Index("messages_of_conversation", messages.c.conversation_id, messages.c.seq)
Index("messages_from", messages.c.sender, messages.c.seq)
Index("messages_to", messages.c.receiver, messages.c.seq)


llm_slots = Table(  # the slots of an LLM from each moment on
    "llm_slots",
    metadata,
    Column("llm", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("slots", Integer, nullable=False),
)

notes = Table(
    "notes",
    metadata,
    Column("board", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("content", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

reports = Table(  # saved by users
    "reports",
    metadata,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),  # JSON: queries.ReportFields
    Column("saved_by", Text, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
)

# Finished tasks are added up for reports, period by period: coordinator/queries/reports/closing.py.
periods = Table(
    "periods",
    metadata,
    Column("start", BigInteger, primary_key=True, autoincrement=False),  # of the tasks that ended from then on
    Column("until", BigInteger, nullable=False),  # and before then
    Column("first_submitted", BigInteger),  # of the tasks that ended, or of which an attempt did
    Column("last_submitted", BigInteger),
    Column("first_started", BigInteger),  # of the attempts that ended
)

task_sums = Table(  # of tasks that are alike
    "task_sums",
    metadata,
    Column("period", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("llm", Text),
    Column("overdue", SmallInteger, nullable=False),
    Column("hour", BigInteger, nullable=False),  # of their end
    Column("tasks", BigInteger, nullable=False),
    Column("first_submitted", BigInteger, nullable=False),
    Column("first_finished", BigInteger, nullable=False),
    *(Column(f"{measure}_{part}", BigInteger) for measure in MEASURES for part in ("count", "total", "max")),
    Column("model", Text),
    Column("done", BigInteger),  # of these, completed by an LLM
    Column("accepted", BigInteger),  # of these, accepted; both NULL from earlier versions
)
Index("task_sums_of_period", task_sums.c.period)

attempt_sums = Table(  # of attempts that are alike
    "attempt_sums",
    metadata,
    Column("period", BigInteger, nullable=False),
    Column("llm", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error_type", Text),
    Column("hour", BigInteger, nullable=False),  # of their end
    Column("attempts", BigInteger, nullable=False),
    Column("duration", BigInteger),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost_nanos", BigInteger),
    Column("length", BigInteger),  # from start to end, by the coordinator's clock
    Column("model", Text),  # attempts with several models have a row for each, with its usage
    *_more_usage(),
    Column("unknown_cost", BigInteger),  # attempts; NULL, like all usage besides, from earlier versions
    Column("paced_tokens", BigInteger),  # output tokens of attempts whose duration is known
    Column("paced_time", BigInteger),  # duration of the attempts whose output tokens are known
)
Index("attempt_sums_of_period", attempt_sums.c.period)

durations = Table(  # in ascending order
    "durations",
    metadata,
    Column("period", BigInteger, primary_key=True, autoincrement=False),
    Column("measure", Text, primary_key=True),
    Column("status", Text, primary_key=True),
    Column("overdue", SmallInteger, primary_key=True, autoincrement=False),
    Column("micros", LargeBinary, nullable=False),  # 8 bytes each, the lowest first
)

limits = Table(
    "limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),  # JSON: core/limits
)

budgets = Table(
    "budgets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("definition", Text, nullable=False),  # JSON: core/budgets
)

budget_accounts = Table(  # what was spent of a budget, for each value of its dimension and each period
    "budget_accounts",
    metadata,
    Column("name", Text, primary_key=True),  # of the budget; task:<id> for a task
    Column("value", Text, primary_key=True),  # the submitter, label, LLM or limit; empty without a dimension
    Column("since", BigInteger, primary_key=True, autoincrement=False),  # beginning of the period; 0 for a task
    Column("is_open", SmallInteger, nullable=False),  # 1 while something may be charged to it
    Column("usd_nanos", BigInteger),  # its figures, with what they were raised by
    Column("tokens", BigInteger),
    Column("runs", BigInteger),
    Column("spent_nanos", BigInteger, nullable=False),
    Column("spent_tokens", BigInteger, nullable=False),
    Column("spent_runs", BigInteger, nullable=False),
    Column("unknown_runs", BigInteger, nullable=False),  # runs whose cost is unknown
    Column("state", Text, nullable=False),  # JSON: what was announced, and what a person was asked
)

settings = Table(  # of all coordinators of this database
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
)

outbox = Table(
    "outbox",
    metadata,
    Column("batch", _Serial, primary_key=True, autoincrement=True),
    Column("messages", Text, nullable=False),  # JSON: coordinator/outbound/outbox.py
)

leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one row: 1
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
