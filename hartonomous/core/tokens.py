"""How many tokens a text will be, without a tokenizer: an estimate that errs on the high side, and an upper bound."""

from __future__ import annotations

_SPACE, _NEWLINE, _DIGIT, _UPPER, _LOWER, _MARK = b" \n0Aa."
_ACCENTED, _ALPHABET, _IDEOGRAPH, _ASTRAL = b"erci"


def _kind(byte: int) -> int:
    """Return the class of a character by the first byte of its UTF-8."""
    lead = ((0xF0, _ASTRAL), (0xE0, _IDEOGRAPH), (0xCA, _ALPHABET), (0xC3, _ACCENTED), (0x80, _MARK))
    for least, kind in lead:
        if byte >= least:
            return kind
    char = chr(byte)
    for test, kind in ((char.isdigit, _DIGIT), (char.isupper, _UPPER), (char.islower, _LOWER)):
        if test():
            return kind
    return _NEWLINE if char == "\n" else _SPACE if char.isspace() else _MARK


_KINDS = bytes(_kind(byte) for byte in range(256))
_CONTINUATION = bytes(range(0x80, 0xC0))
# What stands before a word, and what begins one, each as one class.
_WORDS = bytes.maketrans(bytes((_NEWLINE, _DIGIT, _MARK, _UPPER)), bytes((_SPACE, _SPACE, _SPACE, _LOWER)))
_WORD_START = bytes((_SPACE, _LOWER))
_ENGLISH = (b" the ", b" of ", b" and ", b" to ", b" is ")

# NFKC, the most that a tokenizer does to a text first, makes three characters of one in Latin-1 (½), else up to 18.
_LATIN_TOKENS = 3

ESTIMATED_MOST = 3
"""The most tokens that `estimate_tokens` counts for one character."""
MOST = 18
"""The most tokens that `most_tokens` counts for one character; it counts 1 for one of ASCII."""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a WordPiece or BPE tokenizer makes of `text`, special tokens not counted.

    Rather too many than too few: measured on prose against BERT's uncased WordPiece and cl100k, it is 1.0 to 1.5
    times the true count for English and most European languages, 1.0 to 1.3 for Chinese, Japanese, Cyrillic and
    Arabic, 1.3 to 2 for code and JSON. Too few it can be for GPT-2's old vocabulary outside English, for Korean in
    an English model, and for long runs of random letters.

    It adds up: one for each word, and for each six letters in a row of it where the text has English function words,
    for each three where it has not (a foreign word falls into more pieces; random letters even more); one for each
    capital pair, change of case, digit, punctuation mark, accented letter, character of another alphabet, and line
    end; five for four characters of three bytes (CJK); three for those beyond the basic plane. No ASCII character is
    more than one, no other one more than `ESTIMATED_MOST`. Costs about 14 µs per 1,000 characters: all of it is
    counting in bytes.
    """
    if not text:
        return 0  # a splitter asks it three times a chunk
    raw = text.encode("utf-8", "replace")
    kinds = b" " + raw.translate(_KINDS, _CONTINUATION)
    count = kinds.count
    words = kinds.translate(_WORDS).count(_WORD_START)
    english = sum(map(raw.count, _ENGLISH)) * 20 >= words
    letters = count(b"a" * (6 if english else 3)) + 4 * count(b"a" * 24)
    capitals = count(b"aA") + count(b"AA")
    lines = count(b"\n")
    total = words + letters + capitals + count(b"0") + count(b".") + lines - (count(b"\n\n") if lines > 1 else 0)
    if text.isascii():
        return total
    return total + count(b"e") + count(b"r") + (5 * count(b"c") + 3) // 4 + 3 * count(b"i")


def most_tokens(text: str) -> int:
    """Return a number of tokens that no tokenizer exceeds for `text`; special tokens and a space before it not counted.

    A pure ASCII character is at most one token: WordPiece and Unigram make no more of it, and byte-level BPE and byte
    fallback one for each byte. Other characters are bounded by their bytes, or by what NFKC makes of them.
    """
    if text.isascii():
        return len(text)
    ascii_only = len(text.encode("ascii", "ignore"))
    latin = len(text.encode("latin-1", "ignore")) - ascii_only
    return ascii_only + _LATIN_TOKENS * latin + MOST * (len(text) - latin - ascii_only)
