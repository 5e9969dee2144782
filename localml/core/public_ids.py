"""UUIDs for what is numbered here, as some vendors' APIs show them (services, development environments, workspaces).

Such an id is worked out from the installation, the kind of thing and its number, and the number is worked out from it
again: no column, no index and no migration for any noun, and whatever was there before has one too. It stays the same
over restarts and in a copy of the data directory, because the installation's own id lies in the database; two
installations give different ones. Numbers are never given twice in a table whose ids must stay unique, so neither are
UUIDs. They hide the number, and are no secret: who knows the installation's id can work them out.

The 122 free bits of a UUID of version 8 (RFC 9562) are the number, masked, and a check value of kind and number, so a
UUID of another kind or installation is not taken for one of these.
"""

from __future__ import annotations

from hashlib import blake2b
from uuid import UUID

_NUMBER_BITS = 62
_CHECK_BITS = 122 - _NUMBER_BITS


class PublicIds:
    """The UUIDs of one installation.

    Args:
        install: the installation's id.
    """

    def __init__(self, install: str) -> None:
        self._key = install.encode()

    def of(self, kind: str, number: int) -> str:
        """The UUID of the thing of this kind and number, in its usual form.

        Raises:
            ValueError: no number of a row.
        """
        if not 0 <= number < 1 << _NUMBER_BITS:
            raise ValueError(f"{number} cannot be the number of a {kind}")
        check = self._hash("check", kind, number, _CHECK_BITS)
        return str(_packed(check << _NUMBER_BITS | number ^ self._hash("mask", kind, check, _NUMBER_BITS)))

    def number(self, kind: str, text: str) -> int | None:
        """The number of the thing that this is the UUID of; None where it is none of this kind, or no UUID at all.

        Letters may be capitals; other spellings of a UUID (braces, no hyphens) are not taken.
        """
        try:
            found = UUID(text)
        except ValueError:
            return None
        if str(found) != text.lower():
            return None
        bits = _unpacked(found)
        check = bits >> _NUMBER_BITS
        number = (bits & (1 << _NUMBER_BITS) - 1) ^ self._hash("mask", kind, check, _NUMBER_BITS)
        return number if self.of(kind, number) == str(found) else None

    def _hash(self, use: str, kind: str, value: int, bits: int) -> int:
        text = f"{use}:{kind}:{value}".encode()
        return int.from_bytes(blake2b(text, key=self._key, digest_size=8).digest()) >> (64 - bits)


def _packed(bits: int) -> UUID:
    """122 bits around the version and the variant."""
    high, middle, low = bits >> 74, bits >> 62 & 0xFFF, bits & (1 << 62) - 1
    return UUID(int=high << 80 | 8 << 76 | middle << 64 | 2 << 62 | low)


def _unpacked(found: UUID) -> int:
    value = found.int
    return value >> 80 << 74 | (value >> 64 & 0xFFF) << 62 | value & (1 << 62) - 1
