"""What docs/studies.md says of algorithms, parameters and files is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from localml.cli import study_file
from localml.client.spaces import parameter
from localml.core.studies.algorithms import BUILT_IN, checked
from localml.core.studies.space import Parameter
from localml.core.studies.specs import StudySpec

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "studies.md").read_text()
FILES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


def rows(title: str) -> list[list[str]]:
    """The cells of the table of a section."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]


def test_the_table_has_all_algorithms_with_all_their_options() -> None:
    told = {re.findall(r"`(\w+)`", name)[0]: re.findall(r"`(\w+)`", options) for name, _, options in rows("Algorithms")}
    assert told == {one.name: [option.name for option in one.options] for one in BUILT_IN.values()}


@pytest.mark.parametrize("text", [one for cells in rows("Parameters") for one in re.findall(r"`([^`]+)`", cells[0])])
def test_each_way_to_write_a_parameter_is_one(text: str) -> None:
    Parameter.model_validate(parameter("x", text, "x"))


@pytest.mark.parametrize("text", [*FILES, (ROOT / "scripts" / "examples" / "digits" / "sweep.toml").read_text()])
def test_each_file_is_a_study(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    found = study_file.load(file)
    for role in found.trial.spec["roles"]:
        role.get("resources", {}).pop("gpu", None)
    spec = StudySpec.model_validate({**found.spec, "trial": found.trial.spec})
    checked(spec.algorithm, spec)
    assert set(re.findall(r"{(\w+)}", str(found.trial.spec))) <= {one.name for one in spec.space}
