"""The keys that a server knows: a key to the caller whose it is.

A connection sends the same key with each request, which need not be hashed each time: it remembers the last one that
was right and by which keyring (`Presented`). What is compared with it is a key of that keyring or is not; whether it
has expired is looked at each time, and another keyring, after a reload, begins anew. That takes 1 µs for 4.
"""

from __future__ import annotations

import hmac
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hartonomous.core import apikey
from hartonomous.core.access import Caller, Grant
from hartonomous.security import ApiKey, Auth


@dataclass(slots=True, frozen=True)
class _Known:
    digest: bytes = field(repr=False)
    caller: Caller
    expires: float


class Presented:
    """The key that a connection presented last, if it was right, and what the keyring knows of it."""

    __slots__ = ("_key", "_keyring", "_known")

    def __init__(self) -> None:
        self._keyring: Keyring | None = None
        self._key = ""
        self._known: _Known | None = None

    def known_by(self, keyring: Keyring, key: str) -> _Known | None:
        """Return what the keyring knows of a key, if it was this one."""
        if self._keyring is keyring and key.isascii() and hmac.compare_digest(key, self._key):
            return self._known
        return None

    def keep(self, keyring: Keyring, key: str, known: _Known) -> None:
        """Remember a key that is right."""
        self._keyring, self._key, self._known = keyring, key, known


class Keyring:
    """Looks keys up by their ids. It is made once for a configuration."""

    def __init__(self, auth: Auth) -> None:
        self._digest = apikey.digests(b"" if auth.pepper is None else auth.pepper.get_secret_value().encode())
        self._keys = {key.id: _known(key) for key in auth.keys}
        # Of which keys the checksum was found right: the text that has a key's digest has it for ever.
        self._whole: set[str] = set()
        # What is compared with where there is no such key, so that it takes as long.
        self._nobody = _Known(os.urandom(32), Caller(None), 0.0)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def caller(self, key: str, presented: Presented | None = None) -> Caller | None:
        """Return whose key this is, of a connection that has `presented` one before.

        None when it is unknown, malformed or has expired.
        """
        known = None if presented is None else presented.known_by(self, key)
        if known is None:
            known = self._found(key)
            if known is not None and presented is not None:
                presented.keep(self, key, known)
        return None if known is None or time.time() >= known.expires else known.caller

    def _found(self, key: str) -> _Known | None:
        """Return what is known of a key, if it is right."""
        key_id = apikey.claimed_id(key)
        known = self._keys.get(key_id or "", self._nobody)
        # What is no key by its form may be of any length, and no text.
        given = self._digest("" if key_id is None else key)
        if not hmac.compare_digest(given, known.digest) or key_id is None:
            return None
        if key_id not in self._whole:
            if apikey.id_of(key) is None:
                return None
            self._whole.add(key_id)
        return known


def _known(key: ApiKey) -> _Known:
    expires = datetime.max.replace(tzinfo=UTC) if key.expires is None else key.expires
    return _Known(
        digest=apikey.digest_of(key.hash),
        caller=Caller(key.id, frozenset(key.scopes), Grant.of(key.collections), key.owner),
        expires=expires.timestamp(),
    )
