"""Why a file is refused: the reasons that a worker may answer, and the code and the sentence for the caller.

A worker reports the reason's name alone. It has read a stranger's file with libraries that may be broken by it, so no
word of its own reaches a caller.
"""

from __future__ import annotations

# Reason: (code, sentence).
REASONS = {
    "encrypted_file": ("encrypted_file", "The file is encrypted: it cannot be read without its password."),
    "broken_file": ("broken_file", "The file is broken, or not of the kind that it claims to be."),
    "nested_too_deeply": ("broken_file", "The elements of the file are nested too deeply."),
    "not_text": ("broken_file", "The file is not text in UTF-8, UTF-16 or windows-1252."),
    "no_text": ("no_text", "The file holds no text."),
    "no_text_layer": (
        "no_text",
        "The PDF holds no text: pages that are images, as those of a scan, would need text recognition first.",
    ),
    "parsing_timeout": ("parsing_timeout", "Reading the file took longer than the server allows for one file."),
    "file_too_costly": ("file_too_costly", "Reading the file needs more memory than the server allows for one file."),
    "text_too_large": ("text_too_large", "The text of the file is larger than the server allows."),
}

# What a worker answers when the fault is the installation's and not the file's.
INTERNAL = "internal"


class RefusedError(Exception):
    """The file is refused, inside a worker; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
