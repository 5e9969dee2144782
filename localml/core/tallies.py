"""Sums over all workloads and log files, kept by the database as rows come, change and go.

What asks how many there are (metrics, status, pools, quotas) so costs the same with a hundred thousand of them. The
triggers are part of the schema: no write can leave them out, and a write that is rolled back takes its part back.
"""

from __future__ import annotations

from sqlalchemy import DDL, event
from sqlmodel import Field, Session, SQLModel

from localml.core.logs.tables import LogFile
from localml.core.sql import reader_of, table_of
from localml.core.work.tables import Workload


class WorkloadTally(SQLModel, table=True):
    """How many workloads of a kind, state and pool there are, deleted ones too, and what they ask for together."""

    __tablename__ = "workload_tally"
    __table_args__ = ({"sqlite_with_rowid": False},)

    kind: str = Field(primary_key=True)
    state: str = Field(primary_key=True)
    pool: str = Field(primary_key=True)
    number: int
    cpu: float  # cores
    memory: int  # bytes
    gpu: float


class LogTally(SQLModel, table=True):
    """How many log files are kept, and their bytes; one row, once there was one."""

    __tablename__ = "log_tally"

    id: int = Field(primary_key=True)
    files: int
    bytes: int


_ONE_MORE = (
    "INSERT INTO workload_tally VALUES (NEW.kind, NEW.state, NEW.pool, 1, NEW.cpu, NEW.memory, NEW.gpu)"
    " ON CONFLICT DO UPDATE SET number = number + 1, cpu = cpu + excluded.cpu, memory = memory + excluded.memory,"
    " gpu = gpu + excluded.gpu;"
)
# sums of fractions that were added and taken away again are not exactly nothing; those of nobody are
_ONE_LESS = (
    "UPDATE workload_tally SET number = number - 1, cpu = iif(number = 1, 0, cpu - OLD.cpu),"
    " memory = iif(number = 1, 0, memory - OLD.memory), gpu = iif(number = 1, 0, gpu - OLD.gpu)"
    " WHERE kind = OLD.kind AND state = OLD.state AND pool = OLD.pool;"
)
_FILE_MORE = (
    "INSERT INTO log_tally SELECT 1, 1, NEW.size WHERE NEW.pruned_at IS NULL"
    " ON CONFLICT DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;"
)
_FILE_LESS = "UPDATE log_tally SET files = files - 1, bytes = bytes - OLD.size WHERE OLD.pruned_at IS NULL;"

TRIGGERS = {
    "tally_workload_insert": f"AFTER INSERT ON workload BEGIN {_ONE_MORE} END",
    "tally_workload_delete": f"AFTER DELETE ON workload BEGIN {_ONE_LESS} END",
    "tally_workload_update": "AFTER UPDATE OF kind, state, pool, cpu, memory, gpu ON workload"
    f" BEGIN {_ONE_LESS} {_ONE_MORE} END",
    "tally_log_insert": f"AFTER INSERT ON log_file BEGIN {_FILE_MORE} END",
    "tally_log_delete": f"AFTER DELETE ON log_file BEGIN {_FILE_LESS} END",
    "tally_log_update": f"AFTER UPDATE OF size, pruned_at ON log_file BEGIN {_FILE_LESS} {_FILE_MORE} END",
}
"""Name -> what it does. A migration that makes ``workload`` or ``log_file`` anew has to make these anew, too."""

for _model in (Workload, LogFile):
    for _name, _text in TRIGGERS.items():
        if f"ON {table_of(_model).name} " in _text:
            _ddl = DDL(f"CREATE TRIGGER {_name} {_text}")  # type: ignore[no-untyped-call]
            event.listen(table_of(_model), "after_create", _ddl)


def count_workloads(session: Session) -> dict[tuple[str, str], int]:
    """(kind, state) -> how many workloads that are not pruned."""
    query = "SELECT kind, state, sum(number) FROM workload_tally GROUP BY kind, state HAVING sum(number) > 0"
    return {(kind, state): int(number) for kind, state, number in reader_of(session).execute(query)}


def count_logs(session: Session) -> tuple[int, int]:
    """(files, bytes) of output that is recorded as kept; a running container's files count from its end on."""
    found = reader_of(session).execute("SELECT files, bytes FROM log_tally").fetchone()
    return found or (0, 0)
