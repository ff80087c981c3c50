"""API keys: `hart_<id>_<secret><checksum>`, and the hash by which a server knows one without keeping it.

The secret is 32 random bytes and the checksum the CRC-32 of everything before it, both in base 62 (43 and 6
characters), so that a mistyped key, or one in a public repository, is recognised without asking anybody. The hash is
HMAC-SHA256 (RFC 2104) of the whole key under the server's pepper: who reads the configuration can neither use it nor
try keys out against it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable

SECRET_BYTES = 32
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}"

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH, _CHECKSUM_LENGTH = 43, 6
# What SHA-256 takes in at once, in bytes.
_BLOCK = 64
_HASH = "hmac-sha256:"
_KEY = re.compile(rf"hart_({ID_PATTERN})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}")


def make(key_id: str, secret: bytes) -> str:
    """Return the key of this id with these 32 random bytes."""
    if not re.fullmatch(ID_PATTERN, key_id):
        raise ValueError(f"{key_id!r} is no id of a key")
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected {SECRET_BYTES} bytes, got {len(secret)}")
    return _with_checksum(f"hart_{key_id}_{_base62(int.from_bytes(secret), _SECRET_LENGTH)}")


def claimed_id(key: str) -> str | None:
    """Return the id that a key carries by its form alone, None when it has another form."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def id_of(key: str) -> str | None:
    """Return the id that a key carries, None when it is no key: of another form, or its checksum is wrong."""
    claimed = claimed_id(key)
    return claimed if claimed is not None and _with_checksum(key[:-_CHECKSUM_LENGTH]) == key else None


def hashed(key: str, pepper: bytes) -> str:
    """Return the hash of a key as it stands in the configuration."""
    return _HASH + digest(key, pepper).hex()


def digest(key: str, pepper: bytes) -> bytes:
    """Return HMAC-SHA256 of a key, 32 bytes."""
    return hmac.digest(pepper, key.encode(), "sha256")


def digests(pepper: bytes) -> Callable[[str], bytes]:
    """Return what `digest` is for one pepper, which it has taken in already.

    RFC 2104, section 4: what the pepper alone decides is made once. 0.9 µs a digest; `hmac` takes 1.5 for the same.
    """
    block = (pepper if len(pepper) <= _BLOCK else hashlib.sha256(pepper).digest()).ljust(_BLOCK, b"\0")
    begun = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
    ending = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest_with(key: str) -> bytes:
        inner, outer = begun.copy(), ending.copy()
        inner.update(key.encode())
        outer.update(inner.digest())
        return outer.digest()

    return digest_with


def digest_of(text: str) -> bytes:
    """Return the 32 bytes of a hash from the configuration; raise ValueError when it is none."""
    value = text.removeprefix(_HASH)
    if value == text or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"expected {_HASH} and 64 hexadecimal digits")
    return bytes.fromhex(value)


def _with_checksum(text: str) -> str:
    return text + _base62(zlib.crc32(text.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
