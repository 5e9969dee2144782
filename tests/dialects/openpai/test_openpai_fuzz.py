"""Requests made up from the served document: the server never fails, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from localml.config import Config
from localml.core.errors import LocalmlError
from localml.dialects.openpai import create_app
from localml.dialects.openpai.translate.forms import nested
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

CHECKS = [status_code_conformance, response_schema_conformance, content_type_conformance]
OPERATIONS = [
    ("POST", "/token"),
    ("PUT", "/user"),
    ("DELETE", "/user"),
    ("PUT", "/user/{username}/virtualClusters"),
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("GET", "/jobs/{jobName}"),
    ("GET", "/jobs/{jobName}/config"),
    ("GET", "/jobs/{jobName}/ssh"),
    ("PUT", "/jobs/{jobName}/executionType"),
    ("GET", "/virtual-clusters"),
    ("GET", "/virtual-clusters/{vcName}"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", auth=False)
    platform = Platform(config, engine=FakeEngine())
    yield schemathesis.openapi.from_wsgi("/api/v1/openapi.json", create_app(platform))
    platform.close()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_is_sent_is_answered_as_documented(api: schemathesis.BaseSchema, method: str, path: str) -> None:
    operation = api["/api/v1" + path][method]

    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        response = case.call()
        if response.status_code not in (404, 405, 429):  # other addresses and methods are tried too, and many passwords
            case.validate_response(response, checks=CHECKS)
        assert "server's log" not in response.text  # what is said of a defect

    run()


names = st.text("ab[]01", max_size=12)


@given(st.dictionaries(names, names, max_size=6))
def test_no_form_is_too_strange(fields: dict[str, str]) -> None:
    try:
        found = nested(fields)
    except LocalmlError:
        return
    assert isinstance(found, dict)


def test_brackets_are_objects_and_numbers_are_lists() -> None:
    given_fields = {"a[1][x]": "2", "a[0][x]": "1", "b[]": "3", "c[k]": "v", "d": "e"}
    assert nested(given_fields) == {"a": [{"x": "1"}, {"x": "2"}], "b": ["3"], "c": {"k": "v"}, "d": "e"}
