"""first day: what a first day with it showed to be missing

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_HANDLES = {"docker": '{"id"%', "process": '{"directory"%'}


def _engines() -> None:
    """Which engine has an attempt; what is there already tells it by its engine's note."""
    op.add_column("attempt", sa.Column("engine", sa.String(), nullable=False, server_default=""))
    for engine, handle in _HANDLES.items():
        query = sa.text("UPDATE attempt SET engine = :engine WHERE removed = 0 AND handle LIKE :handle")
        op.get_bind().execute(query, {"engine": engine, "handle": handle})


def _no_engines() -> None:
    op.drop_column("attempt", "engine")


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


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
    (_engines, _no_engines),
    (_metrics, _no_metrics),
)
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
