"""The framework plugins that tasks start with, each a framework of the catalogue under the name that WMLA's users know.

What the catalogue has besides is listed under its own name. A name is found in any case and by the catalogue's name,
too. With an image of one's own the name says nothing: that image has what the program needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from localml.core.catalog import Catalog
from localml.core.errors import invalid
from localml.dialects.wmla.translate.args import FIELD

MULTI_WORKER = "MultiWorkerMirroredStrategy"


@dataclass(frozen=True, slots=True)
class Framework:
    """A plugin: its name here, and the catalogue's framework; ``distributed``: its tasks always get a rendezvous
    (``MASTER_ADDR`` and its like), however many workers they have."""

    name: str
    framework: str
    version: str
    description: str
    distributed: bool = False


_NAMES: dict[str, tuple[tuple[str, bool], ...]] = {
    "torch": (("PyTorch", False), ("distPyTorch", True)),
    "scikitlearn": (("scikit-learn", False),),
    "python": (("Python", False),),
}
"""Framework of the catalogue -> its plugins, and whether each is a distributed one."""


def frameworks(catalog: Catalog) -> list[Framework]:
    """All plugins, in the order of the catalogue."""
    found = []
    for framework, versions in catalog.frameworks().items():
        runtime = catalog.find(framework)
        for name, distributed in _NAMES.get(framework, ((framework, False),)):
            words = f"{runtime.description}; {', '.join(runtime.contains)}"
            found.append(Framework(name, framework, versions[0], words, distributed))
    return found


def find_framework(catalog: Catalog, name: str) -> Framework | None:
    """The plugin of this name; None if there is none."""
    for one in frameworks(catalog):
        if name.lower() in (one.name.lower(), one.framework.lower()):
            return one
    return None


def need_framework(catalog: Catalog, name: str, field: str = FIELD) -> Framework:
    """The same.

    Raises:
        LocalmlError: ``INVALID``, naming those that there are.
    """
    found = find_framework(catalog, name)
    if found is None:
        known = ", ".join(one.name for one in frameworks(catalog))
        words = (
            f"there is no framework {name[:80]!r}; there are {known}; --msd-image-name may name an image that has it"
        )
        raise invalid(field, f"--exec-start: {words}")
    return found
