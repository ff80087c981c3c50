"""Text from outside made harmless for a prompt: it can neither close a source's delimiter nor a turn of the chat.

llama.cpp reads the control tokens of a chat template in message texts too, and a model reads a tag whatever alphabet
it is written in. So the text is looked at folded: one character for each of its own, in lower case, without accents,
letters and brackets that look alike made the same, everything invisible a blank. Where a delimiter or control token
shows there, its first character becomes a parenthesis; nothing else of the text changes, and its length never does.
"""

from __future__ import annotations

import re
import unicodedata

_ANGLES = (
    "<\uff1c\ufe64\u2039\u3008\u2329\u27e8\u276c\u276e\u2770\u02c2\u1438\u29fc\u227a\u22d6\u27ea\u2a79\u16b2\U0001d236"
)
_SQUARES = "[\uff3b\u27e6\u3010\u3014\u2045\u301a\u2e22\u2772\u298b"
_AMPERSANDS = "&\uff06\ufe60"
_LOOKS_LIKE = {
    "<": _ANGLES,
    "[": _SQUARES,
    ">": "\uff1e\ufe65\u203a\u3009\u232a\u27e9\u276d\u276f\u2771\u02c3\u1433\u29fd\u227b\u22d7\u27eb",
    "]": "\uff3d\u27e7\u3011\u3015\u2046\u301b\u2e23\u2773\u298c",
    "|": "\uff5c\u2223\u01c0\u2758\u00a6\u23d0\u2502\ufe31\u05c0\u2d4f\uffe8",
    "/": "\u2044\u2215\uff0f\u2571\u29f8\u27cb\u3033\u1735\u30ce\u4e3f",
    "s": "\u0455\ua731\u01bd\u0282\u10bd",
    "o": "\u043e\u03bf\u0585\u1d0f\u1d11\u03c3\u00f8\u2c9f\u0275\u0d20\u0e50\u0ed0\u101d\u09e6\u0966",
    "u": "\u03c5\u057d\u1d1c\u028b\ua79f\uab4e\u0446\u0438",
    "r": "\u0433\u1d26\u0280\u027c\u027e\uab47\uab48\u2c85\u044f",
    "c": "\u0441\u03f2\u1d04\u2ca5\u0188\u023c\u00a2\u03c2",
    "e": "\u0435\u0454\u04bd\u025b\u03b5\u212e\uab32\u1d07\u0258\u0259\u2c89",
}
_BLANK = "\u2800\u115f\u1160\u3164\uffa0\u17b4\u17b5"
_ENCLOSED_LETTERS = (0x1F150, 0x1F170, 0x1F1E6)
_TAGS = (0xE0000, 0xE0080)


# Of the 1.1 million code points a text has few; one that has all of them would leave some 100 MB behind.
_MOST_FOLDED = 50_000


class _Folded(dict[int, str]):
    """Code point to its folded character, worked out when it is first seen."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _MOST_FOLDED:
            self.clear()
        self[code] = folded = _fold(chr(code))
        return folded


def _fold(char: str) -> str:
    if char in _BLANK or unicodedata.category(char)[0] in "CMZ":
        return " "
    code = ord(char)
    for first in _ENCLOSED_LETTERS:
        if first <= code < first + 26:
            return chr(ord("a") + code - first)
    base = unicodedata.normalize("NFKD", char.lower())[:1].lower()
    return _ALIKE.get(char) or _ALIKE.get(char.lower()[:1]) or _ALIKE.get(base) or base or " "


_ALIKE = {other: plain for plain, others in _LOOKS_LIKE.items() for other in others}
_FOLDED = _Folded()

# What can stand for `<`: itself, an HTML entity, an escape of JSON or of an address. Blanks are taken possessively:
# given back one by one, a long run of them between two optional parts cost the square of its length.
_LESS = r"(?:<|&(?:amp *+;){0,3} *+(?:lt|#0{0,8}60|#x0{0,8}3c) *+;?|\\u003c|\\x3c|%3c)"
_TAG = rf"{_LESS} *+(?:[/\\] *+){{0,3}}(?:%2f *+)?s *+[o0] *+u *+r *+c *+e(?: *+s)?(?![a-z0-9_])"
_NAMED = (
    # Llama 2, Mistral, Gemma, T5, StarCoder
    "fim_[a-z]{1,12}|extra_id_[0-9]{1,3}"
    "|s|bos|eos|pad|unk|mask|</?sys>|sys|start_of_turn|end_of_turn|start_of_image|end_of_image|unused[0-9]+"
    # GLM, Command-R
    "|sop|eop|[a-z]{1,12}_token"
    # Qwen, DeepSeek, GLM
    "|think|thinking|tool_call|tool_response|tools|arg_key|arg_value"
)
# ChatML and Qwen, Llama 3, Phi, DeepSeek, GLM, Granite, Command-R; and Gemma's newer `<|turn>` and `<turn|>`.
_PIPED = r"\|[^<>(\r\n]{0,64}>|[a-z_]{1,32}\|>"
_ANGLED = rf"{_LESS} *+(?:{_PIPED}|(?:/ *+)?(?:{_NAMED}) *+>)"
_SQUARED = (
    r"\[ *+(?:/ *+)?(?:inst|sys|system_prompt|available_tools|tool_results|tool_calls|tool_content|args|call_id|think"
    r"|img|img_break|img_end|prefix|middle|suffix|model_settings|gmask|smask|control_[0-9]+) *+\]"
)
_HARMFUL = re.compile(f"{_TAG}|{_ANGLED}|{_SQUARED}")
_CANDIDATE = re.compile(r"[<&\\%\[]")
_OPENERS = re.compile(rf"[{re.escape(_ANGLES + _SQUARES + _AMPERSANDS)}{chr(_TAGS[0])}-{chr(_TAGS[1])}]|\\[uUxX]|%3")
# Letters that nobody sees and some models read.
_INVISIBLE = re.compile(f"[{chr(_TAGS[0])}-{chr(_TAGS[1])}]")


# The same of ASCII alone: what cannot be seen is a blank, the rest in lower case.
_FOLDED_ASCII = bytes(max(byte, 32) if byte != 127 else 32 for byte in range(256)).lower()


def neutralise(text: str) -> str:
    """Return the text with every delimiter of a source and every control token of a chat template made harmless.

    The length stays: one character is replaced by a parenthesis. Texts without brackets cost next to nothing, others
    5 ns a character, 200 where it is not ASCII.
    """
    ascii_only = text.isascii()
    if ascii_only:
        # One character after the other, and no regular expression: 0.2 us for 650 characters; to look for two takes 1.
        if not ("<" in text or "[" in text or "&" in text or "\\" in text or ("%" in text and "%3" in text)):
            return text
    elif not _OPENERS.search(text):
        return text
    folded = _folded(text, ascii_only)
    places = [found.start() for found in _CANDIDATE.finditer(folded) if _HARMFUL.match(folded, found.start())]
    if places:
        parts = list(text)
        for place in places:
            parts[place] = "("
        text = "".join(parts)
    return text if ascii_only else _INVISIBLE.sub(" ", text)


def _folded(text: str, ascii_only: bool) -> str:
    return text.encode().translate(_FOLDED_ASCII).decode() if ascii_only else text.translate(_FOLDED)
