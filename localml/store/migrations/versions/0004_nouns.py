"""nouns: what events, series and files are about, whose child a workload is, and what stops and starts again

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0004"
down_revision = "0003"


def _subjects() -> None:
    """Events, series and log files of workloads and endpoints become such of a subject."""
    of_workload = "subject_kind = 'workload', subject_id = workload_id"
    _give("event", ("subject_kind", "subject_id"), "subject_kind = 'platform', subject_id = 0")
    op.execute("UPDATE event SET subject_kind = 'endpoint', subject_id = endpoint_id WHERE endpoint_id IS NOT NULL")
    op.execute(f"UPDATE event SET {of_workload} WHERE workload_id IS NOT NULL")
    with op.batch_alter_table("event") as batch:
        batch.drop_index("ix_event_endpoint_id")
        batch.drop_index("ix_event_workload_id")
        batch.drop_column("endpoint_id")
        _need(batch, "event")
        batch.create_index("ix_event_subject", ["subject_kind", "subject_id", "id"])
        batch.create_index("ix_event_others", ["id"], sqlite_where=sa.text("subject_kind != 'workload'"))
    _give("series", ("subject_kind", "subject_id"), of_workload)
    with op.batch_alter_table("series") as batch:
        batch.drop_index("uq_series")
        _need(batch, "series")
        batch.create_index("uq_series", ["subject_kind", "subject_id", "replica", "name"], unique=True)
    _give("log_file", ("subject_kind", "subject_id"), of_workload)
    with op.batch_alter_table("log_file") as batch:
        batch.drop_index("ix_log_file_workload_id")
        batch.drop_index("uq_log_file")
        batch.alter_column("attempt_id", existing_type=sa.Integer(), nullable=True)
        _need(batch, "log_file")
        batch.create_index("uq_log_file", ["subject_kind", "subject_id", "path"], unique=True)


def _give(table: str, columns: tuple[str, ...], values: str) -> None:
    with op.batch_alter_table(table) as batch:
        for name in columns:
            batch.add_column(sa.Column(name, sa.String() if name == "subject_kind" else sa.Integer(), nullable=True))
    op.execute(f"UPDATE {table} SET {values}")


def _need(batch: BatchOperations, table: str) -> None:
    batch.drop_constraint(f"fk_{table}_workload_id_workload", type_="foreignkey")
    batch.drop_column("workload_id")
    batch.alter_column("subject_kind", existing_type=sa.String(), nullable=False)
    batch.alter_column("subject_id", existing_type=sa.Integer(), nullable=False)


def _no_subjects() -> None:
    """Series and files of other subjects than workloads go; events of what had none become the platform's."""
    op.execute("DELETE FROM sample WHERE series_id IN (SELECT id FROM series WHERE subject_kind != 'workload')")
    for table in ("event", "series", "log_file"):
        if table != "event":
            op.execute(f"DELETE FROM {table} WHERE subject_kind != 'workload' OR {_NOBODYS[table]}")
        columns = ("workload_id", "endpoint_id") if table == "event" else ("workload_id",)
        _give(table, columns, "workload_id = CASE WHEN subject_kind = 'workload' THEN subject_id END")
    op.execute("UPDATE event SET endpoint_id = subject_id WHERE subject_kind = 'endpoint'")
    with op.batch_alter_table("event") as batch:
        batch.drop_index("ix_event_subject")
        batch.drop_index("ix_event_others")
        _need_workload(batch, "event")
        batch.create_index("ix_event_workload_id", ["workload_id", "id"])
        batch.create_index(
            "ix_event_endpoint_id", ["endpoint_id", "id"], sqlite_where=sa.text("endpoint_id IS NOT NULL")
        )
    with op.batch_alter_table("series") as batch:
        batch.drop_index("uq_series")
        _need_workload(batch, "series")
        batch.create_index("uq_series", ["workload_id", "replica", "name"], unique=True)
    with op.batch_alter_table("log_file") as batch:
        batch.drop_index("uq_log_file")
        _need_workload(batch, "log_file")
        batch.alter_column("attempt_id", existing_type=sa.Integer(), nullable=False)
        batch.create_index("ix_log_file_workload_id", ["workload_id"])
        batch.create_index("uq_log_file", ["attempt_id", "stream"], unique=True)


_NOBODYS = {"series": "0", "log_file": "attempt_id IS NULL"}
"""What else the schema before has no place for."""


def _need_workload(batch: BatchOperations, table: str) -> None:
    batch.drop_column("subject_kind")
    batch.drop_column("subject_id")
    batch.create_foreign_key(f"fk_{table}_workload_id_workload", "workload", ["workload_id"], ["id"])
    batch.alter_column("workload_id", existing_type=sa.Integer(), nullable=table == "event")


def _nodes() -> None:
    """GPUs of two machines may have one name."""
    _remake_marks("gpu", "node")


def _no_nodes() -> None:
    op.execute("DELETE FROM gpu_mark WHERE node != 'local'")
    _remake_marks("gpu")


def _remake_marks(*keys: str) -> None:
    """The table of marked GPUs with another primary key, which SQLite cannot change in place."""
    op.rename_table("gpu_mark", "gpu_mark_before")
    op.create_table(
        "gpu_mark",
        sa.Column("gpu", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("fenced", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint(*keys, name="pk_gpu_mark"),
    )
    op.execute("INSERT INTO gpu_mark SELECT gpu, node, reason, fenced, at FROM gpu_mark_before")
    op.drop_table("gpu_mark_before")


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
    (_subjects, _no_subjects),
    (_nodes, _no_nodes),
)
"""(do, undo) of each topic."""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
