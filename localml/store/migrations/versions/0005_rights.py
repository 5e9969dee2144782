"""rights: owners by number, and buckets that are somebody's

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

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


def _services() -> None:
    """Services of Cloud-ML are open on loopback, and no more than that: they kept what the server listened on then."""
    op.get_bind().exec_driver_sql(_rename.format(old="public", new="open_here"))


def _no_services() -> None:
    op.get_bind().exec_driver_sql(_rename.format(old="open_here", new="public"))


_rename = """
UPDATE endpoint SET spec = replace(spec, '"{old}":true', '"{new}":true')
WHERE dialect = 'cloudml' AND json_extract(spec, '$.{old}')
"""
_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = ((_keys, _no_keys), (_services, _no_services))
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
