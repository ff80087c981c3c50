"""The part of the configuration that says who may come in: keys, limits, CORS, the audit trail, TLS."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from hartonomous.core import apikey
from hartonomous.core.access import Scope
from hartonomous.fields import FilePath, Origin, Secret, Section

# The name of a collection, or the beginning of one and a star.
_PATTERN = r"^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,62}\*?|\*)$"

_SHORTEST_PEPPER = 16

_Count = Annotated[int, Field(ge=1, le=1_000_000_000_000)]
_Rate = Annotated[float, Field(gt=0, le=1_000_000)]


def _moment(value: object) -> object:
    """Return the moment that YAML's date or time means: in UTC unless it says otherwise, a day at its beginning."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected a date, or a moment like 2027-12-31T12:00:00Z") from None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value


def _check_hash(value: str) -> str:
    apikey.digest_of(value)
    return value


class Tls(Section):
    """PEM files: the certificate (with those between it and its root), its key, and who may sign clients' certificates.

    With a `client_ca` only clients are served that show a certificate which it signed.
    """

    certificate: FilePath
    key: FilePath
    client_ca: FilePath | None = None


class ClientTls(Section):
    """PEM files for a backend's TLS: who may sign its certificate (default: the system's), and our own certificate."""

    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Cors(Section):
    """The web pages that may call from a browser, by their exact origins; none by default."""

    origins: tuple[Origin, ...] = ()
    max_age_s: Annotated[int, Field(ge=0, le=86_400)] = 600


class RateLimit(Section):
    """A bucket that holds `burst` requests (default: those of a second, at least one) and fills at `requests_per_s`."""

    requests_per_s: _Rate | None = None
    burst: _Count | None = None
    concurrent: _Count | None = None

    @model_validator(mode="after")
    def _burst_of_something(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst needs requests_per_s")
        return self

    @property
    def is_set(self) -> bool:
        """Whether requests are held against anything."""
        return bool(self.requests_per_s or self.concurrent)


class AddressLimits(RateLimit):
    """What one address may do, before it is known who is there. An IPv6 address counts with its /64 network."""

    failed_authentications_per_minute: _Count | None = 600


class KeyLimits(RateLimit):
    """What one key may use. Tokens are those of the models, as they report them; bytes those of requests' bodies."""

    tokens_per_minute: _Count | None = None
    bytes_per_day: _Count | None = None

    @property
    def is_set(self) -> bool:
        """Whether requests are held against anything."""
        return bool(super().is_set or self.tokens_per_minute or self.bytes_per_day)


class Limits(Section):
    """Limits of all addresses alike, and of keys that have none of their own.

    Over several processes they hold for all together: they are counted in Redis. Wrong keys alone need none: without it
    each process takes its share of them.
    """

    address: AddressLimits = AddressLimits()
    key: KeyLimits = KeyLimits()


class ApiKey(Section):
    """A key, as `hartonomous keys new` prints it: everything that it does not name is denied.

    Several keys may have one `owner` (default: the id): limits hold for an owner's keys together.
    """

    id: Annotated[str, Field(pattern=f"^{apikey.ID_PATTERN}$")]
    hash: Annotated[str, AfterValidator(_check_hash), Field(repr=False)]
    owner: Annotated[str, Field(pattern=f"^{apikey.ID_PATTERN}$")] | None = None
    scopes: tuple[Scope, ...] = ()
    collections: tuple[Annotated[str, Field(pattern=_PATTERN)], ...] = ()
    expires: Annotated[datetime.datetime, BeforeValidator(_moment)] | None = None
    limits: KeyLimits | None = None


class Auth(Section):
    """The keys. Without any only this host is served. `keys` may be `file:PATH` of a file that holds the list."""

    pepper: Secret | None = None
    keys: tuple[ApiKey, ...] = ()
    metrics_on_loopback: bool = False

    @field_validator("pepper")
    @classmethod
    def _pepper_cannot_be_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value) < _SHORTEST_PEPPER:
            raise ValueError(f"a pepper has at least {_SHORTEST_PEPPER} characters")
        return value

    @field_validator("keys")
    @classmethod
    def _keys_go_together(cls, value: tuple[ApiKey, ...], info: ValidationInfo) -> tuple[ApiKey, ...]:
        limits: dict[str, KeyLimits | None] = {}
        for key_id, count in Counter(key.id for key in value).items():
            if count > 1:
                raise ValueError(f"the key {key_id!r} stands here twice")
        for key in value:
            owner = key.owner or key.id
            if limits.setdefault(owner, key.limits) != key.limits:
                raise ValueError(f"the keys of {owner!r} share their limits, and here they have different ones")
        if value and info.data.get("pepper", ...) is None:
            raise ValueError("keys need a pepper (auth.pepper)")
        return value


class Audit(Section):
    """The audit trail: a folder with a chain of files for each process; without one it is kept in memory alone."""

    directory: FilePath | None = None
    max_file_bytes: Annotated[int, Field(ge=4_096)] = 64 * 1024 * 1024
