"""The contract's schemas and what is taken agree: its examples, and each of them with any one member spoiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.wmla import WmlaClient, packed
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from localml.core.errors import LocalmlError
from localml.core.studies.studies import StudyQuery
from localml.dialects.kit.errors import from_pydantic
from localml.dialects.wmla.schemas.algorithms import DebugRequest, InstallRequest
from localml.dialects.wmla.schemas.searches import HpoTaskRequest
from localml.dialects.wmla.translate.searches import study_spec
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
SCHEMAS = CONTRACT["components"]["schemas"]
MODELS: dict[str, type[BaseModel]] = {
    "HpoTaskRequest": HpoTaskRequest,
    "HpoDebugRequest": DebugRequest,
    "HpoAlgorithmInstallRequest": InstallRequest,
}
OTHERS: tuple[Any, ...] = (
    *("", "x", "7", "0.1", "range", "fix", "Discreate", "STR", "algorithm", "Maximize", "-1", "1e999"),
    *(0, -1, -2, 1, 2, 3.5, True, [], {}, ["a"], [1], [0.5], [{}]),
)
BEYOND_THE_SCHEMA = (
    *("is above", "step must be an integer", "stands for the algorithms", "modelSpec: is required", "is too large"),
    *("CubeSize: must not be below", "eta: must be a number above 1", "should have at least 1 character"),
    *("and no '-' at its start", "should be a finite number"),
    *("power: should be greater than 0", "step: should be greater than 0"),
)
"""Rules that are in the contract's words and not in its schemas, or that nothing could be done without."""
TAKEN_BESIDES = ("step", "power", "maxiteration", "miniteration")
"""Members that are texts and come as numbers, too."""


def paths(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where everything in a body is."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from paths(one, *path, name)


def spoiled(body: Any) -> Iterator[tuple[Any, Any]]:
    """Bodies with one thing left out or replaced, and where it was."""
    for path in paths(body):
        for other in (None, *OTHERS):
            made = copy.deepcopy(body)
            place = made
            for name in path[:-1]:
                place = place[name]
            if other is None:
                del place[path[-1]]
            else:
                place[path[-1]] = other
            yield path, made


def refusal(model: type[BaseModel], body: Any) -> str | None:
    """Why a body is refused; None when it is taken."""
    try:
        made = model.model_validate(body)
        if isinstance(made, HpoTaskRequest | DebugRequest):
            study_spec(made, made.algoDef)
    except ValidationError as error:
        return str(from_pydantic(error))
    except LocalmlError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", MODELS)
def test_what_the_schema_says_is_what_is_taken(name: str) -> None:
    said = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": CONTRACT["components"]})
    wrong = []
    for example in SCHEMAS[name]["examples"]:
        assert refusal(MODELS[name], example) is None
        for path, body in spoiled(example):
            fits, words = said.is_valid(body), refusal(MODELS[name], body)
            if fits and words is not None and not any(one in words for one in BEYOND_THE_SCHEMA):
                wrong.append(f"{path} is refused: {words}: {body}")
            if not fits and words is None and path[-1] not in TAKEN_BESIDES:
                wrong.append(f"{path} is taken: {body}")
    assert wrong == []


def told(platform: Platform, name: str | None) -> None:
    admin = platform.identity.user("admin")
    for row in platform.studies.page(StudyQuery(limit=1000)).items:
        assert name in (None, row.name)
        platform.studies.stop(row.id or 0, admin, force=True)
        platform.studies.delete(row.id or 0, admin)


@pytest.mark.parametrize("example", SCHEMAS["HpoTaskRequest"]["examples"])
@pytest.mark.parametrize("write", [repr, None])
def test_the_contracts_examples_start(client: WmlaClient, platform: Platform, example: Any, write: Any) -> None:
    answer = client.search(write(example) if write else example, packed({"main.py": ""}))
    assert answer.status == 200, answer.data
    told(platform, answer.json["uid"])


def test_the_contracts_form_starts(client: WmlaClient, platform: Platform) -> None:
    form = CONTRACT["paths"]["/hypersearch"]["post"]["requestBody"]["content"]["multipart/form-data"]
    text = form["examples"]["randomPythonDict"]["value"]["data"]
    assert client.search(text, packed({"main.py": ""})).json["uid"] == "rs1"
    told(platform, "rs1")
