"""What the documents name is there: files, folders, and names in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.dialects import REGISTRY

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "localml"
PLACES = {
    "README.md": (ROOT, PACKAGE),
    "localml/README.md": (PACKAGE, ROOT),
    "localml/control/README.md": (PACKAGE / "control", PACKAGE, ROOT),
    "localml/core/people/README.md": (PACKAGE / "core" / "people", PACKAGE),
    "docs/http-server.md": (ROOT,),
    "docs/retention.md": (ROOT,),
    "docs/limits.md": (ROOT,),
    "docs/models.md": (ROOT,),
    "docs/jobs.md": (ROOT / "docs", ROOT),
    "docs/security.md": (ROOT / "docs", ROOT),
    "docs/vendors.md": (ROOT,),
    "docs/metrics.md": (ROOT / "docs", ROOT),
    "docs/studies.md": (ROOT / "docs", ROOT),
}
"""Document -> the folders that its paths start from."""
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\)")
NAMED = re.compile(r"([\w./-]+\.py)(?::([\w.]+))?")
FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)*/|(?:scripts|tests|localml|runtimes)/[\w./-]+")
OTHERS = {"setup.py", "kernel.py", "auth.py", "errors.py", "schemas.py", "translate.py", "tables.py", "model/"}
OTHERS |= {"optimizer.py"}
"""Files that users have, or that there are several of."""


def mentions(document: str) -> Iterator[tuple[str, str]]:
    """(path, name in it or nothing) of everything in code marks that looks like a file or a folder, and of links."""
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in CODE.findall(text):
        if code in OTHERS:
            continue
        if found := NAMED.fullmatch(code):
            yield found[1], found[2] or ""
        elif FOLDER.fullmatch(code):
            yield code, ""
    for path in LINK.findall(text):
        yield path, ""


def located(document: str, path: str) -> Path | None:
    return next((base / path for base in PLACES[document] if (base / path).exists()), None)


def defined(body: list[ast.stmt], name: str) -> bool:
    """Whether a dotted name is a class, function, or variable of a module."""
    first, _, rest = name.partition(".")
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == first:
            return not rest or defined(node.body, rest)
        if not rest and any(isinstance(one, ast.Name) and one.id == first for one in targets(node)):
            return True
    return False


def targets(node: ast.stmt) -> list[ast.expr]:
    """What a statement gives a value to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


@pytest.mark.parametrize("document", PLACES)
def test_every_path_and_name_in_a_document_exists(document: str) -> None:
    found = list(mentions(document))
    assert found
    wrong = []
    for path, name in found:
        place = located(document, path)
        if place is None:
            wrong.append(f"{path}: no such file or folder")
        elif name and not defined(ast.parse(place.read_text()).body, name):
            wrong.append(f"{path}: has no {name}")
    assert wrong == []


def test_the_walk_leads_through_all_rooms() -> None:
    text = (PACKAGE / "README.md").read_text()
    modules = {path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in modules}
    told = {"__init__.py", "config.py", "metrics.py"}  # settings and a page of figures need no guide
    assert {room for room in rooms - told if f"`{room}`" not in text} == set()


@pytest.mark.parametrize("name", [one.name for one in REGISTRY if one.prefixes])
def test_the_readme_has_every_api_that_is_served(name: str) -> None:
    rows = re.findall(r"^\| .* \| (`/.*`) \| .* \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    paths = {path for row in rows for path in re.findall(r"`([^`]+)`", row)}
    (one,) = [one for one in REGISTRY if one.name == name]
    prefixes = {prefix for prefix in one.prefixes if not prefix.endswith(".json")}
    assert all(any(path.startswith(prefix) for path in paths) for prefix in prefixes)


def test_a_path_that_does_not_exist_is_found_out() -> None:
    assert located("README.md", "localml/control/README.md") is not None
    assert located("README.md", "localml/no_such_room.py") is None
    body = ast.parse("class A:\n    def b(self): ...\nC: int = 1\nD = 2").body
    assert all(defined(body, name) for name in ("A", "A.b", "C", "D"))
    assert not any(defined(body, name) for name in ("b", "A.c", "E", "A.b.c"))
