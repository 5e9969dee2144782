"""Hyperparameters and experiments as requests have them.

Words are compared without case, and the vendor's second spellings are taken: ``discreteStrVal``, ``Discreate``,
``STRING``, ``fixedHyperParams``. Clients of old versions send ``step`` and ``power`` as numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, model_validator

from localml.core.errors import invalid
from localml.core.limits import MOST_CHOICES, MOST_DIMENSIONS, MOST_GRID_POINTS

GRID = "ExperimentGridSearch"
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_LARGEST = 1 << 53
"""Up to here every integer is a double, too, as which ranges are kept."""
_LONGEST = 400
"""Characters of a number in a text."""


def folded(**others: str) -> BeforeValidator:
    """A word whose case does not matter; ``others`` are further spellings, in lower case."""

    def fold(value: Any) -> Any:
        return others.get(value.lower(), value.lower()) if isinstance(value, str) else value

    return BeforeValidator(fold)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("should be a number")
    if abs(value) > _MOST_REAL or math.isnan(value):
        raise ValueError("should be a finite number")
    return float(value)


def _whole(value: Any) -> int:
    """JSON has one kind of number: 5.0 is an integer, and true and "5" are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_whole(value):
        raise ValueError("should be an integer")
    if abs(value) > _LARGEST:
        raise ValueError(f"may be {_LARGEST} at most, either way")
    return int(value)


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _text_or_number(value: Any) -> float:
    if not isinstance(value, str):
        return _real(value)
    if len(value) > _LONGEST or not _NUMBER.fullmatch(value):
        raise ValueError("should be a number, as a text")
    return _real(float(value))


def _text_or_whole(value: Any) -> int:
    if isinstance(value, str) and len(value) <= _LONGEST and _WHOLE.fullmatch(value):
        return _whole(int(value))
    return _whole(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("should be a text")
    return value


_MOST_REAL = int(1.7976931348623157e308)
_FIXED: dict[str, Callable[[Any], Any]] = {"int": _text_or_whole, "double": _text_or_number, "str": _text}
_OF_TYPE: dict[tuple[str, str], tuple[str, ...]] = {
    ("range", "double"): ("minDbVal", "maxDbVal"),
    ("range", "int"): ("minIntVal", "maxIntVal"),
    ("discrete", "double"): ("discreteDbVal",),
    ("discrete", "int"): ("discreteIntVal",),
    ("discrete", "str"): ("discreateStrVal",),
    ("fix", "double"): ("fixedVal",),
    ("fix", "int"): ("fixedVal",),
    ("fix", "str"): ("fixedVal",),
}
"""Type and dataType -> the members that such a one needs."""
_COMMON = frozenset({"name", "type", "dataType"})
_OF_RANGES = frozenset({"step", "power"})
_SPELLINGS = {"discreateStrVal": ("discreateStrVal", "discreteStrVal")}

Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real)]
Positive = Annotated[float, BeforeValidator(_text_or_number), Field(gt=0)]
"""A number above 0: in a text, as the document has it, or a plain one."""
DataType = Annotated[Literal["int", "double", "str"], folded(string="str")]
ParamType = Annotated[Literal["range", "discrete", "fix"], folded(discreate="discrete")]
ParamName = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Choices = Field(default=None, min_length=1, max_length=MOST_CHOICES)


class Lenient(BaseModel):
    """Members that are not known choose nothing, and those that are null are absent."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


def _typed(value: Any, data_type: str) -> int | float | str:
    try:
        return _FIXED[data_type](value)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ValueError(f"fixedVal: {error}, for dataType {data_type}") from None


class HyperParam(Lenient):
    """A hyperparameter: a range, a choice, or one fixed value. Members that belong to another type are not looked at:
    clients send empty lists and zeros for what they do not use."""

    name: ParamName
    type: ParamType
    dataType: DataType
    minDbVal: Real | None = None
    maxDbVal: Real | None = None
    minIntVal: Whole | None = None
    maxIntVal: Whole | None = None
    discreteDbVal: list[Real] | None = Choices
    discreteIntVal: list[Whole] | None = Choices
    discreateStrVal: list[StrictStr] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_CHOICES,
        validation_alias=AliasChoices(*_SPELLINGS["discreateStrVal"]),
    )
    fixedVal: Any = None
    power: Positive | None = None
    step: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_its_type(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind, data_type = (str(given.get(name)).lower() for name in ("type", "dataType"))
        kind = {"discreate": "discrete"}.get(kind, kind)
        needed = _OF_TYPE.get((kind, {"string": "str"}.get(data_type, data_type)))
        if needed is None:
            return given
        used = {name for one in needed for name in _SPELLINGS.get(one, (one,))} | _COMMON
        used |= _OF_RANGES if kind == "range" else frozenset()
        return {name: value for name, value in given.items() if name in used}

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> HyperParam:
        needed = _OF_TYPE.get((self.type, self.dataType))
        if needed is None:
            raise ValueError(f"{self.name}: a range of texts has no bounds; dataType must be int or double")
        for name in needed:
            if getattr(self, name) is None:
                words = f"is required with type {self.type} and dataType {self.dataType}"
                raise ValueError(f"{self.name}: {name} {words}")
        if self.type == "range":
            self._check_range(*needed)
        if self.type == "fix":
            self.fixedVal = _typed(self.fixedVal, self.dataType)
        return self

    def _check_range(self, least: str, most: str) -> None:
        low, high = getattr(self, least), getattr(self, most)
        if low > high:
            raise ValueError(f"{self.name}: {least} ({low}) is above {most} ({high})")
        if self.dataType == "int" and self.power is None and (self.step or 1.0) % 1:
            raise ValueError(f"{self.name}: step must be an integer for dataType int, not {self.step:g}")


class FixedParam(Lenient):
    """One value of an experiment; ``fixedVal`` has the type that ``dataType`` names, or is the text of such a value."""

    name: ParamName
    dataType: DataType
    fixedVal: Any

    @model_validator(mode="after")
    def _of_its_type(self) -> FixedParam:
        self.fixedVal = _typed(self.fixedVal, self.dataType)
        return self


class Experiment(Lenient):
    """One training with exactly these values."""

    id: Whole
    hyperParams: list[FixedParam] = Field(
        max_length=MOST_DIMENSIONS, validation_alias=AliasChoices("hyperParams", "fixedHyperParams")
    )


class Space(Lenient):
    """Hyperparameters, or experiments: these are for ``ExperimentGridSearch``, and for it alone."""

    hyperParams: list[HyperParam] | None = Field(default=None, max_length=MOST_DIMENSIONS)
    experiments: list[Experiment] | None = Field(default=None, max_length=MOST_GRID_POINTS)

    @model_validator(mode="after")
    def _names_differ(self) -> Space:
        if twice := repeated([one.name for one in self.hyperParams or ()]):
            raise invalid("hyperParams", f"{twice} is there twice")
        for index, experiment in enumerate(self.experiments or ()):
            if twice := repeated([one.name for one in experiment.hyperParams]):
                raise invalid(f"experiments.{index}.hyperParams", f"{twice} is there twice")
        return self

    def need_for(self, algorithm: str) -> None:
        """Refuse what does not go with an algorithm; an empty list counts as absent.

        Raises:
            LocalmlError: ``INVALID`` naming the member.
        """
        if self.hyperParams and self.experiments:
            raise invalid("experiments", "give one of hyperParams and experiments")
        if algorithm.strip().lower() == GRID.lower():
            if not self.experiments:
                raise invalid("experiments", f"{GRID} needs them, and takes no hyperParams")
        elif not self.hyperParams:
            raise invalid("hyperParams", f"{algorithm} needs them; only {GRID} takes experiments")


def repeated(names: list[str]) -> str | None:
    """The first name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
