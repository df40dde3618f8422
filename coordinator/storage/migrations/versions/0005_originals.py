"""The submissions of tasks as they came, where they were changed since"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("original", sa.Text(), nullable=True))
    op.execute("update tasks set original = 'null' where history is not null")  # they may have been changed


def downgrade() -> None:
    op.drop_column("tasks", "original")
