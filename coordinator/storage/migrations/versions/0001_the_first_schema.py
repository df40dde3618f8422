"""The first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("task_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("assigned_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("duration", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("task_seq", "attempt"),
    )
    op.create_index(
        "attempts_by_llm",
        "attempts",
        [
            "llm",
            "outcome",
            "finished_at",
            "submitted_at",
            "started_at",
            "duration",
            "input_tokens",
            "output_tokens",
            "cost_nanos",
            "error_type",
        ],
        unique=False,
    )
    op.create_table(
        "dependencies",
        sa.Column("depends_on", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("met", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("depends_on", "task_id"),
    )
    op.create_index("dependencies_of", "dependencies", ["task_id"], unique=False)
    op.create_table(
        "labels",
        sa.Column("task_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("task_seq", "label"),
        sqlite_with_rowid=False,
    )
    op.create_index("labels_by_label", "labels", ["label", "task_seq"], unique=False)
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "llm_slots",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("llm", "at"),
    )
    op.create_table(
        "llms",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("skills", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.Column("told_skills", sa.Text(), nullable=False),
        sa.Column("skills_given", sa.Text(), nullable=True),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("slots_limit", sa.Integer(), nullable=True),
        sa.Column("learned", sa.Text(), nullable=False),
        sa.Column("instances", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "messages",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("in_reply_to", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("messages_by_id", "messages", ["id"], unique=True)
    op.create_index("messages_from", "messages", ["sender", "seq"], unique=False)
    op.create_index("messages_of_conversation", "messages", ["conversation_id", "seq"], unique=False)
    op.create_index("messages_to", "messages", ["receiver", "seq"], unique=False)
    op.create_table(
        "notes",
        sa.Column("board", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("board", "name"),
    )
    op.create_table(
        "outbox",
        sa.Column("batch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch"),
    )
    op.create_table(
        "reports",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("saved_by", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "skills",
        sa.Column("task_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("skill", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("task_seq", "skill"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tasks",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due_order", sa.BigInteger(), nullable=False),
        sa.Column("assignee", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("conversation_id", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Text(), nullable=True),
        sa.Column("reply_to", sa.Text(), nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("waiting_on", sa.Integer(), nullable=False),
        sa.Column("context_length", sa.Integer(), nullable=False),
        sa.Column("wake_at", sa.BigInteger(), nullable=True),
        sa.Column("overdue", sa.SmallInteger(), nullable=False),
        sa.Column("parked", sa.SmallInteger(), nullable=False),
        sa.Column("asking_since", sa.BigInteger(), nullable=True),
        sa.Column("person_wait", sa.BigInteger(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=True),
        sa.Column("instance", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("ready_at", sa.BigInteger(), nullable=True),
        sa.Column("assigned_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("duration", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("questions", sa.Text(), nullable=True),
        sa.Column("history", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("tasks_by_id", "tasks", ["id"], unique=True)
    op.create_index("tasks_by_status", "tasks", ["status", "seq", "submitted_at"], unique=False)
    op.create_index(
        "tasks_due",
        "tasks",
        ["due_order"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL AND overdue = 0 AND due_order < 4611686018427387904"),
        postgresql_where=sa.text("finished_at IS NULL AND overdue = 0 AND due_order < 4611686018427387904"),
    )
    op.create_index(
        "tasks_of_llm",
        "tasks",
        ["llm", "seq"],
        unique=False,
        sqlite_where=sa.text("llm IS NOT NULL"),
        postgresql_where=sa.text("llm IS NOT NULL"),
    )
    op.create_index(
        "tasks_of_parent",
        "tasks",
        ["parent_id", "seq"],
        unique=False,
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "tasks_over",
        "tasks",
        [
            "status",
            "llm",
            "finished_at",
            "submitted_at",
            "ready_at",
            "started_at",
            "duration",
            "person_wait",
            "due_order",
            "priority",
        ],
        unique=False,
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "tasks_ready",
        "tasks",
        ["status", "lane", sa.literal_column("priority DESC"), "due_order", "seq"],
        unique=False,
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "tasks_waking",
        "tasks",
        ["wake_at"],
        unique=False,
        sqlite_where=sa.text("wake_at IS NOT NULL AND waiting_on = 0"),
        postgresql_where=sa.text("wake_at IS NOT NULL AND waiting_on = 0"),
    )


def downgrade() -> None:
    op.drop_index(
        "tasks_waking",
        table_name="tasks",
        sqlite_where=sa.text("wake_at IS NOT NULL AND waiting_on = 0"),
        postgresql_where=sa.text("wake_at IS NOT NULL AND waiting_on = 0"),
    )
    op.drop_index(
        "tasks_ready",
        table_name="tasks",
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_index(
        "tasks_of_parent",
        table_name="tasks",
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.drop_index(
        "tasks_of_llm",
        table_name="tasks",
        sqlite_where=sa.text("llm IS NOT NULL"),
        postgresql_where=sa.text("llm IS NOT NULL"),
    )
    op.drop_index(
        "tasks_due",
        table_name="tasks",
        sqlite_where=sa.text("finished_at IS NULL AND overdue = 0 AND due_order < 4611686018427387904"),
        postgresql_where=sa.text("finished_at IS NULL AND overdue = 0 AND due_order < 4611686018427387904"),
    )
    op.drop_index(
        "tasks_over",
        table_name="tasks",
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.drop_index("tasks_by_status", table_name="tasks")
    op.drop_index("tasks_by_id", table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("skills")
    op.drop_table("reports")
    op.drop_table("outbox")
    op.drop_table("notes")
    op.drop_index("messages_to", table_name="messages")
    op.drop_index("messages_of_conversation", table_name="messages")
    op.drop_index("messages_from", table_name="messages")
    op.drop_index("messages_by_id", table_name="messages")
    op.drop_table("messages")
    op.drop_table("llms")
    op.drop_table("llm_slots")
    op.drop_table("leader")
    op.drop_index("labels_by_label", table_name="labels")
    op.drop_table("labels")
    op.drop_index("dependencies_of", table_name="dependencies")
    op.drop_table("dependencies")
    op.drop_index("attempts_by_llm", table_name="attempts")
    op.drop_table("attempts")
