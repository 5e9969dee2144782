"""Requests made up from the served document: the server never fails, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from helpers.cloudml import put_trainer
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from localml.config import Config
from localml.dialects.cloudml import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", auth=False)
    platform = Platform(config, engine=FakeEngine())
    put_trainer(platform.buckets, "fds://b/t.tar.gz")
    yield schemathesis.openapi.from_wsgi("/cloud_ml/openapi.json", create_app(platform))
    platform.close()


OPERATIONS = [
    ("GET", "/train"),
    ("POST", "/train"),
    ("GET", "/train/{job_name}"),
    ("DELETE", "/train/{job_name}"),
    ("GET", "/train/{job_name}/logs"),
    ("GET", "/train/{job_name}/events"),
    ("GET", "/model"),
    ("POST", "/model"),
    ("GET", "/model/{model_name}/{model_version}"),
    ("DELETE", "/model/{model_name}/{model_version}"),
    ("GET", "/model/{model_name}/{model_version}/logs"),
    ("GET", "/model/{model_name}/{model_version}/events"),
    ("GET", "/dev"),
    ("POST", "/dev"),
    ("GET", "/dev/{dev_name}"),
    ("DELETE", "/dev/{dev_name}"),
    ("GET", "/dev/{dev_name}/events"),
    ("GET", "/tensorboard"),
    ("POST", "/tensorboard"),
    ("GET", "/tensorboard/{tensorboard_name}"),
    ("DELETE", "/tensorboard/{tensorboard_name}"),
    ("GET", "/tensorboard/{tensorboard_name}/events"),
    ("GET", "/quota"),
    ("GET", "/framework"),
]
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, content_type_conformance]


def test_all_operations_are_tried(api: schemathesis.BaseSchema) -> None:
    found = {(one.ok().method.upper(), one.ok().path.removeprefix("/cloud_ml/v1")) for one in api.get_all_operations()}
    assert found == set(OPERATIONS)


MODES = list(schemathesis.GenerationMode)
CASES = [(*one, mode) for one in OPERATIONS for mode in MODES if (one[1], mode.value) != ("/framework", "negative")]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)  # nothing that is sent to framework can be wrong
def test_whatever_is_sent_is_answered_as_documented(
    api: schemathesis.BaseSchema, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    operation = api["/cloud_ml/v1" + path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        if case.query.get("follow") is not None:
            case.query.pop("follow")  # answered as plain lines, which the document leaves to words
        response = case.call()
        if response.status_code not in (404, 405):  # other addresses and methods are tried too
            case.validate_response(response, checks=CHECKS)

    run()
