"""`make install` and `make uninstall`: arguments, and what stands on standard error when it cannot be done."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from installing import install, uninstall
from places import InstallError, Places


def main() -> int:
    """Do what argv says; return the exit status."""
    parser = argparse.ArgumentParser(prog="make")
    parser.add_argument("what", choices=("install", "uninstall"))
    parser.add_argument("--destdir", default="")
    parser.add_argument("--prefix", type=Path, default=Path("/usr/local"))
    parser.add_argument("--sysconfdir", type=Path, default=Path("/etc"))
    parser.add_argument("--python")
    parser.add_argument("--otlp", choices=("0", "1"))
    args = parser.parse_args()
    os.umask(0o022)
    destdir = str(Path(args.destdir).absolute()) if args.destdir else ""
    places = Places(destdir.rstrip("/"), args.prefix, args.sysconfdir)
    try:
        if not (args.prefix.is_absolute() and args.sysconfdir.is_absolute()):
            raise InstallError("PREFIX and SYSCONFDIR are absolute paths; DESTDIR is what they are put below.")
        if args.what == "install":
            install(places, args.python, None if args.otlp is None else args.otlp == "1")
        else:
            uninstall(places)
    except InstallError as error:
        print(error, file=sys.stderr)
    except PermissionError as error:
        print(f"{error.filename} cannot be written: make {args.what} wants root, or a DESTDIR.", file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or args.what}: {error.strerror}.", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
