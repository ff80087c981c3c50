"""`hartonomous keys`: makes API keys (`new`), and says what the server knows of one (`check`).

What is to be kept goes to standard output, a line each; sentences about it to standard error.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from hartonomous.cli.common import complain
from hartonomous.cli.serve import DEFAULT_CONFIG
from hartonomous.configfile import load_auth
from hartonomous.core import apikey
from hartonomous.errors import ConfigError
from hartonomous.keyring import Keyring
from hartonomous.security import ApiKey, Auth

_PEPPER_BYTES = 32
_LONGEST_KEY = 1_000

# What is wrong with an option, by the field that it becomes.
_EXPECTED = {
    "id": "an id is 1 to 64 letters, digits, dots and hyphens, the first one a letter or a digit",
    "owner": "an owner is 1 to 64 letters, digits, dots and hyphens, the first one a letter or a digit",
    "scopes": "the scopes are query, ingest, metrics and admin",
    "collections": "a collection is given by its name, or by the beginning of names and a star: team-a-*",
    "expires": "expected a date, or a moment like 2027-12-31T12:00:00Z",
    "pepper": "a pepper is one line of at least 16 visible ASCII characters, in a file: --pepper file:PATH",
}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("keys", help="make API keys, and check them")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_new(actions)
    check = actions.add_parser("check", help="say what the server knows of the key on standard input")
    _add_config(check)
    check.set_defaults(run=lambda args: _run(_check, args))


def _add_new(actions: argparse._SubParsersAction[Any]) -> None:
    new = actions.add_parser("new", help="make a key: print it, and its line for the configuration")
    new.add_argument("--id", required=True, help="of this key: it stands in the key, in logs and in the audit trail")
    lists: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    new.add_argument("--scopes", metavar="SCOPE", required=True, help="query, ingest, metrics, admin", **lists)
    new.add_argument("--collections", metavar="NAME", help="names, or beginnings of names: 'team-a-*', '*'", **lists)
    new.add_argument("--owner", help="whose limits the key shares (default: its id)")
    new.add_argument("--expires", metavar="WHEN", help="a date or a moment, in UTC unless it says otherwise")
    new.add_argument("--pepper", metavar="file:PATH", help="the server's pepper (default: the configuration's)")
    _add_config(new)
    new.set_defaults(run=lambda args: _run(_new, args))


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help=f"configuration file (default: {DEFAULT_CONFIG})")


def _run(action: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Return the exit status of an action; what is wrong with the configuration or an option is said, and is 2."""
    try:
        return action(args)
    except ConfigError as error:
        complain(error.message)
        return 2


def _new(args: argparse.Namespace) -> int:
    configured = _auth(args)
    pepper = configured.pepper if args.pepper is None else _pepper(args.pepper)
    secret = secrets.token_urlsafe(_PEPPER_BYTES) if pepper is None else pepper.get_secret_value()
    if args.id in {key.id for key in configured.keys}:
        raise ConfigError(f"hartonomous keys: --id: there is a key {args.id!r} already")
    entry, key = _made(args, secret, configured)
    print(key)
    print(f"- {_flow(entry)}")
    complain("The first line is the key, which is shown only now. The second goes below auth.keys, or into its file.")
    if pepper is None:
        print(f"pepper: {secret}")
        complain("There is no pepper yet: the third line goes below auth, or its secret into a file that auth.pepper")
        complain("names (file:PATH). All keys are made with it: keep it where the configuration is kept, and secret.")
    if {"query", "ingest"} & set(entry["scopes"]) and not entry["collections"]:
        complain("The key reaches no collection: --collections was not given.")
    return 0


def _made(args: argparse.Namespace, pepper: str, configured: Auth) -> tuple[dict[str, Any], str]:
    """Return the entry of the configuration, and the key."""
    try:
        key = apikey.make(args.id, secrets.token_bytes(apikey.SECRET_BYTES))
    except ValueError:
        raise ConfigError(f"hartonomous keys: --id: {_EXPECTED['id']}") from None
    entry = {"id": args.id, "hash": apikey.hashed(key, pepper.encode()), "scopes": _split(args.scopes)}
    entry |= {"collections": _split(args.collections), "owner": args.owner, "expires": args.expires}
    made = _checked(entry)
    owner = made.owner or made.id
    limits = next((one.limits for one in configured.keys if (one.owner or one.id) == owner), None)
    if limits is not None:
        entry["limits"] = limits.model_dump(exclude_none=True)
    return {name: value for name, value in entry.items() if value is not None}, key


def _checked(entry: dict[str, Any]) -> ApiKey:
    try:
        key = ApiKey.model_validate(entry)
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"][0])
        raise ConfigError(f"hartonomous keys: --{name}: {_EXPECTED[name]}") from None
    if not key.scopes:
        raise ConfigError(f"hartonomous keys: --scopes: {_EXPECTED['scopes']}")
    if key.expires is not None and key.expires <= datetime.now(UTC):
        raise ConfigError("hartonomous keys: --expires: that moment has passed")
    return key


def _split(given: Sequence[str]) -> tuple[str, ...]:
    """Return what is given, each once, whether with commas or as arguments of its own."""
    words = (word.strip() for part in given for word in part.split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def _flow(entry: dict[str, Any]) -> str:
    line: str = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1_000_000)
    return line.strip()


def _auth(args: argparse.Namespace) -> Auth:
    """Return the section of the configuration, an empty one where there is no file and none was named."""
    if args.config is None and not DEFAULT_CONFIG.exists():
        return Auth()
    return load_auth(args.config or DEFAULT_CONFIG, os.environ)


def _pepper(given: str) -> SecretStr:
    try:
        pepper = Auth.model_validate({"pepper": given if given.startswith("file:") else None}).pepper
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
        raise ConfigError(f"hartonomous keys: --pepper: {reason.removeprefix('Value error, ')}") from None
    if pepper is None:
        raise ConfigError(f"hartonomous keys: --pepper: {_EXPECTED['pepper']}")
    return pepper


def _check(args: argparse.Namespace) -> int:
    """Say what the key on standard input may do, and return 0; or why it may do nothing, and return 1."""
    configured = _auth(args)
    key = sys.stdin.buffer.readline(_LONGEST_KEY).decode("ascii", "replace").strip()
    key_id = apikey.id_of(key)
    entry = next((one for one in configured.keys if one.id == key_id), None)
    if key_id is None:
        print("this is no key: it is cut off, or mistyped")
    elif entry is None or configured.pepper is None:
        print(f"{key_id}: unknown")
    elif apikey.hashed(key, configured.pepper.get_secret_value().encode()) != entry.hash:
        print(f"{key_id}: another key has this id")
    elif Keyring(configured).caller(key) is None:
        print(f"{key_id}: expired")
    else:
        print(f"{key_id}: {_flow(entry.model_dump(mode='json', exclude={'id', 'hash'}, exclude_none=True))}")
        return 0
    return 1
