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
_BYE = r"printf 'last words, no newline \303'; printf 'E' >&2"
_LINES = r"""i=0; while [ $i -lt {count} ]; do printf '%d \201\000\n' $i; {pause}; i=$((i+1)); done"""


@dataclass(frozen=True)
class Kind:
    """A sort of job. ``tries`` run when it is left alone, and it then ends in ``state``; endless ones never do."""

    name: str
    lines: int = 0
    pause: str = ":"
    count: int = 1
    gpu: float = 0
    exit_code: int = 0
    tries: int = 1
    endless: bool = False

    @property
    def state(self) -> str:
        return "failed" if self.exit_code else "succeeded"

    def script(self, ledger: str, *, locks: bool) -> str:
        """The program, for a shell."""
        end = "trap 'exit 0' TERM; sleep 3000 & wait" if self.endless else f"{_BYE}; exit {self.exit_code}"
        head = _PROLOGUE.format(ledger=ledger, locks=_LOCKS.format(ledger=ledger) if locks else "")
        return "\n".join([head, _HELLO, _LINES.format(count=self.lines, pause=self.pause), end])

    def output(self, workload: str, index: int, attempt: int) -> dict[str, bytes]:
        """What a whole run of one replica writes."""
        lines = b"".join(b"%d \x81\x00\n" % number for number in range(self.lines))
        hello = f"{workload}-main-{index} try {attempt}\n".encode() + b"\x00\xff\x80\r\n"
        if self.endless:
            return {"stdout": hello + lines, "stderr": b"to stderr \xfe\n"}
        return {"stdout": hello + lines + b"last words, no newline \xc3", "stderr": b"to stderr \xfe\nE"}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("quick", lines=3),
        Kind("writer", lines=60, pause="sleep 0.03"),
        Kind("gang", lines=15, pause="sleep 0.02", count=2),
        Kind("gpu", lines=10, pause="sleep 0.02", gpu=1),
        Kind("gpus", lines=10, pause="sleep 0.02", gpu=1, count=2),
        Kind("failing", lines=2, exit_code=3, tries=3),
        Kind("long", lines=5, endless=True),
        Kind("long-gpu", lines=5, gpu=1, endless=True),
    )
}
_WEIGHTS = {"quick": 6, "writer": 3, "gang": 3, "gpu": 4, "gpus": 2, "failing": 2, "long": 2, "long-gpu": 1}


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
