"""Objects by URI, one folder for each bucket; and archives that are safe to unpack."""

from localml.objects.access import BucketsFor
from localml.objects.archives import ArchiveInfo, Limits, inspect_archive, list_archive, unpack, unpack_in_place
from localml.objects.buckets import Buckets, ObjectInfo
from localml.objects.fetching import fetch_unpacked, file_names, inspect_object
from localml.objects.uris import ObjectUri, parse

__all__ = [
    "ArchiveInfo",
    "Buckets",
    "BucketsFor",
    "Limits",
    "ObjectInfo",
    "ObjectUri",
    "fetch_unpacked",
    "file_names",
    "inspect_archive",
    "inspect_object",
    "list_archive",
    "parse",
    "unpack",
    "unpack_in_place",
]
