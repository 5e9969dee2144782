"""variants that are brought up in place of others"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("variant") as batch:
        batch.add_column(sa.Column("recreate", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("variant") as batch:
        batch.drop_column("recreate")
