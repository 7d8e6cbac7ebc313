"""Encryption of what is kept at rest, by a key of the settings or one of the home."""

import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from disparo.errors import SettingsError

_NONCE_BYTES = 12


class Box:
    """Seals and opens texts with one key (AES-256-GCM, its key derived by HKDF-SHA256)."""

    def __init__(self, secret: str) -> None:
        """Make the box of ``secret``, any text of high entropy."""
        self._cipher = AESGCM(_derive(secret, "encryption", 32))
        self._marks = _derive(secret, "marks", 32)
        #: Tells keys apart, and says nothing of them.
        self.key_id = _derive(secret, "key id", 8).hex()

    def seal(self, text: str, label: str) -> bytes:
        """``text`` so that only this key opens it, and only under the same ``label``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), self._bound(label))

    def open(self, sealed: bytes, label: str) -> str | None:
        """What was sealed under ``label``, or None when it was not, or not like this."""
        try:
            opened = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._bound(label))
            return opened.decode()
        except (InvalidTag, ValueError):  # a ValueError for one that is too short
            return None

    def mark(self, text: str) -> str:
        """A short mark of ``text`` that without the key tells nothing of it."""
        return hmac.digest(self._marks, text.encode(), "sha256")[:12].hex()

    def _bound(self, label: str) -> bytes:
        return f"{self.key_id} {label}".encode()


def box(home: Path, key: str | None) -> Box:
    """The box of ``DISPARO_ENCRYPTION_KEY``, else of the key that all processes of the home share.

    Raises:
      SettingsError: There is no key, and none can be made or read in the home.
    """
    return Box(key or _key_of(home))


def _key_of(home: Path) -> str:
    path = home / "encryption.key"
    try:
        if not path.exists():
            _make(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is no text"
        raise SettingsError(f"{path} cannot be made or read ({why}); or set DISPARO_ENCRYPTION_KEY") from err
    if len(key) < 32:
        raise SettingsError(f"{path} holds no key; delete it, and tokens are fetched anew")
    return key


def _make(path: Path) -> None:
    """Make the key's file; of several processes at once, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all, and never in the place of another's.
        path.hardlink_to(new)
    except FileExistsError:
        pass
    finally:
        new.unlink()


def _derive(secret: str, purpose: str, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=f"disparo {purpose}".encode()).derive(secret.encode())
