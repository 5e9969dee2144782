"""Requests made up from the served document: the server never fails, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from localml.config import Config
from localml.dialects.mlbench import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", cpus=8)
    platform = Platform(config, engine=FakeEngine())
    found = schemathesis.openapi.from_wsgi("/api/openapi.json", create_app(platform))
    found.config.update(headers={"Authorization": f"Bearer {platform.credentials.token}"})
    yield found
    platform.close()


OPERATIONS = [
    ("GET", "/api/pods/"),
    ("GET", "/api/metrics/"),
    ("POST", "/api/metrics/"),
    ("GET", "/api/metrics/{pod_name_or_run_id}/"),
    ("GET", "/api/runs/"),
    ("POST", "/api/runs/"),
    ("GET", "/api/runs/{run_id}/"),
    ("DELETE", "/api/runs/{run_id}/"),
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    response_schema_conformance,
    response_headers_conformance,
    content_type_conformance,
]


def test_all_operations_are_tried(api: schemathesis.BaseSchema) -> None:
    assert {(one.ok().method.upper(), one.ok().path) for one in api.get_all_operations()} == set(OPERATIONS)


FREE = {"/api/pods/", "/api/metrics/", "/api/runs/"}
CASES = [
    (*one, mode)
    for one in OPERATIONS
    for mode in schemathesis.GenerationMode
    if not (one[0] == "GET" and one[1] in FREE and mode.value == "negative")  # nothing sent there can be wrong
]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_whatever_is_sent_is_answered_as_documented(
    api: schemathesis.BaseSchema, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    operation = api[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        if case.query.get("format") == "zip":
            case.query.pop("format")  # answered as a download, which the document leaves to words
        response = case.call()
        assert response.status_code != 401  # its Authorization is not made up
        if response.status_code not in (404, 405):  # other addresses and methods are tried too
            case.validate_response(response, checks=CHECKS)

    run()
