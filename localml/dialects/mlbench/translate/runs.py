"""Runs as workloads, and back."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Mapping
from typing import Any

from localml.core.logs.reader import last_bytes
from localml.core.logs.sources import Selection
from localml.core.people.identity import Caller
from localml.core.work.placeholders import literal
from localml.core.work.specs import Completion, Port, Resources, Role, WorkloadSpec
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full
from localml.dialects.mlbench.schemas import Run, RunCreate
from localml.dialects.mlbench.translate.images import Program
from localml.dialects.mlbench.translate.mpi import mpi_script, with_mpi
from localml.dialects.mlbench.translate.pods import STATE_WORDS, WORKER, pod_name
from localml.dialects.mlbench.translate.times import micro_time
from localml.platform import Platform

MASTER_PORT = 29500
"""The port at which the vendor's benchmarks meet on the first worker."""
DEFAULT_CPUS = 2.0
_TAIL = 64 << 10
_SEAT = "rendezvous"

VARIABLES: dict[str, str] = {
    "rank": "$RANK",
    "hosts": "$MLBENCH_HOSTS",
    "run_id": "$LOCALML_WORKLOAD",
    "backend": "$MLBENCH_BACKEND",
}
"""What stands for ``{rank}`` and the others in a command when a worker's shell starts it."""
_HOLE = re.compile(r"\{(rank|hosts|run_id|backend)\}")
_SETUP = """\
first=${MLBENCH_ADDRESSES%%,*}
export MASTER_PORT=${first##*:} MLBENCH_RUN_ID=$LOCALML_WORKLOAD
"""
_IDLE = """\
if [ "$RANK" != 0 ]; then
  trap 'exit 0' TERM
  while :; do sleep 3600 & wait $!; done
fi
"""


def run_spec(platform: Platform, run: RunCreate, program: Program, dashboard: str, owner: Caller) -> WorkloadSpec:
    """What to run for a request.

    Args:
        dashboard: host and port of this server as the client wrote them.
        owner: the user whose run it will be.
    """
    role = Role(
        name=WORKER,
        image=program.image,
        command=("sh", "-c", _script(run, program)),
        env={
            "RANK": "%{index}",
            "WORLD_SIZE": str(run.num_workers),
            "MASTER_ADDR": f"%{{host:{WORKER}:0}}",
            "MLBENCH_HOSTS": f"%{{hosts:{WORKER}}}",
            "MLBENCH_ADDRESSES": f"%{{addresses:{WORKER}:{_SEAT}}}",
            "MLBENCH_BACKEND": literal(program.backend),
            "MLBENCH_DASHBOARD_URL": f"http://{owner.name}:%{{token}}@{literal(dashboard)}",
        },
        resources=Resources(cpu=_cpus(platform, run), gpu=1 if program.gpu else 0),
        count=run.num_workers,
        ports=(Port(label=_SEAT, container=MASTER_PORT, publish=False),),
        # where only the first worker runs the command, the others wait until it has ended
        completion=Completion() if program.everywhere else Completion(min_succeeded=1),
    )
    return WorkloadSpec(roles=(with_mpi(platform, role, owner.id) if program.mpi else role,))


def _cpus(platform: Platform, run: RunCreate) -> float:
    if run.num_cpus is not None:
        return run.num_cpus
    return min(DEFAULT_CPUS, platform.hardware.cores)


def _script(run: RunCreate, program: Program) -> str:
    """A shell script that sets what only a worker knows of itself and then becomes the command."""
    flags = {"--gpu": program.gpu, "--light": run.light_target, "--horovod": run.use_horovod}
    words = [_quoted(word) for word in program.words] + [flag for flag, wanted in flags.items() if wanted]
    script = _SETUP + ("" if program.everywhere else _IDLE) + f"exec {' '.join(words)}\n"
    return mpi_script(script) if program.mpi else script


def _quoted(word: str) -> str:
    """A word for the shell: literally what the user gave, except ``{rank}`` and the others."""
    parts = _HOLE.split(word)  # text and names in turn
    return "".join(
        f'"{VARIABLES[part]}"' if position % 2 else shlex.quote(part)
        for position, part in enumerate(parts)
        if part or len(parts) == 1
    )


def stored_request(run: RunCreate, program: Program) -> dict[str, Any]:
    """What is kept to answer with, beside all that the client sent."""
    return {**run.model_dump(exclude_unset=True), "image": program.image, "command": program.command} | {
        "num_workers": run.num_workers,
        "backend": program.backend,
    }


def run_answer(platform: Platform, row: Workload, spec: WorkloadSpec, request: Mapping[str, Any]) -> Run:
    """A run as it is answered in lists; its ``job_metadata`` is empty there."""
    cpu = spec.role(WORKER).resources.cpu or 0.0
    return Run(
        id=row.id or 0,
        name=request["name"],
        created_at=micro_time(row.created_at),
        finished_at=None if row.ended_at is None else micro_time(row.ended_at),
        state=STATE_WORDS[row.state],
        job_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"localml:{platform.install}:{row.id}")),
        job_metadata={},
        num_workers=request["num_workers"],
        cpu_limit=f"{cpu * 1000:g}m",
        image=request["image"],
        command=request["command"],
        backend=request["backend"],
    )


def job_metadata(platform: Platform, full: Full) -> dict[str, Any]:
    """What the vendor's background job notes of a run: the last lines of output of all workers, and its pods."""
    row = full.row
    found: dict[str, Any] = {"stdout": [], "stderr": []}
    for stream, lines in found.items():
        sources = Selection(attempt="all", stream=stream).sources(full.attempts)
        start = last_bytes(platform.logs, sources, _TAIL)
        for source, offset in zip(sources, start.offsets, strict=True):
            lines += source.read(platform.logs, offset, _TAIL).decode("utf-8", "replace").splitlines()
    if row.message:
        found["stderr"].append(row.message)
    current = [one for one in full.attempts if one.number == row.attempt]
    found["pods"] = [[one.address or "", "default", pod_name(row, one.index), "{}"] for one in current]
    found["command"] = full.request["command"]
    found["master_name"] = pod_name(row, 0)
    return found
