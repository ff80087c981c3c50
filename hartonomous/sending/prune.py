"""What is gone from disk: the documents that this command once sent from below its roots, and whose files are no more.

Nothing is gone while anything could not be looked at, and nothing from below a folder without any file: a disk that is
not mounted must not empty a collection. A file that is there and not wanted, or not readable, is not gone either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hartonomous.sending.naming import DocumentName, document_name, is_ours, printable
from hartonomous.sending.walk import Root, Walk


@dataclass(slots=True)
class Gone:
    """The ids of documents to delete, and sentences about what is kept because nobody can be sure."""

    ids: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def find_gone(walk: Walk, stored: Iterable[DocumentName], *, filtered: bool) -> Gone:
    """Return what of `stored`, the documents of the collection, is gone from below the roots of `walk`. Blocks.

    `filtered` says whether files were left out by patterns: a document whose name does not tell its file's own is then
    kept, for the file may be one of those.
    """
    gone = Gone()
    if walk.gaps:
        gone.doubts.append(f"Nothing is deleted, because not everything could be looked at: {walk.gaps[0]}.")
        return gone
    there = {file.document.id for file in walk.files}
    kept: set[str] = set()
    for name in stored:
        root = _root_of(name, walk.folders)
        if root is None or name.id in there or not _is_gone(root, name, filtered=filtered):
            continue
        if root in walk.bare:
            kept.add(f"Nothing is deleted of {printable(str(root.path))}, because there is no file at all in it.")
        else:
            gone.ids.append(name.id)
    gone.doubts.extend(sorted(kept))
    return gone


def _root_of(name: DocumentName, roots: Sequence[Root]) -> Root | None:
    if not is_ours(name):
        return None
    return next((root for root in roots if name.source.startswith(root.inside)), None)


def _is_gone(root: Root, name: DocumentName, *, filtered: bool) -> bool:
    if document_name(name.source) != name:
        # The name was cleaned, so the file's own is not known: the walk alone can tell, where it saw all.
        return not filtered
    try:
        root.place(name.source).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
