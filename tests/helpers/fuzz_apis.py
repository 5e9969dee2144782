"""The APIs that are fuzzed, a row each, with bodies that do something, and values that spoil them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.fuzz_world import NATIVE
from helpers.two_users import run_body
from helpers.wmla import BASE, PLUGIN, packed

UNFIT: tuple[Any, ...] = (
    *("", " ", "0", "-1", "null", "true", "a" * 300, "a" * 70_000, "..", ".", "/", "../../x", "%2e%2e", "a/b", "a\\b"),
    *(
        "\x00",
        "a\x00b",
        "\ud800",
        "a\udfffb",
        "\uffff",
        "\u202e",
        "\U0001f600" * 40,
        "٣",
        "１２",
        "²",
        "½",
        "\n",
        "\r\nx: y",
    ),
    *("NaN", "Infinity", "1e999", "0x10", "1_000", "+5", " 7 ", "1e3", "5G", "-5G", "9" * 400, "1.5Gi", "'; --", "{0}"),
    *(
        "${x}",
        "$PAI_X",
        "~",
        "-x",
        "--help",
        "*",
        "[",
        "(a+)+$",
        "fds://",
        "fds:///",
        "fds://b/../c",
        "file:///etc/passwd",
    ),
    *("0000-00-00", "9999-12-31T23:59:59Z", "10000-01-01", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59Z"),
    *(
        0,
        -1,
        1,
        2**31,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63) - 1,
        2**64,
        10**30,
        10**400,
        1e300,
        -1e300,
        1e-300,
        0.1,
        -0.0,
    ),
    *(True, False, None, [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}}, ["a"] * 1100, [0] * 1100),
    {"\x00": 1},
    {"\ud800": "x"},
    {"a" * 5000: 1},
)
"""Texts, numbers and containers that are hardly ever meant."""


def _native_error(body: Any) -> bool:
    said = body["error"]
    return set(said) == {"code", "message", "field", "details"} and isinstance(said["message"], str)


def _has(**members: type) -> Callable[[Any], bool]:
    return lambda body: all(isinstance(body[name], kind) for name, kind in members.items())


@dataclass(frozen=True)
class Api:
    """A dialect as it is fuzzed.

    Attributes:
        document: path of what the server serves.
        error: whether a body is a failure in the dialect's words.
        contract: file of what the vendor wrote, below tests/contracts.
        things: member or variable of a path -> labels or texts of what there is, to be put in its place.
        good: operation -> a body that does something; ``{new}`` is a name that nothing has, ``{label}`` a thing.
        left_out: operation -> why it is not tried.
        refuses: refusals that the documents do not list and every operation may answer all the same.
    """

    name: str
    document: str
    error: Callable[[Any], bool]
    contract: str | None = None
    things: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    good: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    refuses: frozenset[int] = frozenset()


PLACES = {
    **{"workloads": ("job", "done", "gang", "never", "queued", "pruned"), "notebooks": ("lab",)},
    **{"tensorboards": ("board",), "endpoints": ("end",), "models": ("model",), "workspaces": ("team",)},
    **{"users": ("vera", "bob"), "buckets": ("bucket",), "pools": ("pool",), "studies": ("study", "searched")},
}
"""Collection -> what its ``{ref}`` or ``{name}`` may be."""
_ROLE = {"command": ["run"], "resources": {"cpu": 0.01, "memory": "4M"}, "env": {"FAKE_SECONDS": "0"}}
_SMALL = {"cpu_limit": "0.1", "memory_limit": "64M"}
_TASK = {"name": "main", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "run"}
_POINT = {"name": "loss", "value": 0.5, "at": 5.0}
_SPACE = [{"name": "lr", "low": 1e-5, "high": 0.1, "log": True}, {"name": "batch", "choices": [16, 32]}]
_STUDY = {
    **{"space": _SPACE, "algorithm": {"name": "random"}, "objective": {"metric": "loss", "goal": "minimize"}},
    **{"max_trials": 2, "parallel": 1, "early_stopping": {"min_trials": 1}, "metrics": {"acc": "maximize"}, "seed": 1},
    **{"max_time": "1m", "max_failures": 1, "trial": {"roles": [_ROLE]}},
}
_METRIC = {"name": "loss", "date": "2018-08-03T09:21:44.331823Z", "value": "0.5", "run_id": "{#run}"}

_NATIVE = Api(
    "native",
    f"{NATIVE}/openapi.json",
    _native_error,
    things={
        **{"workspace": ("team", "default"), "pool": ("pool",), "bucket": ("bucket",), "user": ("vera", "bob")},
        **{"token": ("token",), "key": ("key",), "model": ("model",), "path": ("pool", "cloudml")},
        **{"dialect": ("native", "cloudml", "openpai", "mlbench"), "role": ("main",), "image": ("base",)},
        **{"uri": ("note_uri", "folder_uri"), "source": ("folder_uri",), "logdir": ("folder_uri",), "gpu": ("0",)},
        **{"name": ("vera", "job", "team"), "owner": ("user",)},
    },
    good={
        f"POST {NATIVE}/workloads": {"name": "{new}", "workspace": "{team}", "spec": {"roles": [_ROLE]}},
        f"POST {NATIVE}/workloads/{{}}/samples": {"replica": "main-0", "points": [_POINT]},
        f"POST {NATIVE}/notebooks": {"name": "{new}", "image": "base", "workspace": "{team}"},
        f"POST {NATIVE}/tensorboards": {"name": "{new}", "logdir": "{folder_uri}", "workspace": "{team}"},
        f"POST {NATIVE}/models": {"name": "{new}", "source": "{folder_uri}", "workspace": "{team}"},
        f"POST {NATIVE}/endpoints": {"name": "{new}", "model": "{model}", "workspace": "{team}", "ready_timeout": 1e6},
        f"POST {NATIVE}/endpoints/{{}}/rollout": {"model": "{model}", "weight": 50},
        f"PUT {NATIVE}/endpoints/{{}}/variants": {"variants": [{"model": "{model}", "weight": 100}]},
        f"POST {NATIVE}/endpoints/{{}}/scale": {"minimum": 0, "maximum": 2, "idle": 60, "target": 1.5, "cooldown": 1},
        f"POST {NATIVE}/studies": {"name": "{new}", "workspace": "{team}", "spec": _STUDY},
        f"POST {NATIVE}/studies/{{}}/resume": {"max_trials": 3},
        f"POST {NATIVE}/buckets": {"name": "{new}", "workspace": "{team}"},
        f"POST {NATIVE}/workspaces": {"name": "{new}"},
        f"POST {NATIVE}/users/{{}}/tokens": {"name": "{new}", "scope": ["workload:read"], "lifetime": 60},
        f"POST {NATIVE}/users/{{}}/keys": {"name": "{new}"},
        f"PUT {NATIVE}/pools/{{}}": {"cpu": 4, "memory": "1G", "gpu": 1, "max_workloads": 5},
        f"POST {NATIVE}/prune": {"logs_days": 1000, "deleted_days": 1000, "dry_run": True},
    },
    left_out={
        f"POST {NATIVE}/images/build": "it builds images, for minutes",
        f"POST {NATIVE}/backup": "it has no input, and copies the database each time",
    },
)

_CLOUDML = Api(
    "cloudml",
    "/cloud_ml/openapi.json",
    _has(error=bool, message=str),
    "cloudml.yaml",
    things={
        **{"job_name": ("train",), "model_name": ("service",), "model_version": ("1",), "dev_name": ("dev",)},
        **{"tensorboard_name": ("tb",), "org_id": ("org",), "trainer_uri": ("trainer_uri",)},
        **{"model_uri": ("folder_uri",), "logdir": ("folder_uri",), "module_name": ("trainer.task",)},
    },
    good={
        "POST /cloud_ml/v1/train": _SMALL
        | {"job_name": "{new}", "module_name": "trainer.task", "trainer_uri": "{trainer_uri}"},
        "POST /cloud_ml/v1/model": _SMALL | {"model_name": "{new}", "model_version": "1", "model_uri": "{folder_uri}"},
        "POST /cloud_ml/v1/dev": _SMALL | {"dev_name": "{new}", "password": "secret", "framework": "scikitlearn"},
        "POST /cloud_ml/v1/tensorboard": {"tensorboard_name": "{new}", "logdir": "{folder_uri}"},
    },
)

_OPENPAI = Api(
    "openpai",
    "/api/v1/openapi.json",
    _has(error=str, message=str),
    "openpai.yaml",
    things={
        **{"jobName": ("pai", "paidone"), "username": ("vera", "bob"), "vcName": ("default",)},
        **{"virtualCluster": ("default",), "virtualClusters": ("default",)},
    },
    good={
        "POST /api/v1/jobs": {
            **{"jobName": "{new}", "image": "base", "retryCount": 0, "jobEnvs": {"FAKE_SECONDS": "0"}},
            "taskRoles": [_TASK | {"portList": [{"label": "a", "beginAt": 0, "portNumber": 1}]}],
        },
        "PUT /api/v1/user": {"username": "vera", "password": "vera-qzsecret", "admin": False, "modify": True},
    },
    refuses=frozenset({400}),
)

_MLBENCH = Api(
    "mlbench",
    "/api/openapi.json",
    _has(status=str, message=str),
    "mlbench.yaml",
    things={"pod_name_or_run_id": ("pod", "run"), "run_id": ("run",), "pod_name": ("pod",)},
    good={"POST /api/runs": run_body("{new}"), "POST /api/metrics": _METRIC},
)

_ARGS = "--exec-start PyTorch --model-main main.py --appName {new}"
_MODEL = packed({"main.py": "print(1)"})
_SPACE = [
    {"name": "lr", "type": "Range", "dataType": "double", "minDbVal": -4, "maxDbVal": -1, "power": "10", "step": "0.5"},
    {"name": "opt", "type": "Discrete", "dataType": "str", "discreateStrVal": ["sgd", "adam"]},
]
_SEARCH = {
    "hpoName": "{new}",
    "modelSpec": {"args": _ARGS, "dataSource": [{"type": "fs", "location": {"paths": "x"}}]},
    "algoDef": {
        **{"algorithm": "Tpe", "objectiveMetric": "loss", "objective": "minimize", "maxJobNum": 1, "maxRunTime": 1},
        **{"maxParalleJob": 1, "algoParams": [{"name": "WarmUp", "value": "3"}], "additionalMetrics": {"a": "latest"}},
    },
    "hyperParams": _SPACE,
}

_WMLA = Api(
    "wmla",
    f"{BASE}/openapi.json",
    _has(error=str, code=int),
    "wmla.yaml",
    things={
        **{"execId": ("task",), "appid": ("app",), "applicationid": ("app",), "executorid": ("executor",)},
        **{"hpoName": ("search",), "algoName": ("algorithm", "Tpe"), "username": ("vera", "user")},
        **{"resplan_name": ("pool", "default"), "resourcePlan": ("pool", "default"), "parent": ("pool", "default")},
        **{"type": ("stdout", "stderr", "launcherlog"), "name": ("pool", "algorithm")},
    },
    good={
        f"POST {BASE}/execs": {"file": _MODEL, "data": {"args": _ARGS}},
        f"POST {BASE}/hypersearch": {"file": _MODEL, "data": _SEARCH},
        f"POST {BASE}/hypersearch/algorithm/install": {
            **{"file": packed({"optimizer.py": PLUGIN}), "data": {"name": "{new}", "logLevel": "INFO"}},
        },
        f"POST {BASE}/hypersearch/algorithm/debug": _SEARCH,
        f"POST {BASE}/execs/{{}}/deploy": {"name": "{new}", "kernel": "kernel.py", "attributes": []},
        f"POST {BASE}/resplans/resplan": {"name": "{new}", "parent": "{pool}", "labels": [{"key": "a", "value": "b"}]},
        f"PUT {BASE}/resplans/resplan": {"name": "{pool}", "labels": []},
        f"PUT {BASE}/notebooks/{{}}": {"resourcePlan": "{pool}"},
    },
    left_out={
        f"GET {BASE}/notebooks/{{username}}/runningkernels": "the notebook is only said to run, and answers nothing"
    },
)

APIS = {one.name: one for one in (_NATIVE, _CLOUDML, _OPENPAI, _MLBENCH, _WMLA)}
