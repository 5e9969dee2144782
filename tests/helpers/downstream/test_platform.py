"""Somebody else's project: its tests speak to localml as to the vendors, with the standard library alone."""

import base64
import hashlib
import hmac
import http.client
import io
import json
import os
import signal
import tarfile
import time
import urllib.parse
from contextlib import closing
from pathlib import Path

import pytest

TRAINER = """
import json, sys
from localml_launcher.objects import resolve
loss = 1.0
for step in range(20):
    loss *= 0.5
resolve(sys.argv[-1]).write_text(json.dumps(loss))
print("trained with", sys.argv[1:-1])
"""
SETUP = "from setuptools import setup\nsetup(name='trainer', version='1.0', packages=['trainer'])\n"


def package():
    """A trainer package as Cloud-ML wants it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in (("setup.py", SETUP), ("trainer/__init__.py", ""), ("trainer/task.py", TRAINER)):
            member = tarfile.TarInfo(f"trainer-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return target.getvalue()


def call(url, method, path, body=None, form=None, **headers):
    """The answer's text; only answers below 400 are expected."""
    data = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        headers["Content-Type"] = "application/json"
    if form is not None:
        data, headers["Content-Type"] = urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded"
    place = urllib.parse.urlsplit(url)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=60)) as connection:
        connection.request(method, path, data or None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status < 400, text
        return json.loads(text) if "json" in answer.getheader("Content-Type", "") else text


def wait(ask, ends, seconds=400):
    """What is asked for, once it is one of ``ends``."""
    deadline = time.monotonic() + seconds
    while (found := ask()) not in ends:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_a_native_job_trains_on_a_gpu(localml):
    words = ["python", "-c", "import os; print('GPU', bool(os.environ['CUDA_VISIBLE_DEVICES']))"]
    job = localml.client.run(words, gpus=1, wait=True, timeout=120)
    assert (job.state, localml.client.text(job.id)) == ("succeeded", "GPU True\n")


@pytest.mark.parametrize("framework", ["python", "scikitlearn", None])
def test_a_cloudml_job_trains_a_package(localml, framework):
    env = localml.env("cloudml")

    def signed(method, path, body=None):
        data, stamp = b"" if body is None else json.dumps(body).encode(), str(int(time.time()))
        md5 = hashlib.md5(data).hexdigest()
        text = f"{path}\n{stamp}\n{md5}\n".encode()
        digest = base64.b64encode(hmac.new(env["secret_key"].encode(), text, hashlib.sha1).digest()).decode()
        names = ("X-Xiaomi-Timestamp", "X-Xiaomi-Content-MD5", "X-Xiaomi-Secret-Key-Id", "Authorization")
        headers = dict(zip(names, (stamp, md5, env["access_key"], "Galaxy V3 " + digest), strict=True))
        return call(env["url"], method, path, body, **headers)

    name = f"fall-{framework or 'default'}".lower()
    if "code" not in [one.name for one in localml.client.buckets()]:
        localml.client.create_bucket("code")
    localml.client.put("fds://code/trainer.tar.gz", package())
    asked = {
        "job_name": name,
        "module_name": "trainer.task",
        "trainer_uri": "fds://code/trainer.tar.gz",
        "job_args": f"--rate 0.1 fds://code/{name}.json",
    }
    signed("POST", "/cloud_ml/v1/train", {**asked, **({"framework": framework} if framework else {})})
    state = wait(lambda: signed("GET", f"/cloud_ml/v1/train/{name}")["state"], ("completed", "failed"))
    output = localml.client.text(localml.client.workloads(contains=name).workloads[0].id)
    assert state == "completed", output
    assert "trained with ['--rate', '0.1']" in output
    assert json.loads(b"".join(localml.client.fetch(f"fds://code/{name}.json"))) == 0.5**20


def test_an_openpai_job_runs_in_an_image_of_openpais(localml):
    env = localml.env("openpai")
    headers = {"Authorization": f"Bearer {env['token']}"}
    role = {"name": "main", "taskNumber": 2, "cpuNumber": 1, "memoryMB": 128, "gpuNumber": 1}
    role["command"] = "echo task $PAI_TASK_INDEX"
    job = {"jobName": "pai", "image": "openpai/pai.run.tensorflow", "taskRoles": [role]}
    call(env["url"], "POST", "/api/v1/jobs", job, **headers)
    path = "/api/v1/jobs/pai"
    state = wait(lambda: call(env["url"], "GET", path, **headers)["jobStatus"]["state"], ("SUCCEEDED", "FAILED"))
    assert state == "SUCCEEDED"


@pytest.mark.parametrize("backend", ["MPI", "GLOO"])
def test_an_mlbench_run_trains_on_two_workers(localml, backend):
    place = urllib.parse.urlsplit(localml.env("mlbench")["url"])
    login = base64.b64encode(f"{place.username}:{place.password}".encode()).decode()

    def ask(method, path, **more):
        return call(localml.url, method, path, Authorization=f"Basic {login}", **more)

    form = {"name": f"by-{backend}", "num_workers": 2, "num_cpus": "0.5", "backend": backend}
    run = ask("POST", "/api/runs/", form=form)["id"]
    state = wait(lambda: ask("GET", f"/api/runs/{run}/")["state"], ("FINISHED", "FAILED"))
    assert state == "FINISHED", ask("GET", f"/api/runs/{run}/")["job_metadata"]


@pytest.mark.parametrize("number", range(2))
def test_a_worker_of_xdist_dies_while_its_jobs_run(localml, number):
    if "PYTEST_XDIST_WORKER" not in os.environ or not os.environ.get("KILL"):
        pytest.skip("only where it is wanted")
    job = localml.client.run(["sh", "-c", "trap '' TERM; echo up; sleep 3600"])
    wait(lambda: localml.client.text(job.id), ["up\n"])
    Path(os.environ["KILL"], str(number)).touch()
    os.kill(os.getpid(), signal.SIGKILL)
