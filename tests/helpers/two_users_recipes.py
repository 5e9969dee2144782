"""A valid request of every operation about something of alice's; see :mod:`helpers.two_users` for the words.

Operations are found in the apps' URL maps. One that has no recipe here fails the test: whoever adds an operation says
what somebody else finds there.
"""

from __future__ import annotations

from helpers.two_users import Form, Try, hidden, own, run_body, seen, taken, used
from helpers.wmla import BASE as WMLA
from helpers.wmla import PLUGIN, multipart, packed, part

_SPEC = {"roles": [{"command": ["true"]}]}
_TRAIN = {"module_name": "trainer.task", "trainer_uri": "fds://{bucket}/trainer.tar.gz"}
_OWN_TRAIN = {"module_name": "m", "trainer_uri": "fds://bobs/x", "docker_image": "i", "docker_command": "true"}
_ROLE = {"name": "m", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "run"}
_POINT = {"name": "loss", "date": "2026-01-01T00:00:00Z", "value": "1"}
_SPACE = [{"name": "lr", "low": 0, "high": 1}]
_STUDY = {"space": _SPACE, "objective": {"metric": "loss"}, "max_trials": 1, "trial": _SPEC}
_PASSWORD = {"username": "{user}", "password": "another"}

_MODEL = packed({"main.py": "print(1)"})
_ARGS = "--exec-start Python --model-main main.py"
_SOURCE = {"type": "connection", "asset": {"asset_id": "a"}, "location": {"paths": "note", "bucket": "{bucket}"}}
_SEARCH = {
    "modelSpec": {"args": _ARGS},
    "algoDef": {"algorithm": "Random", "objectiveMetric": "loss", "objective": "minimize"},
    "hyperParams": [{"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 1}],
}


def _reads(rule: str, *tries: Try) -> dict[str, tuple[Try, ...]]:
    return {f"{method} {rule}": tries for method in ("GET", "HEAD")}


def _native() -> dict[str, tuple[Try, ...]]:
    job, lab, board, end = (f"/{kind}s/<ref>" for kind in ("workload", "notebook", "tensorboard", "endpoint"))
    found = {
        "POST /workloads": (
            hidden(body={"name": "x", "workspace": "{team}", "spec": _SPEC}),
            used({"name": "x", "spec": {**_SPEC, "depends_on": ["{#number}"]}}),
            hidden(body={"name": "x", "spec": {**_SPEC, "code": "sha256:{code}"}}),
            hidden(body={"name": "{job}", "workspace": "{team}", "spec": _SPEC, "replace": True}),
            Try("granted", body={"name": "x", "pool": "{orgpool}", "spec": _SPEC}),
            Try("granted", body={"name": "x", "pool": "openpai/{user}", "spec": _SPEC}),
            own(body={"name": "{new}", "spec": _SPEC}),
        ),
        **_reads("/workloads", hidden("workspace={team}"), *(own(query) for query in ("", "deleted=true&limit=1000"))),
        **_reads(job, hidden(ref="job"), own(ref="bobs")),
        f"DELETE {job}": (hidden(ref="job"),),
        f"POST {job}/stop": (hidden(ref="job"),),
        **_reads(f"{job}/why", hidden(ref="job"), own(ref="bobs")),
        **_reads(f"{job}/wait", hidden(ref="job"), own("timeout=0", ref="bobs")),
        **_reads(f"{job}/logs", hidden(ref="job"), hidden("follow=true", ref="job")),
        **_reads(f"{job}/events", hidden(ref="job")),
        **_reads(
            "/resolve",
            hidden("ref={job}"),
            hidden("ref=id/{number}"),
            hidden("ref=model/{model}"),
            hidden("ref=study/{study}"),
        ),
        **_reads("/names", own(), own("prefix={user}"), own("prefix=model/")),
        **_reads("/events", hidden("subject_kind=workload&subject_id={number}"), hidden()),
        f"POST {job}/samples": (hidden(body={"points": [{"name": "loss", "value": 1.0}]}, ref="job"),),
        **_reads(f"{job}/samples", hidden(ref="job")),
        **_reads(f"{job}/metrics", hidden(ref="job")),
        **_reads(f"{job}/points", hidden("name=loss", ref="job")),
        **_reads("/comparison", hidden("ref={job}"), hidden("ref={number}")),
        f"POST {job}/ssh": (hidden(ref="job"),),
        "POST /notebooks": (hidden(body={"name": "x", "workspace": "{team}"}), own(body={"name": "{new}"})),
        f"PATCH {lab}": (hidden(body={"token": "mine"}, ref="lab"), hidden(body={"time_limit": 60}, ref="lab")),
        "POST /tensorboards": (
            hidden(body={"name": "x", "workspace": "{team}", "logdir": "fds://bobs/logs"}),
            taken(body={"name": "x", "logdir": "fds://{bucket}/logs"}),
        ),
        f"PATCH {board}": (hidden(body={"time_limit": 60}, ref="board"),),
        **_studies("/studies/<ref>"),
        **_machine(),
        **_serving(end),
        **_people(),
    }
    for base, label in ((lab, "lab"), (board, "board")):
        found |= _reads(base.removesuffix("/<ref>"), own())
        found |= _reads(base, hidden(ref=label)) | _reads(f"{base}/events", hidden(ref=label))
        found |= {f"POST {base}/{verb}": (hidden(ref=label),) for verb in ("start", "stop", "restart")}
        found |= {f"DELETE {base}": (hidden(ref=label),)}
    for query in (
        "owner={user}",
        "name={job}",
        "contains={user}",
        "pool={pool}",
        "parent_kind=instance&parent_id={number}",
    ):
        found["GET /workloads"] += (own(query),)
    return found


def _studies(study: str) -> dict[str, tuple[Try, ...]]:
    found = {
        "POST /studies": (
            hidden(body={"name": "x", "workspace": "{team}", "spec": _STUDY}),
            used({"name": "x", "spec": {**_STUDY, "trial": {**_SPEC, "depends_on": ["{#number}"]}}}),
            hidden(body={"name": "x", "spec": {**_STUDY, "trial": {**_SPEC, "code": "sha256:{code}"}}}),
            Try("granted", body={"name": "x", "pool": "{orgpool}", "spec": _STUDY}),
            own(body={"name": "{new}", "spec": _STUDY}),
        ),
        **_reads("/studies", hidden("workspace={team}"), own(), own("owner={user}"), own("contains={user}")),
        **_reads(study, hidden(ref="study")),
        f"DELETE {study}": (hidden(ref="study"),),
        f"POST {study}/stop": (hidden(ref="study"), hidden("force=true", ref="study")),
        f"POST {study}/restart": (hidden(ref="study"),),
        f"POST {study}/resume": (hidden(body={"max_trials": 9}, ref="study"),),
        **_reads(f"{study}/trials/<int:number>", hidden(ref="study", number="1")),
        **_reads("/algorithms", seen()),
    }
    for below in ("wait", "events", "follow", "trials", "export"):
        found |= _reads(f"{study}/{below}", hidden(ref="study"))
    return found


def _machine() -> dict[str, tuple[Try, ...]]:
    uri, code = "uri=fds://{bucket}/note", "sha256:{code}"
    return {
        **_reads("/gpus", own()),
        "POST /drain": (hidden(body={"gpu": "0"}), hidden(body={})),
        "POST /undrain": (hidden(body={"gpu": "0"}), hidden(body={})),
        **_reads("/pools", own()),
        "PUT /pools/<path:path>": (hidden(body={"cpu": 1}, path="pool"), hidden(body={"cpu": 1}, path="orgpool")),
        "DELETE /pools/<path:path>": (hidden(path="pool"), hidden(path="orgpool")),
        **_reads("/images", own()),
        "POST /images/build": (hidden(body={}),),
        **_reads("/objects", hidden("uri=fds://{bucket}/"), hidden("uri=fds://{bucket}/model&recursive=true")),
        **_reads("/objects/info", hidden(uri), hidden("uri=fds://{bucket}/")),
        "DELETE /objects": (hidden(uri), hidden("uri=fds://{bucket}/&recursive=true")),
        "PUT /objects/content": (taken(f"{uri}", body="x"), taken("uri=fds://{bucket}/new", body="x")),
        **_reads("/buckets", own()),
        "POST /buckets": (
            taken(body={"name": "{bucket}"}),
            hidden(body={"name": "x", "workspace": "{team}"}),
            own(body={"name": "{new}-bucket"}),
        ),
        **_reads("/buckets/<name>", hidden(name="bucket")),
        "PATCH /buckets/<name>": (
            hidden(body={"everyone": "viewer"}, name="bucket"),
            hidden(body={"workspace": "{team}"}, name="bucket"),
        ),
        "DELETE /buckets/<name>": (hidden("recursive=true", name="bucket"),),
        **_reads("/objects/content", hidden(uri)),
        **_reads("/code/<code>", hidden("workspace={team}", code=code)),
        "PUT /code/<code>": (hidden("workspace={team}", code=code, body="x"),),
        "PUT /folders/<name>/code": (
            hidden(body={"code": code, "workspace": "{team}"}, name="lab"),
            hidden(body={"code": code}, name="lab"),
        ),
        **_reads("/status", own()),
        **_reads("/env/<dialect>", hidden(dialect="native")),
        "POST /prune": (hidden(body={}),),
        "POST /backup": (hidden(),),
    }


def _serving(end: str) -> dict[str, tuple[Try, ...]]:
    model = {"name": "x", "source": "fds://{bucket}/model"}
    return {
        "POST /models": (hidden(body={**model, "workspace": "{team}"}), used(model)),
        **_reads("/models", own(), hidden("workspace={team}")),
        **_reads("/models/<ref>", hidden(ref="model")),
        "DELETE /models/<ref>": (hidden(ref="model"),),
        "POST /endpoints": (
            hidden(body={"name": "x", "image": "i", "workspace": "{team}"}),
            used({"name": "x", "model": "{model}"}),
            Try("granted", body={"name": "x", "image": "i", "pool": "{orgpool}"}),
        ),
        f"POST {end}/rollout": (hidden(body={"image": "i"}, ref="end"),),
        f"PUT {end}/variants": (hidden(body={"variants": [{"image": "i", "weight": 100}]}, ref="end"),),
        f"POST {end}/scale": (hidden(body={"replicas": 2}, ref="end"),),
        f"POST {end}/stop": (hidden(ref="end"),),
        f"POST {end}/start": (hidden(ref="end"),),
        f"DELETE {end}": (hidden(ref="end"),),
        **_reads("/endpoints", own(), hidden("workspace={team}")),
        **_reads(end, hidden(ref="end")),
        **_reads(f"{end}/wait", hidden(ref="end")),
        **_reads(f"{end}/events", hidden(ref="end")),
        **_reads(f"{end}/samples", hidden(ref="end")),
    }


def _people() -> dict[str, tuple[Try, ...]]:
    place, user = "/workspaces/<ref>", "/users/<name>"
    return {
        **_reads("/workspaces", own()),
        "POST /workspaces": (own(body={"name": "{new}"}),),
        **_reads(place, hidden(ref="team"), hidden(ref="org")),
        f"PATCH {place}": (hidden(body={"everyone": "owner"}, ref="team"),),
        f"DELETE {place}": (hidden(ref="team"),),
        f"PUT {place}/members/<user>": (hidden(body={"role": "owner"}, ref="team", user="bob"),),
        f"DELETE {place}/members/<user>": (hidden(ref="team", user="user"), hidden(ref="team", user="bob")),
        **_reads("/users", hidden()),
        "POST /users": (hidden(body={"name": "{user}", "password": "x"}),),
        f"DELETE {user}": (hidden(name="user"),),
        f"PUT {user}/password": (hidden(body={"password": "another"}, name="user"),),
        f"DELETE {user}/credentials": (hidden(name="user"),),
        **_reads(f"{user}/keys", hidden(name="user")),
        f"POST {user}/keys": (hidden(body={}, name="user"),),
        f"DELETE {user}/keys/<key>": (hidden(name="user", key="key"),),
        **_reads(f"{user}/tokens", hidden(name="user")),
        f"POST {user}/tokens": (hidden(body={}, name="user"),),
        f"DELETE {user}/tokens/<token>": (hidden(name="user", token="token"),),
    }


def _cloudml() -> dict[str, tuple[Try, ...]]:
    found = {
        "POST /train": (own(body={"job_name": "{new}", **_OWN_TRAIN}),),
        **_reads("/quota", own(), hidden("org_id={org}"), hidden("org_id=-1")),
        "POST /quota": (own(body={"org_mail": "us@example.org"}),),
        **_reads("/framework", own()),
        "POST /framework": (own(body={}),),
        "POST /model": (hidden(body={"model_name": "x", "model_version": "1", "model_uri": "fds://{bucket}/model"}),),
        "POST /dev": (own(body={"dev_name": "{new}-dev", "password": "x"}),),
        "POST /tensorboard": (taken(body={"tensorboard_name": "x", "logdir": "fds://{bucket}/logs"}),),
    }
    found["POST /train"] += (hidden(body={"job_name": "x", **_TRAIN}),)
    things = {
        "/train": ("/<job_name>", {"job_name": "train"}, ("/logs", "/events")),
        "/model": (
            "/<model_name>/<model_version>",
            {"model_name": "service", "model_version": "1"},
            ("/logs", "/events"),
        ),
        "/dev": ("/<dev_name>", {"dev_name": "dev"}, ("/events",)),
        "/tensorboard": ("/<tensorboard_name>", {"tensorboard_name": "tb"}, ("/events",)),
    }
    for base, (rest, params, below) in things.items():
        tries = tuple(hidden(query, **params) for query in ("", "org_id={org}", "org_id=-1"))
        found |= _reads(base, own(), hidden("org_id={org}"), hidden("org_id=-1"))
        found |= {f"DELETE {base}{rest}": tries} | _reads(f"{base}{rest}", *tries)
        for one in below:
            found |= _reads(f"{base}{rest}{one}", *tries)
    found["GET /train/<job_name>/logs"] += (hidden("follow=true&org_id={org}", job_name="train"),)
    return found


def _openpai() -> dict[str, tuple[Try, ...]]:
    job = "/jobs/<jobName>"
    new = {"jobName": "x", "taskRoles": [_ROLE]}
    return {
        **_reads("", own()),
        "POST /token": (hidden(body={"username": "{user}", "password": "wrong-one"}),),
        "PUT /user": tuple(hidden(body={**_PASSWORD, **more}) for more in ({}, {"modify": True}, {"modify": False})),
        "DELETE /user": (hidden(body={"username": "{user}"}),),
        "PUT /user/<username>/virtualClusters": (hidden(body={"virtualClusters": "default"}, username="user"),),
        **_reads("/jobs", seen(), seen("username={user}")),
        "POST /jobs": (
            own(body={**new, "jobName": "{new}"}),
            used({**new, "codeDir": "fds://{bucket}/model"}),
            used({**new, "authFile": "fds://{bucket}/note"}),
            own(body={**new, "jobName": "{new}-data", "dataDir": "fds://{bucket}/model"}),  # nobody looks for it
            taken(body={**new, "outputDir": "fds://{bucket}/out"}),
        ),
        **_reads(job, seen(jobName="pai")),
        **_reads(f"{job}/config", seen(jobName="pai")),
        **_reads(f"{job}/ssh", seen(jobName="pai")),
        **_reads(f"{job}/ssh/privateKey", Try("refused", {"jobName": "pai"})),
        f"PUT {job}/executionType": tuple(
            Try("refused", {"jobName": "pai"}, body={"value": v}) for v in ("STOP", "START")
        ),
        **_reads("/virtual-clusters", seen()),
        **_reads("/virtual-clusters/<vcName>", seen(vcName="default")),
    }


def _mlbench() -> dict[str, tuple[Try, ...]]:
    return {
        **_reads("/pods/", own()),
        **_reads("/metrics/", own()),
        "POST /metrics/": (hidden(body={**_POINT, "run_id": "{#run}"}), hidden(body={**_POINT, "pod_name": "{pod}"})),
        **_reads(
            "/metrics/<pod_name_or_run_id>/",
            hidden("metric_type=run", pod_name_or_run_id="run"),
            hidden("metric_type=run&format=zip", pod_name_or_run_id="run"),
            hidden(pod_name_or_run_id="pod"),
        ),
        **_reads("/runs/", own()),
        "POST /runs/": (Try("busy", body=run_body("bobs")),),
        **_reads("/runs/<int:run_id>/", hidden(run_id="run")),
        "DELETE /runs/<int:run_id>/": (hidden(run_id="run"),),
    }


def _wmla() -> dict[str, tuple[Try, ...]]:
    return {**_reads("/conf", own()), **_wmla_execs(), **_wmla_searches(), **_wmla_scheduler()}


def _wmla_searches() -> dict[str, tuple[Try, ...]]:
    search, algorithm = "/hypersearch/<hpoName>", "/hypersearch/algorithm"
    return {
        **_reads("/hypersearch", own()),
        "POST /hypersearch": (
            used(Form(_MODEL, {"data": {**_SEARCH, "modelSpec": {"args": _ARGS, "dataSource": [_SOURCE]}}})),
        ),
        "DELETE /hypersearch": (own(),),
        **_reads(search, hidden(hpoName="search")),
        **{f"PUT {search}{rest}": (hidden(hpoName="search"),) for rest in ("", "/restart", "/force")},
        f"DELETE {search}": (hidden(hpoName="search"),),
        **_reads(algorithm, seen(), seen("type=USER_PLUGIN")),
        **_reads(f"{algorithm}/<algoName>", seen(algoName="algorithm")),
        f"DELETE {algorithm}/<algoName>": (Try("refused", {"algoName": "algorithm"}),),
        f"POST {algorithm}/install": (
            taken(body=Form(packed({"optimizer.py": PLUGIN}), {"data": {"name": "{algorithm}"}})),
        ),
        f"POST {algorithm}/debug": (own(body=_SEARCH),),
    }


def _wmla_scheduler() -> dict[str, tuple[Try, ...]]:
    book, plan = "/notebooks/<username>", "/resplans/resplan"
    application = "/scheduler/applications/<appid>"
    found = {
        **_reads("/notebooks/runningservices", Try("refused")),
        f"PUT {book}": (hidden(body={"resourcePlan": "default"}, username="user"),),
        **_reads(f"{book}/runningkernels", hidden(username="user")),
        **_reads(f"{book}/runningservices", hidden(username="user")),
        f"PUT {book}/stopservice": (hidden(username="user"),),
        f"POST {plan}": (Try("refused", body={"name": "{new}"}),),
        f"PUT {plan}": (Try("refused", body={"name": "default"}),),
        **_reads(f"{plan}/<path:resplan_name>", seen(resplan_name="default")),
        f"DELETE {plan}/<path:resplan_name>": (Try("refused", {"resplan_name": "default"}),),
        **_reads("/resplans/resplantree", own()),
    }
    for path in ("applications", "applicationStatistic"):
        found |= _reads(f"/scheduler/{path}", own(), own("applicationid={application}"), own("applicationname={user}"))
    names = {"appid": "application", "type": "stdout"}
    for rest in ("", "/download"):
        found |= _reads(f"{application}/driver/logs/<type>{rest}", hidden(**names))
        executor = f"{application}/executor/<executorid>/logs/<type>{rest}"
        found |= _reads(executor, hidden(**names, executorid="executor"))
    return found


def _wmla_execs() -> dict[str, tuple[Try, ...]]:
    one = "/execs/<execId>"
    form = multipart(part("file", packed({"main.py": ""}))).decode()
    data = "args=--exec-start+Python+--cs-datastore-meta+data_path%3D{bucket}"
    return {
        **_reads("/execs", own()),
        "POST /execs": (Try("used", {}, data, form),),
        "DELETE /execs": (own(),),
        **_reads("/execs/frameworks", own()),
        **_reads(one, hidden(execId="task"), hidden(execId="application")),
        f"DELETE {one}": (hidden(execId="task"), hidden(execId="application")),
        f"POST {one}/stop": (hidden(execId="task"),),
        f"POST {one}/deploy": (hidden(body={"name": "x", "kernel": "{user}.py"}, execId="task"),),
        **_reads(f"{one}/log", hidden(execId="task"), hidden("logType=errlog", execId="task")),
        **_reads(f"{one}/result", hidden(execId="task")),
        **_reads("/scheduler/engine/applications", own()),
        **_reads("/scheduler/engine/applications/<appid>", hidden(appid="application")),
        "PUT /scheduler/applications/<appid>/stop": (hidden(appid="application"),),
        **_reads("/scheduler/kubernetesobjects", own("type=pod")),
    }


def recipes() -> dict[str, tuple[Try, ...]]:
    """``METHOD rule`` -> what is tried."""
    found: dict[str, tuple[Try, ...]] = {}
    documents = {
        "/localml/v1": _native(),
        "/cloud_ml": {},
        "/cloud_ml/v1": _cloudml(),
        "/api/v1": _openpai(),
        "/api": {},
        WMLA: _wmla(),
        "/auth/v1": _reads("/logon", own()) | {"POST /logoff": (own(),)},
    }
    for prefix, made in {**documents, "/api": _mlbench()}.items():
        found |= {key.replace(" ", f" {prefix}", 1): tries for key, tries in made.items()}
    for prefix in ("/localml/v1", "/cloud_ml", "/api/v1", "/api", WMLA):
        found |= _reads(f"{prefix}/openapi.json", own())
    return found
