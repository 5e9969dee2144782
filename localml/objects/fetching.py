"""Objects as other parts of localml take them in: archives that are looked into, models that are copied out."""

from __future__ import annotations

from pathlib import Path

from localml.core.errors import LocalmlError, invalid
from localml.objects.access import BucketsFor
from localml.objects.archives import ArchiveInfo, inspect_archive, unpack_in_place


def file_names(buckets: BucketsFor, folder: str) -> list[str]:
    """Names of the files in a folder of objects; none where there is no such folder."""
    if not buckets.exists(folder):
        return []
    return [one.name for one in buckets.list(folder) if not one.is_folder]


def fetch_unpacked(buckets: BucketsFor, uri: str, folder: Path, *, field: str = "source") -> None:
    """Copy an object, or all below it, to a folder; of an archive, what is in it.

    Raises:
        LocalmlError: naming ``field``.
    """
    buckets.get(uri, folder, field=field)
    try:
        unpack_in_place(folder)
    except LocalmlError as error:
        raise _of_field(error, field) from error


def inspect_object(buckets: BucketsFor, uri: str, *, field: str = "uri") -> ArchiveInfo:
    """Hold an archive of the bucket tree against all rules of unpacking, writing nothing.

    Args:
        field: the request member that an error names.

    Raises:
        LocalmlError: ``INVALID`` when it does not exist, is no archive or is not safe, ``TOO_LARGE`` when it is over a
            limit.
    """
    if not buckets.exists(uri, field=field):
        raise invalid(field, f"{uri} does not exist")
    if buckets.stat(uri, field=field).is_folder:
        raise invalid(field, f"{uri} is a folder, not an archive")
    with buckets.open(uri, field=field) as file:
        try:
            return inspect_archive(file)
        except LocalmlError as error:
            raise _of_field(error, field) from error


def _of_field(error: LocalmlError, field: str) -> LocalmlError:
    words = f"{field}: {error.message.removeprefix('archive: ')}"
    return LocalmlError(error.code, words, field=field, details=error.details)
