"""What the generated OpenAPI document cannot say by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask_openapi.types import ResponseDict
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.schemas.algorithms import InstallRequest
from localml.dialects.wmla.schemas.execs import TaskData
from localml.dialects.wmla.schemas.searches import HpoTaskRequest

SCHEME = "ApiKeyAuth"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "HTTP Basic, or 'Bearer ' and a token from /auth/v1/logon",
    }
}


def failures(*statuses: int) -> ResponseDict:
    """Those that an operation may answer with, besides 401 and 500. The document has no body for them."""
    return dict.fromkeys(sorted({*statuses, 401, 500}))


@dataclass(frozen=True, slots=True)
class _Form:
    """A form that an operation takes: its file, and what its field ``data`` holds as a text of JSON or of Python."""

    file: str
    file_required: bool
    data: type[BaseModel]
    data_required: bool

    def schema(self) -> dict[str, Any]:
        """Of the whole form."""
        file = {"type": "string", "format": "binary", "description": self.file}
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": f"#/components/schemas/{self.data.__name__}"},
            "description": "JSON, or the text of a Python dict",
        }
        required = {"file": self.file_required, "data": self.data_required}
        needed = [name for name, wanted in required.items() if wanted]
        return {"type": "object", "required": needed, "properties": {"file": file, "data": data}}


_MODEL = "The one model file, or a tar of the model directory named *.modelDir.tar"
_INSTALL = "/hypersearch/algorithm/install"
_FORMS = {
    "/execs": _Form(_MODEL, True, TaskData, False),
    "/hypersearch": _Form(_MODEL, True, HpoTaskRequest, True),
    _INSTALL: _Form("Tar of the algorithm directory", False, InstallRequest, True),
}
_TEXT, _BYTES = {"type": "string"}, {"type": "string", "format": "binary"}
_ANSWERS = {
    "/execs/{execId}/log": {"text/plain": _TEXT, "application/json": _TEXT},
    "/execs/{execId}/result": {"application/zip": _BYTES},
}
"""Answers that are no JSON, or not always."""


def complete(document: dict[str, Any]) -> None:
    """Add the forms, which the operations read by themselves, and answers that are streamed. The options of a task are
    required as in the vendor's document, although they may stand in the form instead."""
    models = [(form.data, "validation") for form in _FORMS.values()]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document["components"]["schemas"] |= schemas["$defs"]
    for path, form in _FORMS.items():
        operation = document["paths"][BASE + path]["post"]
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form.schema()}}}
    local = _FORMS[_INSTALL].schema()
    del local["properties"]["file"]
    bodies = document["paths"][BASE + _INSTALL]["post"]["requestBody"]["content"]
    bodies["application/x-www-form-urlencoded"] = {"schema": local}
    for path, content in _ANSWERS.items():
        answer = document["paths"][BASE + path]["get"]["responses"]["200"]
        answer["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    for parameter in document["paths"][f"{BASE}/execs"]["post"]["parameters"]:
        parameter["required"] = parameter["required"] or parameter["name"] == "args"
