"""nouns: what events, series and files are about, whose child a workload is, and what stops and starts again

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

revision = "0004"
down_revision = "0003"

_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = ()
"""(do, undo) of each topic."""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
