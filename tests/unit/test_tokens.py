"""The estimate of tokens, against true counts (BERT's uncased WordPiece, cl100k) taken once; the upper bound."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.tokens import ESTIMATED_MOST, MOST, estimate_tokens, most_tokens

ENGLISH = (
    "The committee met on Tuesday, 14 March 2023, to consider the proposals for extending the railway line between the"
    " two towns. Although several members expressed reservations about the projected expenditure, which had risen to"
    " approximately 4.7 million pounds, a majority concluded that the environmental and economic advantages outweighed"
    " the inconvenience to residents. Photosynthesis, the physicochemical process by which photoautotrophs convert"
    " electromagnetic radiation, was mentioned."
)
GERMAN = (
    "Die Bundesregierung hat am Donnerstag beschlossen, die Geschwindigkeitsbegrenzung auf Autobahnen vorerst nicht"
    " einzuführen. Umweltverbände kritisierten diese Entscheidung scharf und verwiesen auf die"
    " Klimaschutzverpflichtungen, während die Verkehrsministerin die Freiwilligkeit hervorhob."
    " Überprüfungsmöglichkeiten sollen geschaffen werden."
)
FRENCH = (
    "Le gouvernement a décidé jeudi de ne pas introduire pour l'instant de limitation de vitesse sur les autoroutes."
    " Les associations écologistes ont vivement critiqué cette décision, tandis que la ministre soulignait"
    " l'importance de la liberté individuelle des conducteurs et des entreprises."
)
RUSSIAN = (
    "Правительство в четверг решило пока не вводить ограничение скорости на автомагистралях."
    " Экологические организации резко раскритиковали это решение."
)
CHINESE = "政府周四决定暂不在高速公路上实行限速。环保组织严厉批评了这一决定，并提到了气候保护义务。"  # noqa: RUF001
JAPANESE = "政府は木曜日、高速道路での速度制限を当面導入しないことを決定した。環境団体はこの決定を厳しく批判した。"


@pytest.mark.parametrize(
    ("text", "wordpiece", "bpe"),
    [(ENGLISH, 90, 87), (GERMAN, 125, 97), (FRENCH, 80, 68), (RUSSIAN, 126, 65), (CHINESE, 44, 54), (JAPANESE, 51, 60)],
    ids=["English", "German", "French", "Russian", "Chinese", "Japanese"],
)
def test_prose_is_never_underestimated_nor_doubled(text: str, wordpiece: int, bpe: int) -> None:
    most = max(wordpiece, bpe)
    assert most <= estimate_tokens(text) <= 1.5 * most


def test_hex_is_counted_densely() -> None:
    assert estimate_tokens("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08") >= 40


def test_punctuation_and_digits_count_one_by_one() -> None:
    assert estimate_tokens("| --- | --- |") == 9
    assert estimate_tokens("2024") == 4


def test_blanks_cost_nothing() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("   \t ") == 0


@given(st.text())
def test_any_text_has_a_count_between_0_and_a_small_multiple_of_its_length(text: str) -> None:
    assert 0 <= estimate_tokens(text) <= 4 * len(text) + 1


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1))
def test_an_ideograph_is_at_least_a_token(text: str) -> None:
    assert estimate_tokens(text) >= len(text)


def test_a_lone_surrogate_does_not_raise() -> None:
    assert estimate_tokens("a\ud800b") >= 1


@given(st.text())
def test_no_more_tokens_than_bytes_or_than_characters_once_normalised(text: str) -> None:
    normalised = (unicodedata.normalize(form, text) for form in ("NFKC", "NFKD", "NFC", "NFD"))
    assert most_tokens(text) >= max(len(text.encode()), *map(len, normalised))


def test_every_character_is_bounded_by_what_normalising_makes_of_it() -> None:
    for code in range(0x110000):
        char = chr(code)
        assert most_tokens(char) >= len(unicodedata.normalize("NFKD", char))


def test_ascii_is_at_most_a_token_a_character() -> None:
    assert most_tokens("a b\nc!" * 10) == 60
    assert most_tokens("") == 0


@given(st.text(max_size=50), st.text(max_size=50))
def test_the_bound_adds_up(one: str, other: str) -> None:
    assert most_tokens(one + other) == most_tokens(one) + most_tokens(other)


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["aA", "AA", "1", "a", ".", "\n", " ", "é", "東", "\U0001f600", "ж"])).map("".join)
)
def test_no_character_is_more_tokens_than_its_bound(text: str) -> None:
    """What `core.fitting` does not count rests on it."""
    assert estimate_tokens(text) <= ESTIMATED_MOST * len(text)
    assert most_tokens(text) <= MOST * len(text)
    plain = text.encode("ascii", "ignore").decode()
    assert estimate_tokens(plain) <= len(plain)
    assert most_tokens(plain) <= len(plain)
