"""A task, or the template of a search's trials, as a workload: what it runs, with what, and what it is told.

All workers of a task are one gang, of equals; there is no driver beside them, so what is asked for the driver counts
where nothing is asked for the workers. A program finds

=================================  ==============================================================================
``DLI_DATA_FS``, ``DATA_DIR``      the bucket tree, and the folder in it that the data source names
``DATA_PATHS``                     all paths of the data source, with commas between, where it names several
``DLI_RESULT_FS``, ``RESULT_DIR``  the user's results, and the task's own folder ``USER/batchworkdir/DLI_EXECID``
``LOG_DIR``                        a folder in that
``DLI_EXECID``, ``TRAINING_ID``    the task's id
``USER``                           who submitted it
``WMLA_NWORKER``                   how many workers there are, of which this is the one numbered ``NODE_RANK``
``WMLA_WORKER_NDEVICE``            devices of each worker
``MASTER_ADDR``, ``MASTER_PORT``   of the first worker; with ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``TF_CONFIG``
=================================  ==============================================================================

The last line is for tasks of several workers and for distributed frameworks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from localml.core.errors import invalid
from localml.core.limits import MOST_REPLICAS, need_at_most
from localml.core.work.placeholders import literal
from localml.core.work.specs import Port, Resources, Role, WorkloadSpec
from localml.dialects.kit.errors import from_pydantic
from localml.dialects.wmla.translate.args import FIELD, Needs, TaskArgs, memory_bytes
from localml.dialects.wmla.translate.frameworks import find_framework, need_framework
from localml.dialects.wmla.translate.model_upload import Model
from localml.dialects.wmla.translate.places import Places
from localml.platform import Platform

WORKER = "worker"
"""The one role of a task. Its first replica is what the vendor calls the driver."""
_PORT = "cluster"
PASSED_ON, WITHOUT_EFFECT = "OptionsPassedOn", "OptionsWithoutEffect"
"""Reasons of events."""

# Braces around a single name would be taken for a parameter's by a search, whose trials this starts, too.
START = """
export DLI_DATA_FS="$LOCALML_BUCKETS" DLI_RESULT_FS="$LOCALML_BUCKETS/$1" RESULT_DIR="$LOCALML_BUCKETS/$2"
export DATA_DIR="$LOCALML_BUCKETS${3:+/}$3" LOG_DIR="$RESULT_DIR/log"
mkdir -p "$LOG_DIR" || exit 1
if [ -n "$4" ]; then
  export DATA_PATHS=""
  IFS=, && set -f
  for one in $4; do DATA_PATHS="$DATA_PATHS${DATA_PATHS:+,}$LOCALML_BUCKETS/$one"; done
  unset IFS && set +f
fi
shift 4
if [ -n "$WMLA_WORKERS" ]; then
  first="${WMLA_WORKERS%%,*}"
  export MASTER_ADDR="${first%:*}" MASTER_PORT="${first##*:}"
  all="$(printf %s "$WMLA_WORKERS" | sed 's/,/","/g')"
  export TF_CONFIG="{\\"cluster\\": {\\"worker\\": [\\"$all\\"]}, \
\\"task\\": {\\"type\\": \\"worker\\", \\"index\\": $NODE_RANK}}"
fi
if [ "$1" = python ] && ! command -v python > /dev/null 2>&1; then shift; set -- python3 "$@"; fi
exec "$@"
"""
"""What a container runs: it makes paths of places below the buckets, and becomes the program. Images are the user's own
and may hold no launcher of ours; a shell is all that they need to have."""


@dataclass(frozen=True, slots=True)
class Task:
    """What :func:`task_spec` makes a workload of. Of a trial ``places`` has ``{trial}`` in its exec id."""

    args: TaskArgs
    model: Model
    places: Places


def task_spec(platform: Platform, task: Task) -> WorkloadSpec:
    """What to run for a task.

    Raises:
        LocalmlError: ``INVALID`` for a framework that there is not, or amounts that nothing can have.
    """
    args, places = task.args, task.places
    resources = _resources(platform, args)
    command = ("sh", "-c", START, "wmla", places.results, places.result, places.data, ",".join(places.files))
    gang = args.workers > 1 or _is_distributed(platform, args)
    role = Role(
        name=WORKER,
        image=_image(platform, args, resources),
        command=(*command, *_program(task)),
        env=_env(task, resources, gang=gang),
        resources=resources,
        count=args.workers,
        ports=(Port(label=_PORT, publish=False),) if gang else (),
        workdir=task.model.folder or None,
    )
    return WorkloadSpec(roles=(role,), objects=places.uris, code=task.model.code)


def check_options(platform: Platform, args: TaskArgs) -> None:
    """Refuse options that :func:`task_spec` would refuse, before a model is kept."""
    _image(platform, args, _resources(platform, args))


def notes(args: TaskArgs) -> list[tuple[str, str]]:
    """What its submitter should know of a task's options: an event's reason and its words, for each."""
    found = []
    if args.unknown:
        words = f"these options are none of the service's, and go on to the program: {', '.join(args.unknown)}"
        found.append((PASSED_ON, words))
    if args.without_effect:
        words = f"these options of the service change nothing on one machine: {', '.join(args.without_effect)}"
        found.append((WITHOUT_EFFECT, words))
    return found


def with_hardware(args: TaskArgs, hardware: Mapping[str, Any]) -> TaskArgs:
    """The options with what a request's ``hardwareSpec`` says in their place.

    Raises:
        LocalmlError: ``INVALID`` naming its member.
    """
    nodes = _object(hardware.get("nodes"), "hardwareSpec.nodes")
    if not nodes:
        return args
    memory, cpu, gpu = (_object(nodes.get(name), f"hardwareSpec.nodes.{name}") for name in ("mem", "cpu", "gpu"))
    given: dict[str, Any] = {
        "gpus": _number(gpu.get("num_gpu"), "gpu.num_gpu"),
        "cpu": _number(cpu.get("units"), "cpu.units"),
        "memory": _memory(memory.get("size")),
    }
    workers = _number(nodes.get("num_nodes"), "num_nodes")
    if workers is not None and (workers < 1 or workers != int(workers)):
        raise invalid("hardwareSpec.nodes.num_nodes", "must be a whole number, and at least 1")
    need_at_most("hardwareSpec.nodes.num_nodes", workers or 1, MOST_REPLICAS, "workers")
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(args, workers=int(workers or args.workers), worker=replace(args.worker, **changed))


def _resources(platform: Platform, args: TaskArgs) -> Resources:
    worker, driver = args.worker, args.driver
    needs = worker if any((worker.kind, worker.devices, worker.gpus is not None)) else _driver_devices(worker, driver)
    default = "gpu" if platform.gpus.devices() else "cpu"
    kind = needs.kind or default
    devices = needs.devices if needs.devices is not None else 1.0 if needs.kind == "gpu" else None
    gpu = needs.gpus if needs.gpus is not None else devices if kind == "gpu" else None
    cpu = needs.cpu or driver.cpu or (devices if kind == "cpu" else None)
    memory = worker.memory_limit or worker.memory or driver.memory_limit or driver.memory
    try:
        return Resources(cpu=cpu or None, memory=memory or None, gpu=gpu or 0)
    except ValidationError as error:
        raise invalid(FIELD, from_pydantic(error).message) from None


def _driver_devices(worker: Needs, driver: Needs) -> Needs:
    return replace(worker, kind=driver.kind, devices=driver.devices, gpus=driver.gpus)


def _is_distributed(platform: Platform, args: TaskArgs) -> bool:
    found = find_framework(platform.catalog, args.framework)
    return found is not None and found.distributed


def _image(platform: Platform, args: TaskArgs, resources: Resources) -> str:
    if args.image:
        return args.image
    framework = need_framework(platform.catalog, args.framework)
    gpu = platform.real_gpus and resources.gpu > 0
    return f"{platform.catalog.find(framework.framework, gpu=gpu).image}:latest"


def _program(task: Task) -> tuple[str, ...]:
    if task.args.command:
        return task.args.command
    main = task.model.main or ""
    return (*(("sh", main) if main.endswith(".sh") else ("python", "-u", main)), *task.args.program)


def _env(task: Task, resources: Resources, *, gang: bool) -> dict[str, str]:
    args, places = task.args, task.places
    devices = int(resources.gpu) or int(resources.cpu or 1) or 1
    own = {
        "USER": places.user,
        "DLI_EXECID": places.exec_id,
        "TRAINING_ID": places.exec_id,
        "DLI_FRAMEWORK": args.framework,
        "DLI_MODEL_MAIN": task.model.main or "",
        "DLI_DATASET": places.data,
        "WMLA_NWORKER": str(args.workers),
        "WMLA_WORKER_NDEVICE": str(devices),
    }
    env = {name: literal(value) for name, value in {**own, **args.env}.items()}
    together = {
        "NODE_RANK": "%{index}",
        "RANK": "%{index}",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(args.workers),
        "WMLA_WORKERS": f"%{{addresses:{WORKER}:{_PORT}}}",
    }
    return {**env, **(together if gang else {"NODE_RANK": "0"})}


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid(field, "must be an object")
    return value


def _number(value: Any, field: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1.0
    if isinstance(value, bool) or not 0 <= found <= 1e6:
        raise invalid(f"hardwareSpec.nodes.{field}", f"must be a number from 0 on, not {str(value)[:40]!r}")
    return found


def _memory(value: Any) -> int | None:
    return None if value in (None, "") else memory_bytes("hardwareSpec.nodes.mem.size", str(value))
