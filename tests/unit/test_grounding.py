"""How far sources support a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartonomous.core import places
from hartonomous.core.grounding import THRESHOLD, Grounding, placed
from hartonomous.core.sourceindex import SourceIndex, indexes_of
from hartonomous.core.support import Overlap, Support
from hartonomous.core.terms import laid_out, terms
from hartonomous.core.words import Term

_PLAIN = "limes are green and sour. lemons are yellow, limes are sold by weight. rain falls on trees."
SOURCES = [
    "The HX-200 weighs 3 kg. It runs for 8 hours on one charge.\nIts price is $40. It needs no oil.",
    "The HX-100 is a small pump. It weighs 4 kg and was built by Maria Keller in Ulm.",
]
JUDGE = Grounding(SOURCES)


@pytest.mark.parametrize(
    ("sentence", "sources"),
    [
        ("The HX-200 weighs 3 kg.", (1,)),
        ("It has a weight of 3 kg, the HX200.", (1,)),
        ("The pump was built by Maria Keller.", (2,)),
        ("It runs eight hours on a charge.", (1,)),
        ("The price of the HX-200 is 40.", (1,)),
        ("The HX-200 weighs 3 kg and the HX-100 weighs 4 kg.", (1, 2)),
    ],
)
def test_a_sentence_is_supported_by_the_source_that_says_it(sentence: str, sources: tuple[int, ...]) -> None:
    verdict = JUDGE.judge(sentence)
    assert verdict.sources == sources
    assert verdict.supported
    assert verdict.backed_by(sources)


@pytest.mark.parametrize(
    "sentence",
    [
        "The HX-200 weighs 5 kg.",
        "The HX-200 weighs 40 kg.",  # a number of the source, but not beside this unit
        "The HX-200 weighs 4 kg.",  # another source's number, about another thing
        "The HX-300 weighs 3 kg.",
        "It was built by Peter Keller in Ulm.",
        "It runs for nine hours on one charge.",
        "The HX-200 weighs 3 kg and speaks MQTT.",
        "Bananas grow on trees.",
        "Bananas 8.",  # a number alone says nothing
    ],
)
def test_a_false_number_name_or_code_is_unsupported(sentence: str) -> None:
    verdict = JUDGE.judge(sentence)
    assert verdict.claims
    assert not verdict.supported
    assert verdict.support < THRESHOLD
    assert verdict.sources == ()


TALK = ["What does it weigh?", "Hello there!", "Sure, here it is.", "You\u2019re welcome.", "", "***"]


@pytest.mark.parametrize("sentence", TALK)
def test_questions_and_greetings_claim_nothing(sentence: str) -> None:
    verdict = JUDGE.judge(sentence)
    assert (verdict.claims, verdict.support, verdict.sources) == (False, 0.0, ())


@pytest.mark.parametrize(
    "sentence",
    [
        "I don\u2019t know.",
        "I cannot answer that.",
        "The sources do not mention the color of the HX-200.",
        "The documents don't say who Peter Miller is.",
        "There is no information about that.",
        "This is not mentioned in the sources.",
        "Nothing in the documents answers this question.",
        "Die Quellen sagen dazu nichts, das steht dort nicht.",
    ],
)
def test_to_admit_not_to_know_claims_nothing(sentence: str) -> None:
    verdict = JUDGE.judge(sentence)
    assert verdict.admits
    assert not verdict.claims


def test_an_admission_with_a_figure_is_none() -> None:
    assert not JUDGE.judge("I don't know, but it is 99 kg.").admits


def test_the_documents_can_deny_things() -> None:
    sentence = "The documents do not require a signature."
    assert Grounding([sentence]).judge(sentence).supported


def test_without_sources_nothing_is_supported() -> None:
    assert not Grounding([]).judge("The HX-200 weighs 3 kg.").supported


def test_two_sentences_next_to_each_other_support_one() -> None:
    far = Grounding(["The pump is red. " + "Other things are said here. " * 5 + "It weighs 3 kg."])
    near = Grounding(["The pump is red. It weighs 3 kg. " + "Other things are said here. " * 5])
    sentence = "The red pump weighs 3 kg."
    assert near.judge(sentence).support > far.judge(sentence).support


@given(st.lists(st.text(max_size=80), max_size=4), st.text(max_size=80))
def test_support_is_in_0_to_1_and_sources_exist(sources: list[str], sentence: str) -> None:
    verdict = Grounding(sources).judge(sentence)
    assert 0 <= verdict.support <= 1
    assert all(0 <= share <= 1.0000001 for share in verdict.by_source)
    assert all(1 <= source <= len(sources) for source in verdict.sources)
    assert verdict.supported or not verdict.sources


_ODD_PARTS = """3 kg|£5|-5 °C|12 March 2021|4.2 million|two weeks|`a_b`|## 1.2.3\n\n|- x: 5 s\n|\u202e\u05e9\u05dc|
\u0663|\U0001f469\u200d\U0001f467|e\u0301\u0302|\x00\x1b|\u2028|\u00bd|\u2167|\u00b2|\uff11\uff12|Swiss francs|
square miles|\u0130|\u01c5|Anna Berg|and |, |. |? |Anna |pounds |CEO """
ODD = st.lists(st.sampled_from(_ODD_PARTS.split("|")), max_size=12).map("".join)


@settings(deadline=None)
@given(st.lists(ODD, max_size=3), ODD)
def test_odd_texts_are_judged_as_well(sources: list[str], sentence: str) -> None:
    verdict = Grounding(sources).judge(sentence)
    assert 0 <= verdict.support <= 1
    assert verdict.supported or not verdict.sources


@settings(deadline=None)
@given(st.lists(st.sampled_from(SOURCES[0].split()), min_size=1, max_size=12).map(" ".join))
def test_the_words_of_a_source_are_never_foreign_to_it(sentence: str) -> None:
    assert not Grounding([sentence]).judge(sentence).foreign


def test_a_negative_fact_of_a_source_is_no_admission_of_ignorance() -> None:
    verdict = Grounding(["The warranty lasts three years. It does not cover pens and paper."]).judge(
        "It does not cover pens and paper."
    )
    assert (verdict.claims, verdict.admits, verdict.sources) == (True, False, (1,))


def test_a_sentence_that_goes_round_in_circles_has_no_support() -> None:
    verdict = Grounding(["Quillbase is written in Zig."]).judge("Quillbase is a Zig-" + "Zig-" * 40)
    assert (verdict.claims, verdict.support, verdict.sources) == (True, 0.0, ())


@pytest.mark.parametrize("title", ["HX-200 Technical Data", "hx-200_manual.pdf", "HX200"])
def test_a_text_stands_under_its_title_and_headings(title: str) -> None:
    judge = Grounding([placed("It weighs 3 kg. Anna Berg built it in Ulm.", title, ["Technical Data", "Limits"])])
    assert judge.judge("The HX-200 weighs 3 kg.").supported
    assert judge.judge("Anna Berg built the HX-200 in Ulm.").supported
    assert not judge.judge("The HX-210 weighs 3 kg.").supported
    assert placed("Text.", None, []) == "Text."


def test_a_heading_of_two_capitals_is_no_rival_of_a_person() -> None:
    judge = Grounding(["## Annual Report\n\nThe prize of 300 euros was given to Anna Berg. It was paid in May 2021."])
    assert judge.judge("Anna Berg was paid 300 euros in May 2021.").supported


LIFE = """# Ludwig Achterberg

Ludwig Achterberg (14 May 1871 to 2 November 1949) was a Dutch engineer and bridge builder. Born in Zutphen to a family
of millers, he studied at the Polytechnic School in Delft. After graduating in 1894 he worked for the State Railways.

In 1905 Achterberg founded his own firm in Arnhem. Its first large commission was the Waal bridge at Tiel, completed
in 1911 at a cost of 2.4 million guilders. The bridge had a main span of 127 metres. His brother Hendrik Achterberg ran
the office in Utrecht until 1932. He died in The Hague."""
PROXY = """# acme-proxy

Set `max_connections` to limit clients (default: 1024). The idle timeout is set with `idle_timeout_s` and defaults to 75
seconds. Do not run it below -5 °C.

| Strength | Tablets per pack | Price |
|---|---|---|
| 250 mg | 21 | €4.10 |
| 500 mg | 14 | €5.75 |"""
PROSE = Grounding([LIFE, PROXY])


@pytest.mark.parametrize(
    "sentence",
    [
        "Ludwig Achterberg was born on 14 May 1871 in Zutphen.",
        "According to the documents, Achterberg worked for the State Railways.",
        "Achterberg's firm, founded in 1905, was based in Arnhem.",
        "The Waal bridge at Tiel was completed in 1911 and cost 2.4 million guilders.",
        "The main span of the Waal bridge was 127 m.",
        "Hendrik Achterberg, Ludwig's brother, ran the Utrecht office until 1932.",
        "By default, idle connections time out after seventy-five seconds.",
        "A pack of 500 mg tablets contains 14 tablets and costs 5.75 euros.",
        "acme-proxy must not be run below minus 5 °C.",
    ],
)
def test_prose_supports_what_it_says_in_another_order(sentence: str) -> None:
    assert PROSE.judge(sentence).supported


@pytest.mark.parametrize(
    "sentence",
    [
        "Ludwig Achterberg was born on 2 November 1871 in Zutphen.",
        "Ludwig Achterberg was born in Arnhem.",
        "Achterberg's firm, founded in 1911, was based in Arnhem.",
        "The Waal bridge cost 2.4 billion guilders.",
        "The main span of the Waal bridge was 172 metres.",
        "Hendrik Achterberg ran the Utrecht office until 1911.",
        "The default of max_connections is 75.",
        "The default idle timeout is 75 minutes.",
        "A 250 mg pack costs €5.75.",
        "A 250 mg pack costs $4.10.",
        "acme-server must not be run below -5 °C.",
        "acme-proxy must not be run below 5 °C.",
    ],
)
def test_prose_does_not_support_a_fact_that_stands_beside_something_else(sentence: str) -> None:
    assert not PROSE.judge(sentence).supported


RULES = Grounding(
    [
        """## Fees

Adults pay 30 euros a year, children 15 euros. **What does a spare key cost?** 5 euros. Ask Dev Kapoor (chair) or the
CEO. Anna plans the move; Dev will send the list by 20 June. The hall holds 4,200 guests. The lake covers 38 square
kilometres and must stay below 40 °C. Rent is CHF 900. One tablet every 6 hours, at most 3 tablets in 24 hours.

## Version 4.3.0

- Removed: the `old_auth` option.

## Version 4.2.2

- Fixed: a hole in the HTTP parser."""
    ]
)


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("Children pay 15 euros and adults 30 euros.", "Children pay 30 euros and adults 15 euros."),
        ("A spare key costs €5.", "A spare key costs €15."),
        ("Dev Kapoor will send the list by June 20.", "Dev Kapoor will send the list by June 2."),
        ("The hall holds 4.2 thousand guests.", "The hall holds 4.2 million guests."),
        ("The lake covers 38 square kilometres.", "The lake covers 38 square miles."),
        ("The lake must stay below 40 degrees Celsius.", "The lake must stay below 40 degrees Fahrenheit."),
        ("The rent is 900 Swiss francs.", "The rent is 900 Swiss dollars."),
        ("The `old_auth` option was removed in version 4.3.0.", "The `old_auth` option was removed in version 4.3.1."),
        ("The hole in the HTTP parser was fixed in 4.2.2.", "The hole in the HTTP parser was fixed in 4.2.1."),
    ],
)
def test_facts_are_compared_in_the_form_and_the_role_that_they_have(true: str, false: str) -> None:
    assert RULES.judge(true).supported
    assert not RULES.judge(false).supported


def index_of(source: str) -> SourceIndex:
    return indexes_of([source])[0]


def test_the_index_of_a_source_is_kept_for_the_next_answer_but_not_that_of_a_long_one() -> None:
    assert index_of(LIFE) is index_of(LIFE)
    assert index_of(LIFE * 9) is not index_of(LIFE * 9)


def test_of_indexes_no_more_are_kept_than_three_hundred_thousand_characters_need() -> None:
    first = index_of(LIFE)
    others = [f"{number} " + "word " * 790 for number in range(80)]
    kept = [index_of(other) for other in others]
    assert index_of(LIFE) is not first
    assert index_of(others[0]) is not kept[0]
    assert index_of(others[-1]) is kept[-1]


@given(st.lists(st.sampled_from(SOURCES[0].split()), max_size=12).map(" ".join))
def test_sources_that_were_indexed_before_give_the_same_verdicts(sentence: str) -> None:
    fresh = [source + " " for source in SOURCES]
    assert Grounding(fresh).judge(sentence) == JUDGE.judge(sentence)


@given(
    st.lists(st.sampled_from(_PLAIN.replace(".", "").split()), min_size=1, max_size=8).map(" ".join),
    st.sampled_from([1, 2]),
    st.sampled_from([".", "?", ". I don't know."]),
)
def test_a_cited_source_that_supports_plain_words_settles_a_sentence(words: str, cited: int, end: str) -> None:
    judge = Grounding([_PLAIN, "rain falls. limes are green and sweet."])
    alone, beside = judge.judge(words + end, [cited]), judge.judge(words + end)
    assert (alone.claims, alone.admits, alone.foreign, alone.hard) == (
        beside.claims,
        beside.admits,
        beside.foreign,
        beside.hard,
    )
    share = beside.by_source[cited - 1]
    assert alone.by_source[cited - 1] == share
    assert alone.support == (share if beside.claims and share >= THRESHOLD else beside.support)


@given(st.lists(st.sampled_from(" ".join(SOURCES).split()), max_size=12).map(" ".join))
def test_words_alone_weigh_in_each_source_what_they_weigh_as_terms(sentence: str) -> None:
    laid = places.Places(SOURCES)
    laid.lay_out()
    wanted = list({term.forms: term for term in terms(sentence) if not (term.hard or term.number)}.values())
    support = Support(wanted, laid.holding(wanted), laid.owners, len(SOURCES))
    shares = tuple(laid.share(source, wanted) for source in range(len(SOURCES)))
    assert shares == support.by_source
    if wanted:
        assert Overlap(shares).choose() == support.choose()


def test_a_name_or_a_number_is_looked_for_in_every_source_whatever_is_cited() -> None:
    for sentence in ("So the HX-200 weighs 3 kg.", "Runs for 8 hours."):
        assert JUDGE.judge(sentence, [1]) == JUDGE.judge(sentence)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(number, said) for number, source in enumerate(SOURCES, 1) for said in re.findall(r"[^\n.#]+\.(?!\w)", source)],
)
def test_what_the_cited_source_says_word_for_word_is_settled_by_it(number: int, sentence: str) -> None:
    alone, beside = JUDGE.judge(sentence.strip(), [number]), JUDGE.judge(sentence.strip())
    assert (alone.claims, alone.support, alone.foreign) == (beside.claims, beside.support, beside.foreign)
    assert alone.by_source[number - 1] == beside.by_source[number - 1]


def test_a_code_in_lower_case_is_what_the_next_sentence_speaks_of() -> None:
    source = (
        "The call get_user returns rows. It takes 3 arguments.\n\nThe call get_item returns none. It takes 5 arguments."
    )
    judge = Grounding([source])
    right, wrong = (judge.judge(f"The call get_item takes {count} arguments.") for count in (5, 3))
    assert right.supported
    assert wrong.foreign or not wrong.backed_by([1])
    assert wrong.support < right.support


def test_a_source_is_read_once_for_all_facts_of_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SourceIndex] = []
    quotes = SourceIndex.quotes

    def count(self: SourceIndex, listed: Sequence[Term]) -> bool:
        asked.append(self)
        return quotes(self, listed)

    monkeypatch.setattr(SourceIndex, "quotes", count)
    Grounding(["Xyz. " * 40, "Abc. " * 40]).judge("Xyz has. " * 40)
    assert asked == [index_of("Xyz. " * 40)]


def test_a_sentence_that_stands_in_a_source_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(sentence: str) -> tuple[list[Term], list[int]]:
        read.append(sentence)
        return laid_out(sentence)

    monkeypatch.setattr(places, "laid_out", noted)
    assert JUDGE.judge("The HX-200 weighs 3 kg.").supported
    JUDGE.judge("The HX-200 weighs 9 kg.")
    assert read == ["The HX-200 weighs 9 kg."]
