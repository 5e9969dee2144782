"""Secrets at rest: recoverable ones encrypted with a key file, the others only as hashes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from werkzeug.security import check_password_hash, generate_password_hash

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class Vault:
    """Encrypts what must be read again (HMAC secrets) with the installation's key file (mode 0600)."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._derived: dict[str, bytes] = {}

    @cached_property
    def _fernet(self) -> Fernet:
        from cryptography.fernet import Fernet  # 7 MB that a server needs only when somebody signs

        return Fernet(self._key)

    @classmethod
    def open(cls, path: Path) -> Vault:
        """Read the key file, making it on first use."""
        try:
            return cls(path.read_bytes())
        except FileNotFoundError:
            key = base64.urlsafe_b64encode(os.urandom(32))
            write_private(path, key)
            return cls(key)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for signing something of this installation, different for each purpose (HKDF-SHA256)."""
        found = self._derived.get(purpose)
        if found is None:
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF

            info = b"localml:" + purpose.encode()
            found = self._derived[purpose] = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self._key)
        return found

    def token(self, purpose: str, of: str) -> str:
        """A token of something of this installation: 43 URL-safe characters, made anew whenever they are needed, so
        that nobody stores them."""
        mac = hmac.digest(self.derive(purpose), of.encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def seal(self, text: str) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(text.encode())

    def unseal(self, sealed: bytes) -> str:
        """Decrypt what :meth:`seal` gave."""
        return self._fernet.decrypt(sealed).decode()

    def sealed_at(self, sealed: bytes) -> int:
        """When :meth:`seal` gave it, in whole seconds."""
        return self._fernet.extract_timestamp(sealed)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def hash_password(password: str) -> str:
    """A salted scrypt hash: slow, because people's passwords can be guessed."""
    return generate_password_hash(password)


def hash_random_password(password: str) -> str:
    """A salted hash of a password of :func:`new_password`, which is not stretched: nobody guesses 96 random bits."""
    return generate_password_hash(password, method="pbkdf2:sha256:1000")


def new_password() -> str:
    """96 random bits as text of 16 characters."""
    return secrets.token_urlsafe(12)


def password_matches(stored: str, password: str) -> bool:
    """Compare in constant time."""
    return check_password_hash(stored, password)


def hash_token(token: str) -> str:
    """SHA-256 of a random token; tokens have enough entropy to need no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def new_access_key() -> tuple[str, str]:
    """(access key, secret key): 20 and 40 letters and digits, as cloud vendors' are."""
    return "AK" + secrets.token_hex(9).upper(), secrets.token_hex(20)
