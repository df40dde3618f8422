"""The model that had each attempt, and the earlier results of tasks that were retried"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_WITH_A_MODEL = ("tasks", "attempts", "task_sums", "attempt_sums")


def upgrade() -> None:
    for table in _WITH_A_MODEL:
        op.add_column(table, sa.Column("model", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("result", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "result")
    for table in _WITH_A_MODEL:
        op.drop_column(table, "model")
