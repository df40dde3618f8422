"""The health of LLMs, rate limits, budgets, and the usage of attempts in full"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_USED = ("cached_tokens", "cache_write_tokens", "reasoning_tokens", "requests")
_TASK_SUMS = ("done", "accepted")
_ATTEMPT_SUMS = ("unknown_cost", "paced_tokens", "paced_time")


def upgrade() -> None:
    for table in ("tasks", "attempts", "attempt_sums"):
        for column in _USED:
            op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=True))
    for table in ("tasks", "attempts"):
        op.add_column(table, sa.Column("models", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("charged_nanos", sa.BigInteger(), nullable=True))
    op.add_column("attempts", sa.Column("charged_tokens", sa.BigInteger(), nullable=True))
    op.add_column("tasks", sa.Column("reserved_nanos", sa.BigInteger(), nullable=True))
    op.add_column("tasks", sa.Column("reserved_tokens", sa.BigInteger(), nullable=True))
    op.add_column("tasks", sa.Column("charged_to", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("waits_for", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("accepted", sa.SmallInteger(), nullable=True))
    for column in _TASK_SUMS:
        op.add_column("task_sums", sa.Column(column, sa.BigInteger(), nullable=True))
    for column in _ATTEMPT_SUMS:
        op.add_column("attempt_sums", sa.Column(column, sa.BigInteger(), nullable=True))
    several = sa.text("models IS NOT NULL")
    op.create_index("attempts_of_models", "attempts", ["finished_at"], sqlite_where=several, postgresql_where=several)
    waits = sa.text("waits_for IS NOT NULL")
    op.create_index("tasks_of_budget", "tasks", ["waits_for"], sqlite_where=waits, postgresql_where=waits)
    op.add_column("llms", sa.Column("properties", sa.Text(), nullable=True))
    op.add_column("llms", sa.Column("health", sa.Text(), nullable=True))
    op.create_table(
        "limits",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("definition", sa.Text(), nullable=False),
    )
    op.create_table(
        "budget_accounts",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), primary_key=True),
        sa.Column("since", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("is_open", sa.SmallInteger(), nullable=False),
        sa.Column("usd_nanos", sa.BigInteger(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("runs", sa.BigInteger(), nullable=True),
        sa.Column("spent_nanos", sa.BigInteger(), nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent_runs", sa.BigInteger(), nullable=False),
        sa.Column("unknown_runs", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    for table in ("settings", "budget_accounts", "budgets", "limits"):
        op.drop_table(table)
    op.drop_column("llms", "health")
    op.drop_column("llms", "properties")
    op.drop_index("tasks_of_budget", "tasks")
    op.drop_index("attempts_of_models", "attempts")
    for column in _ATTEMPT_SUMS:
        op.drop_column("attempt_sums", column)
    for column in _TASK_SUMS:
        op.drop_column("task_sums", column)
    for column in ("accepted", "waits_for", "charged_to", "reserved_tokens", "reserved_nanos"):
        op.drop_column("tasks", column)
    for column in ("charged_tokens", "charged_nanos"):
        op.drop_column("attempts", column)
    for table in ("tasks", "attempts"):
        op.drop_column(table, "models")
    for table in ("tasks", "attempts", "attempt_sums"):
        for column in _USED:
            op.drop_column(table, column)
