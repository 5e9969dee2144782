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


_IN_WORKSPACES = ("user", "workload", "endpoint", "model")
"""What had a project."""


def _people() -> None:
    """Every project (a user's own, an organisation, a dialect's one) becomes the workspace of that id."""
    op.create_table(
        "workspace",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("personal", sa.Boolean(), nullable=False),
        sa.Column("everyone", sa.String(), nullable=True),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace")),
    )
    live = sa.text("deleted_at IS NULL AND personal = 0")
    op.create_index("uq_workspace_live_name", "workspace", ["name"], unique=True, sqlite_where=live)
    op.create_table(
        "membership",
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["workspace"], ["workspace.id"], name=op.f("fk_membership_workspace_workspace")),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_membership_user_id_user")),
        sa.PrimaryKeyConstraint("workspace", "user_id", name=op.f("pk_membership")),
    )
    op.create_index(op.f("ix_membership_user_id"), "membership", ["user_id"])
    for statement in _CONVERT:
        op.execute(statement)
    _rename("project", "workspace")
    with op.batch_alter_table("token") as batch:
        batch.add_column(sa.Column("name", sa.String(), nullable=False, server_default=""))
        batch.add_column(sa.Column("scope", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("used_at", sa.Float(), nullable=True))


_NEW = (
    "INSERT OR IGNORE INTO workspace"
    " (id, name, description, owner, personal, everyone, origin, created_at, updated_at) "
)
_OWN = "length(project) = 32 AND project NOT GLOB '*[^0-9a-f]*'"
"""Whether a project was some user's own."""
_ROWS = " UNION ALL ".join(
    f"SELECT project, {dialect}, owner, created_at FROM {table}"
    for table, dialect in (("workload", "dialect"), ("endpoint", "dialect"), ("model", "'native' AS dialect"))
)

_CONVERT = (
    # users' own
    _NEW + "SELECT project, name, '', name, 1, NULL, 'native', created_at, created_at FROM user",
    # organisations of Cloud-ML's users; the oldest administrator among them owns one, or else the oldest user
    _NEW + "SELECT org, org, '',"
    " (SELECT name FROM user AS one WHERE one.org = user.org ORDER BY admin DESC, id LIMIT 1),"
    " 0, NULL, 'cloudml', min(created_at), min(created_at) FROM user WHERE org <> '' GROUP BY org",
    # the one project of all OpenPAI jobs, who each see all and change their own
    _NEW + "SELECT project, project, '', 'admin', 0, NULL, dialect, min(created_at), min(created_at)"
    " FROM workload WHERE dialect = 'openpai' AND project = 'openpai' GROUP BY project",
    "UPDATE workspace SET everyone = 'member'"
    " WHERE id IN (SELECT project FROM workload WHERE dialect = 'openpai' AND project = 'openpai')",
    # own projects of users, and organisations, that are gone
    _NEW + f"SELECT project, CASE WHEN {_OWN} THEN owner ELSE project END, '', owner, {_OWN}, NULL, dialect,"
    f" min(created_at), min(created_at) FROM ({_ROWS}) GROUP BY project",
    "INSERT INTO membership (workspace, user_id, role, created_at) SELECT project, id, 'owner', created_at FROM user",
    "INSERT OR IGNORE INTO membership (workspace, user_id, role, created_at)"
    " SELECT org, id, CASE WHEN admin THEN 'owner' ELSE 'editor' END, created_at FROM user WHERE org <> ''",
)


def _rename(old: str, new: str) -> None:
    indexes = (
        ("ix_user_%s", "user", [new]),
        ("ix_workload_dialect_kind_%s", "workload", ["dialect", "kind", new, "id"]),
        ("ix_workload_%s_id", "workload", [new, "id"]),
    )
    for name, table, _ in indexes:
        op.drop_index(name % old, table_name=table)
    for table in _IN_WORKSPACES:
        # keeps the rows where they are, and follows in the other indexes
        op.execute(f'ALTER TABLE "{table}" RENAME COLUMN {old} TO {new}')
    for name, table, columns in indexes:
        op.create_index(name % new, table, columns)


def _no_people() -> None:
    with op.batch_alter_table("token") as batch:
        for name in ("used_at", "scope", "name"):
            batch.drop_column(name)
    _rename("workspace", "project")
    op.drop_table("membership")
    op.drop_table("workspace")


def _parents() -> None:
    """Workloads may be children; replicas are those of their variants."""
    with op.batch_alter_table("workload") as batch:
        batch.add_column(sa.Column("parent_kind", sa.String(), nullable=True))
        batch.add_column(sa.Column("parent_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("parent_index", sa.Integer(), nullable=True))
    op.execute(_REPLICAS)
    child = sa.text("parent_kind IS NOT NULL")
    with op.batch_alter_table("workload") as batch:
        batch.drop_index("uq_workload_live_name")
        batch.create_index(
            "uq_workload_live_name",
            _NAMED,
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL AND parent_kind IS NULL"),
        )
        batch.create_index(
            "uq_workload_parent", ["parent_kind", "parent_id", "parent_index"], unique=True, sqlite_where=child
        )
        batch.create_index("ix_workload_parent_id", ["parent_kind", "parent_id", "id"], sqlite_where=child)


_NAMED = ["dialect", "workspace", "kind", "name", "version"]
_REPLICAS = (
    "UPDATE workload SET parent_kind = 'variant', parent_id = variant_id, parent_index = number FROM"
    " (SELECT workload_id, variant_id, row_number() OVER (PARTITION BY variant_id ORDER BY id) AS number"
    " FROM endpoint_replica) WHERE id = workload_id"
)


def _no_parents() -> None:
    """Names of children, which need not be free, get their number into their version."""
    op.execute(
        "UPDATE workload SET version = version || '#' || id WHERE parent_kind IS NOT NULL AND parent_kind != 'variant'"
    )
    with op.batch_alter_table("workload") as batch:
        batch.drop_index("ix_workload_parent_id")
        batch.drop_index("uq_workload_parent")
        batch.drop_index("uq_workload_live_name")
    for name in ("parent_index", "parent_id", "parent_kind"):
        op.execute(f"ALTER TABLE workload DROP COLUMN {name}")  # made anew, it would count its ids from 1 again
    live = sa.text("deleted_at IS NULL")
    op.create_index("uq_workload_live_name", "workload", _NAMED, unique=True, sqlite_where=live)


def _variant_sets() -> None:
    op.add_column("variant", sa.Column("batch", sa.Integer(), nullable=True))
    op.add_column("variant", sa.Column("leaves", sa.JSON(), nullable=True))


def _no_variant_sets() -> None:
    op.drop_column("variant", "leaves")
    op.drop_column("variant", "batch")


def _instances() -> None:
    """Notebooks and TensorBoards, until now workloads that replaced each other, become runs of an instance."""
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in _INSTANCE_TEXTS),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=True),
        sa.Column("workload_id", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["workload_id"], ["workload.id"], name="fk_instance_workload_id_workload"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
    )
    op.create_index("uq_instance_workload_id", "instance", ["workload_id"], unique=True)
    op.create_index("ix_instance_name", "instance", ["name"])
    op.create_index("ix_instance_pending", "instance", ["id"], sqlite_where=sa.text("asked > run"))
    names = ", ".join(_INSTANCE_TEXTS)
    op.execute(
        f"INSERT INTO instance (id, {names}, spec, request, workload_id, run, asked, message, created_at, updated_at)"
        f" SELECT id, {names}, spec, request, id, 1, 1, '', created_at, updated_at"
        " FROM workload JOIN workload_detail ON workload_id = id"
        " WHERE kind IN ('notebook', 'tensorboard') AND deleted_at IS NULL ORDER BY id"
    )
    op.execute(
        "UPDATE workload SET parent_kind = 'instance', parent_id = id, parent_index = 1"
        " WHERE id IN (SELECT workload_id FROM instance)"
    )


_INSTANCE_TEXTS = ("kind", "dialect", "workspace", "owner", "name", "pool")


def _no_instances() -> None:
    """Of each the newest run stays, under its name."""
    op.execute(
        "UPDATE workload SET parent_kind = NULL, parent_id = NULL, parent_index = NULL WHERE parent_kind = 'instance'"
    )
    op.drop_table("instance")


def _tallies() -> None:
    """Sums over workloads and log files, kept by triggers; after everything that makes those tables anew."""
    op.create_table(
        "workload_tally",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "state", "pool")),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cpu", sa.Float(), nullable=False),
        sa.Column("memory", sa.Integer(), nullable=False),
        sa.Column("gpu", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "state", "pool", name="pk_workload_tally"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_tally",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_tally"),
    )
    op.execute(
        "INSERT INTO workload_tally SELECT kind, state, pool, count(*), sum(cpu), sum(memory), sum(gpu)"
        " FROM workload GROUP BY kind, state, pool"
    )
    op.execute("INSERT INTO log_tally SELECT 1, count(*), coalesce(sum(size), 0) FROM log_file WHERE pruned_at IS NULL")
    for name, text in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {text}")


_ONE_MORE = (
    "INSERT INTO workload_tally VALUES (NEW.kind, NEW.state, NEW.pool, 1, NEW.cpu, NEW.memory, NEW.gpu)"
    " ON CONFLICT DO UPDATE SET number = number + 1, cpu = cpu + excluded.cpu, memory = memory + excluded.memory,"
    " gpu = gpu + excluded.gpu;"
)
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
_TRIGGERS = {
    "tally_workload_insert": f"AFTER INSERT ON workload BEGIN {_ONE_MORE} END",
    "tally_workload_delete": f"AFTER DELETE ON workload BEGIN {_ONE_LESS} END",
    "tally_workload_update": "AFTER UPDATE OF kind, state, pool, cpu, memory, gpu ON workload"
    f" BEGIN {_ONE_LESS} {_ONE_MORE} END",
    "tally_log_insert": f"AFTER INSERT ON log_file BEGIN {_FILE_MORE} END",
    "tally_log_delete": f"AFTER DELETE ON log_file BEGIN {_FILE_LESS} END",
    "tally_log_update": f"AFTER UPDATE OF size, pruned_at ON log_file BEGIN {_FILE_LESS} {_FILE_MORE} END",
}


def _no_tallies() -> None:
    for name in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name}")
    op.drop_table("workload_tally")
    op.drop_table("log_tally")


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
    (_subjects, _no_subjects),
    (_nodes, _no_nodes),
    (_people, _no_people),
    (_parents, _no_parents),
    (_variant_sets, _no_variant_sets),
    (_instances, _no_instances),
    (_tallies, _no_tallies),
)
"""(do, undo) of each topic."""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
