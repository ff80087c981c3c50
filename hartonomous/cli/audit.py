"""`hartonomous audit verify`: whether the audit trail is what was written. It may run while servers write."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from hartonomous.auditfiles import paths, read_head
from hartonomous.cli.common import complain
from hartonomous.core.chain import Checker, Finding, Link, place_of

_DESCRIPTION = """\
Check chains of the audit trail: all of a folder, or files that belong together. Prints of each chain how many lines it
has, from when to when, and the hash of its last line: keep that elsewhere, and nobody can write the trail anew without
your seeing it. Exit status 0: as it was written; 1: something was changed, moved or is missing; 2: cannot be read."""

# How long a line may be in the making that a server is writing.
_WRITTEN_S = 0.2

_NO_HEAD = "missing: its head, which tells where it ends, or what it said"

_File: TypeAlias = tuple[Path, BinaryIO]


@dataclass(slots=True)
class _Chain:
    """Files of one chain by their place in it, `current` the one that is written."""

    name: Path
    head: Link | None = None
    numbered: dict[int, _File] = field(default_factory=dict)
    current: _File | None = None
    findings: list[str] = field(default_factory=list)

    def in_order(self) -> list[_File]:
        """Return the files in order; one that was renamed while we looked is there twice."""
        files = [self.numbered[number] for number in sorted(self.numbered)]
        if self.current is None or any(os.path.sameopenfile(self.current[1].fileno(), f.fileno()) for _, f in files):
            return files
        return [*files, self.current]


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("audit", help="check the audit trail")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    verify = commands.add_parser("verify", help="find changed and missing lines", description=_DESCRIPTION)
    verify.add_argument("paths", type=Path, nargs="+", metavar="FILE|DIRECTORY")
    verify.add_argument("--partial", action="store_true", help="a chain may begin later: its first files are elsewhere")
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify all chains; print each one's outcome."""
    try:
        with ExitStack() as stack:
            chains = [chain for path in args.paths if path.is_dir() for chain in _of_folder(path, stack)]
            chains += _of_files([path for path in args.paths if not path.is_dir()], stack)
            if not chains:
                complain("there is no audit trail here")
                return 2
            unsound = [chain for chain in chains if not _is_sound(chain, is_partial=args.partial)]
            return 1 if unsound else 0
    except OSError as error:
        complain(f"{error.filename or 'the trail'}: {error.strerror}")
        return 2


def _of_folder(folder: Path, stack: ExitStack) -> Iterator[_Chain]:
    """Open all chains of a folder. Raises OSError.

    A server may begin its next file meanwhile. So of a chain the head is read first, which is never ahead of the files,
    then the file that is written is opened, and then those that it may have become.
    """
    names = {path.name.partition(".")[0] for path in folder.iterdir() if _belongs(path)}
    for name in sorted(names, key=lambda name: (len(name), name)):
        chain = _Chain(folder / name, _head_of(folder / name))
        with suppress(FileNotFoundError):
            chain.current = _open(folder / f"{name}.jsonl", stack)
        for path in paths(folder, name):
            number = (place_of(path.name) or (name, None))[1]
            if number is not None:
                chain.numbered[number] = _open(path, stack)
        if chain.head is None and chain.in_order():
            chain.findings.append(_NO_HEAD)
        yield chain


def _head_of(chain: Path) -> Link | None:
    """Return the head of a chain; one that cannot be read may be in the making, and is read once more."""
    path = chain.with_suffix(".head")
    head = read_head(path)
    if head is None:
        time.sleep(_WRITTEN_S)
        head = read_head(path)
    return head


def _belongs(path: Path) -> bool:
    return place_of(path.with_suffix(".jsonl").name) is not None and path.suffix in {".jsonl", ".head"}


def _of_files(files: Iterable[Path], stack: ExitStack) -> list[_Chain]:
    """Open files, and put those together that belong together. Raises OSError."""
    chains: dict[Path, _Chain] = {}
    for path in files:
        name, number = place_of(path.name) or (path.name, None)
        chain = chains.setdefault(path.parent / name, _Chain(path.parent / name))
        if number is None:
            chain.head = _head_of(path.parent / name)
            chain.current = _open(path, stack)
            if chain.head is None:
                chain.findings.append(_NO_HEAD)
        else:
            chain.numbered[number] = _open(path, stack)
    return list(chains.values())


def _open(path: Path, stack: ExitStack) -> _File:
    return path, stack.enter_context(path.open("rb"))


def _is_sound(chain: _Chain, *, is_partial: bool) -> bool:
    """Check a chain and print what there is to say; return whether it is as it was written."""
    checker, is_sound = Checker(chain.head, is_partial=is_partial), not chain.findings
    for sentence in chain.findings:
        print(f"{chain.name}: {sentence}")
    for path, finding in _checked(chain, checker):
        is_sound = is_sound and finding.is_note
        print(f"{path}:{finding.line}: {finding.sentence}")
    span = f", {checker.first} to {checker.last}, last hash {checker.link.digest}" if checker.count else ""
    print(f"{chain.name}: {'ok' if is_sound else 'NOT OK'}, {checker.count} lines{span}")
    return is_sound


def _checked(chain: _Chain, checker: Checker) -> Iterator[tuple[Path, Finding]]:
    """Yield what is to be said of each line, with its file."""
    path, number, is_open = chain.name, 0, False
    for path, file in chain.in_order():
        for number, line in enumerate(_lines(file), 1):
            is_open = not line.endswith(b"\n")
            for finding in checker.line(number, line.removesuffix(b"\n")):
                yield path, finding
    for finding in checker.end(number, is_open=is_open):
        yield path, finding


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; the last one, which may be in the making, is read once more."""
    for line in file:
        if not line.endswith(b"\n"):
            time.sleep(_WRITTEN_S)
            file.seek(-len(line), os.SEEK_CUR)
            yield from file
            return
        yield line
