"""A dialect's operations, whose documentation is only made for who asks for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint
from flask_openapi.types import ParametersTuple


class Operations(APIBlueprint):
    """flask-openapi's blueprint; takes what that takes. It describes each operation as soon as it is declared, with a
    schema of every answer: a third of the time and of the memory that a dialect takes, for a document that hardly
    anybody reads.

    Args:
        final_slash: paths are taken with one at their end, too, as they are without.
    """

    def __init__(self, name: str, import_name: str, *, final_slash: bool = False, **named: Any) -> None:
        super().__init__(name, import_name, **named)
        self._final_slash = final_slash
        self._made = name, import_name, named
        self._declared: list[tuple[str, Any, dict[str, Any]]] = []

    def _collect_openapi_info(self, rule: str, func: Any, **named: Any) -> ParametersTuple:
        self._declared.append((rule, func, named))
        return super()._collect_openapi_info(rule, func, **{**named, "doc_ui": False})

    def add_url_rule(self, rule: str, *given: Any, **options: Any) -> None:
        """See Flask."""
        if self._final_slash:
            options["strict_slashes"] = False
        super().add_url_rule(rule, *given, **options)

    def described(self) -> APIBlueprint:
        """A twin that has the descriptions and serves nothing."""
        name, import_name, named = self._made
        twin = APIBlueprint(name, import_name, **named)
        for rule, func, particulars in self._declared:
            twin._collect_openapi_info(rule, func, **particulars)
        return twin
