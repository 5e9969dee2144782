"""first day: what a first day with it showed to be missing

Each topic is a function of its own and its reverse; they are undone in the opposite order.
"""

from collections.abc import Callable

revision = "0007"
down_revision = "0006"

_TOPICS: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = ()
"""(do, undo)"""


def upgrade() -> None:
    for do, _ in _TOPICS:
        do()


def downgrade() -> None:
    for _, undo in reversed(_TOPICS):
        undo()
