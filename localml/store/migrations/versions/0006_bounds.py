"""bounds: what a program's end gives back at once, and what keeps the data directory small

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def _exits() -> None:
    """A program's exit is known before its output is complete."""
    op.add_column("attempt", sa.Column("exited_at", sa.Float(), nullable=True))


def _no_exits() -> None:
    op.drop_column("attempt", "exited_at")


_REFERRING = (("log_file", "attempt_id"), ("gpu_lease", "workload_id"))


def _indexes() -> None:
    """Removing a row looks for those that refer to it: without an index at all of them."""
    for table, column in _REFERRING:
        op.create_index(f"ix_{table}_{column}", table, [column])


def _no_indexes() -> None:
    for table, column in _REFERRING:
        op.drop_index(f"ix_{table}_{column}", table)


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
    (_exits, _no_exits),
    (_indexes, _no_indexes),
)
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
