"""Jobs whose output is known in advance, and which notice themselves when they run twice.

Each run of a replica first locks a file of its replica, then one for each of its GPUs, then adds a line to the
ledger: a second run of the same attempt, two tries that overlap, or a GPU with two owners thus leave a trace in the
real world, whatever the database says.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TWO_RUN, TWO_ON_GPU = 98, 97
"""Exit codes of a replica that found another run of itself, or another owner of its GPU, alive."""

_PROLOGUE = """
me=$LOCALML_NAME-$LOCALML_ROLE-$LOCALML_INDEX
{locks}
echo "$me-$LOCALML_ATTEMPT" >> {ledger}/ledger
"""
_LOCKS = f"""
exec 8>>{{ledger}}/$me; flock -n 8 || exit {TWO_RUN}
if [ "$NVIDIA_VISIBLE_DEVICES" != void ]; then
  exec 9>>{{ledger}}/gpu-$NVIDIA_VISIBLE_DEVICES; flock -n 9 || exit {TWO_ON_GPU}
fi
"""
# The words of each run: which replica and try it is, bytes that are no text, and a last line that does not end.
_HELLO = r"""printf '%s try %s\n\000\377\200\r\n' "$me" "$LOCALML_ATTEMPT"; printf 'to stderr \376\n' >&2"""
_BYE = r"bye() { printf 'last words, no newline \303'; printf 'E' >&2; }"
_LINES = r"""i=0; while [ $i -lt {count} ]; do printf '%d \201\000\n' $i; {pause}; i=$((i+1)); done"""


@dataclass(frozen=True)
class Kind:
    """A sort of job. ``tries`` run when it is left alone, and it then ends in ``state``; endless ones never do, but say
    farewell when they are stopped.

    ``more`` is what it does besides, in a shell, by which it writes ``out`` and ``err``. A child that it leaves behind
    may add ``late`` to its standard output.
    """

    name: str
    lines: int = 0
    pause: str = ":"
    count: int = 1
    gpu: float = 0
    exit_code: int = 0
    tries: int = 1
    endless: bool = False
    more: str = ":"
    out: bytes = b""
    err: bytes = b""
    late: bytes = b""

    @property
    def state(self) -> str:
        return "failed" if self.exit_code else "succeeded"

    def script(self, ledger: str, *, locks: bool) -> str:
        """The program, for a shell."""
        end = "trap 'bye; exit 0' TERM; sleep 3000 & wait" if self.endless else f"bye; exit {self.exit_code}"
        head = _PROLOGUE.format(ledger=ledger, locks=_LOCKS.format(ledger=ledger) if locks else "")
        return "\n".join([head, _BYE, _HELLO, _LINES.format(count=self.lines, pause=self.pause), self.more, end])

    def output(self, workload: str, index: int, attempt: int) -> dict[str, bytes]:
        """What a whole run of one replica writes, without ``late``."""
        lines = b"".join(b"%d \x81\x00\n" % number for number in range(self.lines))
        hello = f"{workload}-main-{index} try {attempt}\n".encode() + b"\x00\xff\x80\r\n"
        words = hello + lines + self.out + b"last words, no newline \xc3"
        return {"stdout": words, "stderr": b"to stderr \xfe\n" + self.err + b"E"}


def _numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("quick", lines=3),
        Kind("writer", lines=60, pause="sleep 0.03"),
        Kind("gang", lines=15, pause="sleep 0.02", count=2),
        Kind("gpu", lines=10, pause="sleep 0.02", gpu=1),
        Kind("gpus", lines=10, pause="sleep 0.02", gpu=1, count=2),
        Kind("failing", lines=2, exit_code=3, tries=3),
        Kind("flood", more="seq 1 1300000", out=_numbers(1, 1_300_000)),  # so much that engines are told to forget it
        Kind("burst", more="seq 1 20000; seq 1 3000 >&2", out=_numbers(1, 20_000), err=_numbers(1, 3000)),
        Kind(
            "wide",
            more="head -c 40000 /dev/zero | tr '\\0' w; echo; head -c 70000 /dev/zero; echo; sleep 0.1",
            out=b"w" * 40_000 + b"\n" + bytes(70_000) + b"\n",
        ),
        Kind(
            "bars",
            more="i=0; while [ $i -lt 30 ]; do printf '\\r%d%%' $i; sleep 0.02; i=$((i+1)); done",
            out=b"".join(b"\r%d%%" % number for number in range(30)),
        ),
        Kind(
            "both",
            more="i=0; while [ $i -lt 300 ]; do echo $i; echo $i >&2; i=$((i+1)); done",
            out=_numbers(0, 299),
            err=_numbers(0, 299),
        ),
        Kind(
            "parent",
            lines=2,
            more="(while kill -0 $$; do :; done; printf 'from a child') 2>/dev/null &",
            late=b"from a child",
        ),
        Kind("long", lines=5, endless=True),
        Kind("long-gpu", lines=5, gpu=1, endless=True),
    )
}
_WEIGHTS = {"quick": 5, "writer": 2, "gang": 3, "gpu": 4, "gpus": 2, "failing": 2, "long": 2, "long-gpu": 1}
_WEIGHTS |= dict.fromkeys(("flood", "burst", "wide", "bars", "both", "parent"), 1)


@dataclass(frozen=True)
class Jobs:
    """Makes submissions for an engine. Where replicas have files of their own, ``mounted`` says where they find the
    ledger; without, they lock it too (the containers' tiny image has no ``flock``)."""

    ledger: Path
    image: str = "none"
    mounted: str | None = None

    def pick(self, chance: random.Random) -> Kind:
        """Any kind."""
        return KINDS[chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]]

    def spec(self, kind: Kind) -> dict[str, Any]:
        """The spec to submit."""
        script = kind.script(self.mounted or str(self.ledger), locks=self.mounted is None)
        role: dict[str, Any] = {"image": self.image, "command": ["sh", "-c", script], "count": kind.count}
        mounts = [{"source": str(self.ledger), "target": self.mounted}] if self.mounted else []
        return {
            "roles": [{**role, "resources": {"gpu": kind.gpu}}],
            "retries": {"limit": kind.tries - 1, "backoff": 0.05, "factor": 1},
            "stop_grace": 1,
            "mounts": mounts,
        }

    def runs(self) -> Counter[str]:
        """How often each try of each replica began, by ``NAME-ROLE-INDEX-TRY``."""
        ledger = self.ledger / "ledger"
        return Counter(ledger.read_text().splitlines() if ledger.exists() else ())


def kind_of(workload: str) -> Kind:
    """The kind of a workload that was named ``KIND.ANYTHING``."""
    return KINDS[workload.partition(".")[0]]
