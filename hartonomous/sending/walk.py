"""What is there to send: the files below the PATHs that were given, each with the name of its document.

Hidden files and folders, those of version control and the lock files of word processors are left out. A folder that is
reached twice (by a link above itself, or beside) is walked once, by its own path before any link to it. What could not
be looked at is told: as long as there is any, nobody can say what is gone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hartonomous.core.formats import ENDINGS, Format
from hartonomous.sending.globs import Globs
from hartonomous.sending.naming import DocumentName, document_name
from hartonomous.sending.tally import Failure, reason

# Those of Git, Mercurial, Subversion and Bazaar are hidden anyway.
_VERSION_CONTROL = frozenset(("CVS", "RCS", "SCCS", "_darcs"))
_LOCK_FILE = "~$"


class Stamp(NamedTuple):
    """What differs when a file may have another content, or may be read now; times in ns, the size in bytes."""

    modified: int
    changed: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class Root:
    """A PATH that was given: where it is, and the path of its document or of those below it."""

    path: Path
    name: str

    @property
    def inside(self) -> str:
        """What the paths of the documents below it begin with."""
        return self.name + "/"

    def place(self, source: str) -> Path:
        """Return where the file of a document below it is, or was."""
        return self.path / source.removeprefix(self.inside)


@dataclass(frozen=True, slots=True)
class File:
    """A file to send: where it is, and the path of its document."""

    path: str
    name: str
    kind: Format
    stamp: Stamp

    @property
    def document(self) -> DocumentName:
        """Id and source of its document."""
        return document_name(self.name)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which files are wanted: those that `include` names, or all, without those that `exclude` names."""

    include: Globs = field(default_factory=Globs)
    exclude: Globs = field(default_factory=Globs)

    def wants(self, path: str) -> bool:
        """Whether the file at `path`, relative to its root, is wanted."""
        return (not self.include or self.include.match(path)) and not self.exclude.match(path)


@dataclass(slots=True)
class Walk:
    """What was found. `gaps` says what could not be looked at; `folders` are the roots that are folders.

    `bare` are those of them in which there was no file whatsoever.
    """

    files: list[File] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    folders: list[Root] = field(default_factory=list)
    bare: list[Root] = field(default_factory=list)

    def missed(self, path: str, error: OSError, *, failed: bool = True) -> None:
        """Note that `path` could not be looked at."""
        failure = Failure(path, f"cannot be read: {reason(error)}")
        self.gaps.append(str(failure))
        if failed:
            self.failures.append(failure)


class RootsError(ValueError):
    """Two PATHs would give different files one id, or a PATH has no name."""


def make_roots(paths: Sequence[str], prefix: str = "") -> list[Root]:
    """Return the roots for PATHs; one that lies in another is left out, for it is sent with that.

    Raises RootsError when the ids of two would not be told apart.
    """
    given = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # noqa: PTH100 - links keep their names
    folders = {path for path in given if path.is_dir()}
    roots: dict[str, Root] = {}
    for path in given:
        if folders.intersection(path.parents):
            continue
        if not path.name:
            raise RootsError(f"{path} has no name that ids could begin with: give the folders in it")
        name = f"{prefix}/{path.name}" if prefix else path.name
        if name in roots:
            raise RootsError(
                f"the documents of {roots[name].path} and {path} would have the same ids ({name}): send a folder "
                "above both, or one after the other with a --prefix for each"
            )
        roots[name] = Root(path, name)
    return list(roots.values())


def walk(roots: Sequence[Root], filters: Filters) -> Walk:
    """Look at everything below `roots`. Blocks: for a thread."""
    found = Walk()
    for root in roots:
        try:
            mode = root.path.stat()
        except OSError as error:
            found.missed(str(root.path), error)
            continue
        if stat.S_ISDIR(mode.st_mode):
            found.folders.append(root)
            _Folders(root, filters, found).walk()
        else:
            _add_given(root, mode, found)
    return found


def _add_given(root: Root, status: os.stat_result, found: Walk) -> None:
    kind = ENDINGS.get(root.path.suffix.lower())
    if kind is None or not stat.S_ISREG(status.st_mode):
        known = " ".join(ENDINGS)
        found.failures.append(Failure(str(root.path), f"is not a file that can be sent ({known})"))
    else:
        found.files.append(File(str(root.path), root.name, kind, _stamp(status)))


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


class _Folders:
    """The walk through one root. Folders that are reached through a link come last, if they are still new then."""

    def __init__(self, root: Root, filters: Filters, found: Walk) -> None:
        self._root = root
        self._filters = filters
        self._found = found
        self._seen: set[tuple[int, int]] = set()
        self._next = [(str(root.path), "")]
        self._linked: deque[tuple[str, str]] = deque()

    def walk(self) -> None:
        files = 0
        while self._next or self._linked:
            path, relative = self._next.pop() if self._next else self._linked.popleft()
            try:
                if self._is_new(path):
                    files += self._look(path, relative)
            except OSError as error:
                self._found.missed(path, error)
        if not files:
            self._found.bare.append(self._root)

    def _is_new(self, path: str) -> bool:
        status = os.stat(path)  # noqa: PTH116 - a million paths need no objects
        identity = status.st_dev, status.st_ino
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _look(self, path: str, relative: str) -> int:
        """Take in a folder; return how many files it has, wanted or not."""
        files, folders = 0, list[tuple[str, str]]()
        for entry in _entries(path):
            inner = f"{relative}/{entry.name}" if relative else entry.name
            try:
                if not entry.is_dir():
                    files += self._file(entry, inner)
                elif not self._filters.exclude.match(inner, folder=True):
                    (self._linked if entry.is_symlink() else folders).append((entry.path, inner))
            except OSError as error:
                self._missed(entry, inner, error)
        self._next.extend(reversed(folders))
        return files

    def _file(self, entry: os.DirEntry[str], inner: str) -> int:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            return 0  # a socket, a pipe, a device
        kind = self._kind(inner)
        if kind is not None:
            name = self._root.inside + inner
            self._found.files.append(File(entry.path, name, kind, _stamp(status)))
        return 1

    def _kind(self, inner: str) -> Format | None:
        return ENDINGS.get(os.path.splitext(inner)[1].lower()) if self._filters.wants(inner) else None  # noqa: PTH122

    def _missed(self, entry: os.DirEntry[str], inner: str, error: OSError) -> None:
        if error.errno == errno.ELOOP:
            return  # a link to itself is nothing at all
        if isinstance(error, FileNotFoundError) and not entry.is_symlink():
            return  # deleted since it was listed
        # What a dead link led to may be on a disk that is not there now.
        self._found.missed(entry.path, error, failed=self._kind(inner) is not None)


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    return (entry for entry in listed if not _is_left_out(entry.name))


def _is_left_out(name: str) -> bool:
    return name.startswith((".", _LOCK_FILE)) or name in _VERSION_CONTROL
