"""rights: owners by number, and buckets that are somebody's

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

import time
from collections.abc import Callable
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def _keys() -> None:
    """Key pairs have names and say when they were used; users count how often their credentials were ended."""
    op.add_column("access_key", sa.Column("name", sa.String(), nullable=False, server_default=""))
    op.add_column("access_key", sa.Column("made_by", sa.String(), nullable=False, server_default=""))
    op.add_column("access_key", sa.Column("used_at", sa.Float(), nullable=True))
    op.add_column("token", sa.Column("made_by", sa.String(), nullable=False, server_default=""))
    op.add_column("user", sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))


def _no_keys() -> None:
    op.drop_column("user", "generation")
    op.drop_column("token", "made_by")
    for column in ("used_at", "made_by", "name"):
        op.drop_column("access_key", column)


_OWNED = ("workload", "instance", "endpoint", "model", "model_version", "workspace")
"""What says who its owner is."""
_ROWS = " UNION ALL ".join(f"SELECT owner, owner_id, created_at FROM {table}" for table in _OWNED)


def _owners() -> None:
    """Whatever has an owner knows the user's number; those who are gone get one, as users that were removed.

    A name is a living user's if what has it came after the user: another user may have had it before.
    """
    with op.batch_alter_table("user") as batch:
        batch.drop_constraint("uq_user_name", type_="unique")
        batch.add_column(sa.Column("removed_at", sa.Float(), nullable=True))
        batch.create_index("uq_user_live_name", ["name"], unique=True, sqlite_where=sa.text("removed_at IS NULL"))
    for table in _OWNED:
        op.add_column(table, sa.Column("owner_id", sa.Integer(), nullable=False, server_default="0"))
        known = f"user.created_at <= {table}.created_at OR user.name = 'admin'{_OWN.get(table, '').format(table)}"
        op.execute(
            f"UPDATE {table} SET owner_id = coalesce("
            f"(SELECT id FROM user WHERE user.name = {table}.owner AND removed_at IS NULL AND ({known})), 0)"
        )
    # when they came is not known: everything that they made is later
    op.execute(
        sa.text(
            "INSERT INTO user (name, password_hash, admin, workspace, org, created_at, removed_at)"
            " SELECT owner, '', 0, coalesce((SELECT id FROM workspace WHERE personal AND owner_id = 0"
            " AND owner = gone.owner ORDER BY created_at LIMIT 1), ''), '', 0, :now"
            f" FROM (SELECT DISTINCT owner FROM ({_ROWS}) WHERE owner_id = 0 ORDER BY owner) AS gone"
        ).bindparams(now=time.time())
    )
    for table in _OWNED:
        op.execute(
            f"UPDATE {table} SET owner_id = (SELECT id FROM user WHERE name = {table}.owner AND removed_at IS NOT NULL)"
            " WHERE owner_id = 0"
        )


_OWN = {
    **dict.fromkeys(("workload", "instance", "endpoint", "model"), " OR user.workspace = {0}.workspace"),
    "workspace": " OR user.id IN (SELECT user_id FROM membership WHERE membership.workspace = workspace.id)",
}
"""What else shows that a user of the name has something."""


def _no_owners() -> None:
    for table in _OWNED:
        op.drop_column(table, "owner_id")
    op.execute("DELETE FROM user WHERE removed_at IS NOT NULL")
    with op.batch_alter_table("user") as batch:
        batch.drop_index("uq_user_live_name")
        batch.drop_column("removed_at")
        batch.create_unique_constraint("uq_user_name", ["name"])


_API = "openpai"
_SHARED = f"FROM workspace WHERE id = '{_API}' AND origin = 'cloudml'"
"""The organisation of Cloud-ML that bears the name of OpenPAI's own workspace, if there is one."""


def _apart() -> None:
    """OpenPAI's jobs leave an organisation of Cloud-ML called 'openpai', which had been opened to all users for them."""
    found = f"EXISTS (SELECT 1 {_SHARED} AND everyone = 'member')"
    new = uuid4().hex
    op.execute(
        "INSERT INTO workspace (id, name, description, owner, owner_id, personal, everyone, origin, created_at,"
        f" updated_at) SELECT '{new}', '{_API} ({_API})', '', 'admin', coalesce((SELECT id FROM user WHERE name = 'admin'"
        f" AND removed_at IS NULL), 0), 0, 'member', '{_API}', created_at, updated_at {_SHARED} AND everyone = 'member'"
    )
    op.execute(f"UPDATE workload SET workspace = '{new}' WHERE dialect = '{_API}' AND workspace = '{_API}' AND {found}")
    op.execute(f"UPDATE workspace SET everyone = NULL WHERE id = '{_API}' AND {found}")


def _together() -> None:
    """As the version before has it: in one workspace, and open to all."""
    own = f"origin = '{_API}' AND id != '{_API}' AND EXISTS (SELECT 1 {_SHARED})"
    op.execute(
        f"UPDATE workload SET workspace = '{_API}' WHERE workspace IN (SELECT id FROM workspace AS w WHERE {own})"
    )
    op.execute(
        f"UPDATE workspace SET everyone = 'member' WHERE id = '{_API}' AND EXISTS (SELECT 1 FROM workspace AS w"
        f" WHERE {own})"
    )
    op.execute(f"DELETE FROM workspace WHERE {own}")


def _services() -> None:
    """Services of Cloud-ML are open on loopback, and no more than that: they kept what the server listened on then."""
    op.get_bind().exec_driver_sql(_rename.format(old="public", new="open_here"))


def _no_services() -> None:
    op.get_bind().exec_driver_sql(_rename.format(old="open_here", new="public"))


_rename = """
UPDATE endpoint SET spec = replace(spec, '"{old}":true', '"{new}":true')
WHERE dialect = 'cloudml' AND json_extract(spec, '$.{old}')
"""


def _buckets() -> None:
    """Buckets are in workspaces; a workload carries what was decided about what it may see. The server's next start
    says whose the buckets are that there are (``localml/objects/access.py``); what waits is decided before it starts.
    """
    op.create_table(
        "bucket",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("everyone", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["workspace"], ["workspace.id"], name="fk_bucket_workspace_workspace"),
        sa.PrimaryKeyConstraint("id", name="pk_bucket"),
        sa.UniqueConstraint("name", name="uq_bucket_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bucket_workspace", "bucket", ["workspace"])
    op.add_column("workload_detail", sa.Column("grants", sa.String(), nullable=True))


def _no_buckets() -> None:
    op.drop_column("workload_detail", "grants")
    op.drop_table("bucket")


_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
    (_keys, _no_keys),
    (_owners, _no_owners),
    (_apart, _together),
    (_services, _no_services),
    (_buckets, _no_buckets),
)
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
