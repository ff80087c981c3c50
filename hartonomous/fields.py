"""What a configuration is made of: the base of its sections, and the kinds of values: durations, addresses, secrets."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from hartonomous import files

# A header carries a secret, so it is one word.
_SECRET = re.compile(r"[!-~]+")
_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:/[A-Za-z0-9._~/-]*)?")
_REDIS_URL = re.compile(r"rediss?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[0-9]{1,4})?|unix:///\S+")

_LISTENER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_ORIGIN = re.compile(r"(https?)://((?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?)")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


def check_url(value: str) -> str:
    """Return an address without a slash at its end. Raises ValueError."""
    if not _URL.fullmatch(value) or not _is_port(urlsplit(value)):
        raise ValueError("expected an address like http://127.0.0.1:8710, without user, password or query")
    return value.rstrip("/")


def _is_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _check_store_url(value: str) -> str:
    if value.startswith("unix:/"):
        return value
    return check_url(value)


def _check_redis_url(value: str) -> str:
    if not _REDIS_URL.fullmatch(value):
        raise ValueError("expected an address like redis://127.0.0.1:6379/0, without user and password")
    return value


def _read_secret(value: object) -> object:
    """Return the secret itself, or the stripped content of the file that `file:PATH` names."""
    if not isinstance(value, str):
        return value
    secret = value
    if value.startswith("file:"):
        try:
            secret = files.read(Path(value.removeprefix("file:"))).decode("ascii", "replace").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a file name"
            raise ValueError(f"the secret's file cannot be read ({reason})") from None
    if not _SECRET.fullmatch(secret):
        raise ValueError("a secret is one line of visible ASCII characters, and not empty")
    return SecretStr(secret)


def _check_origin(value: str) -> str:
    """Return an origin as browsers send it: a scheme, a host and a port that is not the scheme's own, nothing else."""
    found = _ORIGIN.fullmatch(value)
    if found is None or not _is_port(urlsplit(value)) or value.endswith({"http": ":80", "https": ":443"}[found[1]]):
        raise ValueError(
            "expected an origin as browsers send it, like https://app.example.org or http://localhost:3000"
        )
    return value


def _check_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("expected an address or a network like 10.0.0.0/8") from None


def _check_listener(value: str) -> str:
    if value.startswith("unix:/") and "\0" not in value:
        return value
    if not _LISTENER.fullmatch(value) or int(value.rpartition(":")[2]) > 65_535:
        raise ValueError("expected host:port, or unix:/ and the path of a socket")
    return value


def host_of(listener: str) -> str:
    """Return the host of a `Listener` that is none of a unix socket."""
    return listener.rpartition(":")[0].strip("[]")


def _check_path(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("not a file name")
    return value


def _whole(value: object) -> object:
    """Return a number like 3.0 as the integer that it is to JSON, which knows one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Behind the constraints of an integer.
WHOLE = BeforeValidator(_whole)

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Url = Annotated[str, AfterValidator(check_url)]
StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
Secret = Annotated[SecretStr, BeforeValidator(_read_secret)]
RedisUrl = Annotated[str, AfterValidator(_check_redis_url)]
Listener = Annotated[str, AfterValidator(_check_listener)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Network = Annotated[str, AfterValidator(_check_network)]
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_check_path)]
