"""The vendor's published client, unmodified, against a live server."""

from __future__ import annotations

import inspect
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from helpers.rig import wait_until
from helpers.wmla import BASE, OVER, PLUGIN, packed
from helpers.wmla_world import ARGS, GRID, SLEEP, SPACE, TRAIN, TRIAL

from localml.client import Client
from localml.server import Server

pytestmark = pytest.mark.vendor
ibm_wmla = pytest.importorskip("ibm_wmla.wmla_api_v1", reason="vendor: ibm-wmla is not installed")
core = pytest.importorskip("ibm_cloud_sdk_core")
authenticators = pytest.importorskip("ibm_cloud_sdk_core.authenticators")

CONTRACT = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
DOCUMENTED = {
    (method, re.sub(r"{\w+}", "{}", path))
    for path, methods in CONTRACT["paths"].items()
    for method in methods
    if method != "parameters"
}
_CALL = re.compile(r"url = '([^']+)'.*?method='(\w+)'", re.DOTALL)


def offered() -> dict[str, tuple[str, str]]:
    """The client's methods -> method and path, variables left out."""
    found = {}
    for name, function in inspect.getmembers(ibm_wmla.DeepLearningImpactV1, inspect.isfunction):
        if (call := _CALL.search(inspect.getsource(function))) is not None:
            path = re.sub(r"{\w+}", "{}", call[1].removeprefix(BASE))
            found[name] = (call[2].lower(), path)
    return found


OFFERED = offered()
KNOWN = {name for name, call in OFFERED.items() if call in DOCUMENTED}


class Service:
    """The client as its users have it; what it is asked to do is noted."""

    def __init__(self, server: Server, user: str = "admin", password: str | None = None) -> None:
        password = server.platform.credentials.password if password is None else password
        self._client = ibm_wmla.DeepLearningImpactV1(authenticators.BasicAuthenticator(user, password))
        self._client.set_service_url(server.url)
        self.driven: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.driven.add(name)
        call = getattr(self._client, name)
        return lambda *given, **named: call(*given, **named).get_result()


@pytest.fixture
def service(server: Server) -> Service:
    return Service(server)


def over(service: Service, name: str) -> dict[str, Any]:
    """A search, once it is over."""
    wait_until(lambda: service.get_one_hpo(name)["state"] in OVER, 90)
    found: dict[str, Any] = service.get_one_hpo(name)
    return found


def ended(service: Service, number: str) -> dict[str, Any]:
    """A task, once it is over."""
    wait_until(lambda: service.get_exec(number)["state"] in OVER, 90)
    found: dict[str, Any] = service.get_exec(number)
    return found


def model(script: str, **more: bytes) -> io.BytesIO:
    return io.BytesIO(packed({"main.py": script, **more}))


def test_it_knows_as_many_operations_of_the_document_as_it_did() -> None:
    assert len(KNOWN) == 22


def test_it_drives_every_operation_that_the_document_has(service: Service, tmp_path: Path) -> None:
    assert all(isinstance(value, str) for value in service.get_deep_learning_conf().values())
    frameworks = service.get_platform_rest_deeplearning_execs_frameworks()
    assert "PyTorch" in {ibm_wmla.DLFramework.from_dict(one).name for one in frameworks}
    _tasks(service)
    _algorithms(service, tmp_path)
    _searches(service)
    assert service.driven == KNOWN


def _tasks(service: Service) -> None:
    large = model(TRAIN, ballast=bytes(range(256)) * 8192)
    made = service.create_exec("any-instance-group", f"{ARGS} --batch-size 200", large)
    assert ibm_wmla.Batch.from_dict(made).app_id == made["appId"]
    task = ended(service, made["id"])
    assert (task["state"], task["args"]) == ("FINISHED", f"{ARGS} --batch-size 200")
    assert made["id"] in {one["id"] for one in service.list_execs()}
    assert "training with --batch-size 200" in service.get_platform_rest_deeplearning_exec_log(made["id"])
    answer = service.get_platform_rest_deeplearning_exec_result(made["id"])
    assert answer.headers["Content-Disposition"].split(";")[1].startswith("filename=")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.read(next(name for name in archive.namelist() if name.endswith("weights.txt"))) == b"trained"
    (application,) = service.get_applications(applicationid=made["appId"], sort="-submittedtime", length="5")
    assert ibm_wmla.SparkApplicationDetail.from_dict(application).applicationid == made["appId"]
    endless = service.create_exec("any", ARGS, model(SLEEP))["id"]
    wait_until(lambda: service.get_exec(endless)["state"] == "RUNNING", 60)
    assert service.post_platform_rest_deeplearning_exec_stop(endless) is None
    assert ended(service, endless)["state"] == "KILLED"
    assert service.delete_exec() is None
    assert service.list_execs() == []


def _algorithms(service: Service, folder: Path) -> None:
    path = folder / "vendors.tar"
    path.write_bytes(packed({"optimizer.py": PLUGIN}))
    with path.open("rb") as file:
        made = service.install_hpo_algorithm("{'name': 'Vendors', 'remoteExec': False}", file=file)
    assert ibm_wmla.CreationResponse.from_dict(made).uid == "Vendors"
    assert [one["name"] for one in service.get_all_hpo_algorithm(type="USER_PLUGIN")] == ["Vendors"]
    assert {one["type"] for one in service.get_all_hpo_algorithm()} == {"BUILD_IN", "USER_PLUGIN"}
    assert ibm_wmla.HpoAlgorithmDesc.from_dict(service.get_one_algorithm("Vendors")).log_level == "INFO"
    chosen = {"algorithm": "Vendors", "objectiveMetric": "loss", "objective": "minimize", "maxJobNum": 2}
    request = {"modelSpec": {"sigName": "any", "args": ARGS}, "algoDef": chosen, "hyperParams": SPACE}
    name = service.start_hpo(model(TRIAL), str(request))["uid"]
    found = over(service, name)
    assert (found["state"], found["complete"]) == ("FINISHED", 2)
    assert service.delete_one_hpo(name) is None
    assert service.delete_one_hpoalgorithm("Vendors") is None


def _searches(service: Service) -> None:
    made = service.start_hpo(model(TRIAL), json.dumps({**GRID, "hpoName": "by-client"}))
    assert ibm_wmla.CreationResponse.from_dict(made).uid == "by-client"
    found = ibm_wmla.HpoTaskState.from_dict(over(service, "by-client"))
    assert found.state == "FINISHED"
    assert [one.state for one in found.experiments] == ["FINISHED", "FINISHED"]
    best = min(found.experiments, key=lambda one: one.metric_val)
    assert best.metric_val == pytest.approx(0.25 + 1 / 3)
    assert found.best.id == best.id
    assert [one["hpoName"] for one in service.get_all_hpo()] == ["by-client"]
    assert service.restart_one_hpo("by-client") is None
    over(service, "by-client")
    for stop in (service.stop_one_hpo, service.stop_one_hpo_force):
        name = service.start_hpo(model(SLEEP), str(GRID))["uid"]
        assert stop(name) is None
        assert over(service, name)["state"] == "KILLED"
        assert service.delete_one_hpo(name) is None
    assert service.delete_all_hpo() is None
    assert service.get_all_hpo() == []


def test_it_reads_what_env_prints(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(server.url, server.platform.credentials.token) as own:
        for name, value in own.env("wmla")["variables"].items():
            monkeypatch.setenv(name, value)
    found = ibm_wmla.DeepLearningImpactV1.new_instance().get_deep_learning_conf().get_result()
    assert found["DLI_REST_URL"] == server.url + BASE


def test_it_shows_its_user_the_words_of_a_failure(service: Service) -> None:
    with pytest.raises(core.ApiException, match=r"nothing.*Status code: 400") as raised:
        service.get_exec("nothing")
    assert isinstance(raised.value.message, str)
    with pytest.raises(core.ApiException, match=r"balance|quot.*Status code: 400"):
        service.create_exec("any", "--exec-start 'PyTorch", model(TRAIN))


def test_it_is_nobody_without_the_password(server: Server) -> None:
    stranger = Service(server, password="wrong")
    for call in (stranger.list_execs, stranger.get_all_hpo, stranger.get_deep_learning_conf):
        with pytest.raises(core.ApiException, match="Status code: 401"):
            call()


@pytest.mark.parametrize("name", ["get_models", "get_full_dataset_details", "get_edi_models", "get_app_instances"])
def test_what_only_an_older_document_has_is_not_found(name: str, service: Service) -> None:
    assert name in set(OFFERED) - KNOWN
    with pytest.raises(core.ApiException, match=r"nothing is served at .*Status code: 404"):
        getattr(service, name)()


@pytest.mark.parametrize("scheme", ["bearer", "X-Auth-Token"])
def test_who_logged_on_goes_on_with_the_token(server: Server, scheme: str) -> None:
    pair = ("admin", server.platform.credentials.password)
    token = requests.get(f"{server.url}/auth/v1/logon", auth=pair, timeout=30).json()["accessToken"]
    headers = {"Authorization": f"Bearer {token}"} if scheme == "bearer" else {scheme: token}
    assert requests.get(f"{server.url}{BASE}/conf", headers=headers, timeout=30).status_code == 200
