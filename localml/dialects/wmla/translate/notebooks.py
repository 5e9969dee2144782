"""Notebooks as the vendor's services, of which each user has one.

Whoever started them and through whatever API: a user's notebooks are those that this user owns. The service is the one
of them that was started last of those that run, or are about to; of those that are stopped where none runs. No
operation of the document starts one; ``localml notebook`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.instances.instances import Change, InstanceFull
from localml.core.people.allow import Thing, allow, may, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.series.uses import Use
from localml.core.work.states import HOLDING, Kind, State
from localml.dialects.wmla.translate.ids import app_id
from localml.dialects.wmla.translate.plans import name_of, path_of, usable_plan
from localml.platform import Platform

PHASES: dict[State, str] = {
    State.QUEUED: "Pending",
    State.PREPARING: "Pending",
    State.RUNNING: "Running",
    State.STOPPING: "Running",
    State.SUCCEEDED: "Succeeded",
    State.FAILED: "Failed",
    State.STOPPED: "Succeeded",
}
"""State of a notebook -> phase of a Kubernetes pod."""
OK, ERROR = "ok", "error"
_MEGABYTE = 1 << 20
_AT_A_TIME = 8


def service_of(platform: Platform, caller: Caller, username: str, action: Action = Action.READ) -> InstanceFull:
    """A user's notebook service, if the caller may do this to it.

    Raises:
        LocalmlError: ``FORBIDDEN`` for whom it is not, ``NOT_FOUND`` where there is no such user, or no notebook.
    """
    if username != caller.name:
        allow(caller, Action.READ, Thing.of_user(caller, username))
    number = platform.identity.number(username)
    if number is None:
        raise not_found("user", username)
    own = [one for one in _notebooks(platform, caller) if one.row.owner_id == number]
    if not own:
        raise LocalmlError(Code.NOT_FOUND, f"{username} has no notebook; 'localml notebook' starts one")
    found = max(own, key=lambda one: (one.live, one.row.workload_id))
    allow(caller, action, Thing.of(ThingKind.WORKLOAD, found.row))
    return found


def running(platform: Platform, caller: Caller) -> list[InstanceFull]:
    """The notebooks of all users that run, or are about to: each is a service."""
    return [one for one in _notebooks(platform, caller) if one.live]


def answers(platform: Platform, services: Sequence[InstanceFull]) -> list[dict[str, Any]]:
    """Services as they are answered. Those that run are asked what they do, several at a time."""
    holding = [one.row.workload_id for one in services if one.run.row.state in HOLDING]
    uses = platform.uses.of(holding)
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        counts = list(threads.map(lambda one: _running_kernels(platform, one), services))
    return [
        _answer(one, uses.get(one.row.workload_id, Use()), count) for one, count in zip(services, counts, strict=True)
    ]


def kernels(platform: Platform, service: InstanceFull) -> list[dict[str, Any]]:
    """The kernels of a service that run, with what they use.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when it runs and does not answer.
    """
    if service.run.row.state is not State.RUNNING:
        return []
    jupyter = platform.idle.jupyter(service.run)
    every, tell = jupyter.activity().kernels, platform.tools.kernels_tell(service.run.spec)
    found = []
    for one in every:
        cpu, memory = _kernel_use(jupyter.kernel_usage(one.id)) if tell else _of_the_only_one(platform, service, every)
        kernel = {
            "kernelName": one.name,
            "userName": service.row.owner,
            "jobId": app_id(platform, service.row.workload_id),
            "status": one.state,
            "cpuUsed": None if cpu is None else round(cpu, 3),
            "gpuUsed": float(_gpus(service)),
            "memoryUsed": None if memory is None else round(memory / _MEGABYTE, 3),
            "createTime": _milliseconds(service.run.row.created_at),
        }
        found.append({name: value for name, value in kernel.items() if value is not None})
    return found


def _kernel_use(usage: Any) -> tuple[float | None, float | None]:
    """Cores and bytes, as a kernel says it."""
    return None if usage.cpu_percent is None else usage.cpu_percent / 100, usage.memory


def _of_the_only_one(
    platform: Platform, service: InstanceFull, every: Sequence[Any]
) -> tuple[float | None, float | None]:
    """Of a notebook whose kernels are not to be asked: what all of it uses, where there is one kernel."""
    use = platform.uses.of([service.row.workload_id]).get(service.row.workload_id)
    return (None, None) if use is None or len(every) != 1 else (use.cpu, float(use.memory))


def change_plan(platform: Platform, caller: Caller, username: str, plan: str | None) -> InstanceFull:
    """Put a user's notebook into another resource plan, from its next start on: what runs in its kernels goes on.

    Raises:
        LocalmlError: ``INVALID`` naming ``resourcePlan``; as :func:`service_of`.
    """
    found = service_of(platform, caller, username, Action.CHANGE)
    if not plan:
        raise invalid("resourcePlan", "is required")
    pool = usable_plan(platform, caller, plan, "resourcePlan")
    return platform.instances.modify(found.row.id or 0, caller, Change(pool=pool))


def stop(platform: Platform, caller: Caller, username: str) -> tuple[str, str]:
    """Stop a user's notebook service: the outcome, and why it is none; as :func:`service_of` besides."""
    try:
        found = service_of(platform, caller, username, Action.STOP)
    except LocalmlError as error:
        if error.code is not Code.NOT_FOUND or platform.identity.number(username) is None:
            raise
        return ERROR, error.message
    if not found.live:
        return ERROR, f"{found.row.name} does not run: it is {found.state}"
    platform.instances.stop(found.row.id or 0, caller)
    return OK, ""


def _notebooks(platform: Platform, caller: Caller) -> Iterable[InstanceFull]:
    places = reach(caller, ThingKind.WORKLOAD)
    found = platform.instances.list(kinds=(Kind.NOTEBOOK,), workspaces=places)
    return [one for one in found if may(caller, Action.READ, Thing.of(ThingKind.WORKLOAD, one.row))]


def _running_kernels(platform: Platform, service: InstanceFull) -> int:
    """How many it has; none where it does not run, or does not answer now."""
    if service.run.row.state is not State.RUNNING:
        return 0
    try:
        return len(platform.idle.jupyter(service.run).activity().kernels)
    except LocalmlError as error:
        if error.code not in (Code.WRONG_STATE, Code.UNAVAILABLE):
            raise
        return 0


def _answer(service: InstanceFull, use: Use, kernel_count: int) -> dict[str, Any]:
    run = service.run
    newest = [one.name for one in run.attempts if one.number == run.row.attempt]
    found = {
        "userName": service.row.owner,
        "podName": newest[0] if newest else service.row.name,
        "podStatus": PHASES[service.state],
        "podMessage": _message(service),
        "podReason": "" if run.row.cause is None else str(run.row.cause),
        "resourcePlan": name_of(service.row.pool),
        "resourcePlanPath": path_of(service.row.pool),
        "podCreateTime": _milliseconds(run.row.created_at),
        "podStartTime": None if run.row.started_at is None else _milliseconds(run.row.started_at),
        "kernels": kernel_count,
        "cpuUsed": round(use.cpu),
        "gpuUsed": round(_gpus(service)),
        "memoryUsed": round(use.memory / _MEGABYTE, 3),
    }
    return {name: value for name, value in found.items() if value is not None}


def _message(service: InstanceFull) -> str:
    """Why it is so; of one that runs in another plan than its next run will, that."""
    old, new = service.run.row.pool, service.row.pool
    if service.live and old != new:
        return f"runs in {path_of(old)} until its next start, and in {path_of(new)} from then on"
    return service.message


def _gpus(service: InstanceFull) -> float:
    """GPUs that it holds now, shares of them included."""
    return sum(lease.fraction for lease in service.run.leases)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
