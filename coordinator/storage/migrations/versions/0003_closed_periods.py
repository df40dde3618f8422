"""Closed periods: sums and lists for reports; the indexes of what has ended go by the moment of its end"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MEASURES = ("queue_wait", "run_time", "person_wait", "turnaround", "lateness")
_IS_OVER = sa.text("finished_at IS NOT NULL")
_OF_TASKS = ["submitted_at", "ready_at", "started_at", "duration", "person_wait", "due_order", "priority"]
_OF_ATTEMPTS = ["submitted_at", "started_at", "duration", "input_tokens", "output_tokens", "cost_nanos", "error_type"]


def upgrade() -> None:
    _index_tasks(["finished_at", "status", "llm", *_OF_TASKS])
    op.drop_index("attempts_by_llm", table_name="attempts")
    op.create_index("attempts_over", "attempts", ["finished_at", "llm", "outcome", *_OF_ATTEMPTS], unique=False)
    op.create_table(
        "periods",
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("first_submitted", sa.BigInteger(), nullable=True),
        sa.Column("last_submitted", sa.BigInteger(), nullable=True),
        sa.Column("first_started", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("start"),
    )
    op.create_table(
        "task_sums",
        sa.Column("period", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=True),
        sa.Column("overdue", sa.SmallInteger(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.Column("first_submitted", sa.BigInteger(), nullable=False),
        sa.Column("first_finished", sa.BigInteger(), nullable=False),
        *(
            sa.Column(f"{measure}_{part}", sa.BigInteger(), nullable=True)
            for measure in _MEASURES
            for part in ("count", "total", "max")
        ),
    )
    op.create_index("task_sums_of_period", "task_sums", ["period"], unique=False)
    op.create_table(
        "attempt_sums",
        sa.Column("period", sa.BigInteger(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("duration", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("length", sa.BigInteger(), nullable=True),
    )
    op.create_index("attempt_sums_of_period", "attempt_sums", ["period"], unique=False)
    op.create_table(
        "durations",
        sa.Column("period", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("overdue", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("micros", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("period", "measure", "status", "overdue"),
    )


def downgrade() -> None:
    op.drop_table("durations")
    op.drop_table("attempt_sums")
    op.drop_table("task_sums")
    op.drop_table("periods")
    op.drop_index("attempts_over", table_name="attempts")
    op.create_index("attempts_by_llm", "attempts", ["llm", "outcome", "finished_at", *_OF_ATTEMPTS], unique=False)
    _index_tasks(["status", "llm", "finished_at", *_OF_TASKS])


def _index_tasks(columns: list[str]) -> None:
    op.drop_index("tasks_over", table_name="tasks", sqlite_where=_IS_OVER, postgresql_where=_IS_OVER)
    op.create_index("tasks_over", "tasks", columns, unique=False, sqlite_where=_IS_OVER, postgresql_where=_IS_OVER)
