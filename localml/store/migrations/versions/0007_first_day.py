"""first day: what a first day with it showed to be missing

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _metrics() -> None:
    """What jobs report is read from their output: how far, and the parameters that they wrote."""
    op.create_table(
        "metric_place",
        sa.Column("workload_id", sa.Integer(), sa.ForeignKey("workload.id"), primary_key=True, nullable=False),
        sa.Column("places", sa.JSON(), nullable=True),
    )
    op.create_table(
        "parameter",
        sa.Column("workload_id", sa.Integer(), sa.ForeignKey("workload.id"), primary_key=True, nullable=False),
        sa.Column("name", sa.String(), primary_key=True, nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sqlite_with_rowid=False,
    )


def _no_metrics() -> None:
    op.drop_table("parameter")
    op.drop_table("metric_place")


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = ((_metrics, _no_metrics),)
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
