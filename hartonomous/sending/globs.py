"""Glob patterns over paths, in the manner of `.gitignore`.

A pattern without a slash is compared with the last name of a path; one with a slash with the whole path below the
PATH that was given. `*` and `?` stay within a name, `**/` is any number of folders, `[a-c]` and `[!a-c]` are classes;
a slash at the end means folders only. Capitals count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKEN = re.compile(r"(?<![^/])\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)
_FIXED = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class Globs:
    """A set of patterns. Raises ValueError for one that has no meaning."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = [_Pattern(pattern) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str, *, folder: bool = False) -> bool:
        """Whether a pattern fits `path`, which is relative and has slashes."""
        return any(pattern.match(path, folder) for pattern in self._patterns)


class _Pattern:
    __slots__ = ("_folders_only", "_regex", "_whole")

    def __init__(self, pattern: str) -> None:
        body = pattern.rstrip("/")
        self._folders_only = body != pattern
        self._whole = "/" in body
        body = body.lstrip("/")
        if not body:
            raise ValueError(f"{pattern!r} is no pattern")
        try:
            self._regex = re.compile("".join(_translated(token) for token in _TOKEN.findall(body)), re.DOTALL)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no pattern ({error.msg})") from None

    def match(self, path: str, folder: bool) -> bool:
        if self._folders_only and not folder:
            return False
        return self._regex.fullmatch(path if self._whole else path.rpartition("/")[2]) is not None


def _translated(token: str) -> str:
    if token in _FIXED:
        return _FIXED[token]
    if len(token) == 1:
        return re.escape(token)
    negated = token[1] == "!"
    body = token[2 if negated else 1 : -1].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return f"[^/{body}]" if negated else f"[{body.replace('^', chr(92) + '^')}]"
