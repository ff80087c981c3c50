"""HTML to Markdown: the content of a page and nothing else of it, its structure kept."""

from __future__ import annotations

import pytest

from hartonomous.parsing import from_html
from hartonomous.parsing.cleaning import clean
from hartonomous.parsing.refusal import RefusedError
from tests.parsing.conftest import MIB


def markdown(page: str | bytes) -> str:
    return clean(from_html.parse(page, 16 * MIB)[0])


def title(page: str) -> str | None:
    return from_html.parse(page, 16 * MIB)[1]


def test_a_small_page_gives_its_content_without_menu_and_imprint() -> None:
    page = (
        "<html><head><title>T</title></head><body><nav>Home Menu</nav><main><h1>Limits</h1>"
        "<p>Twelve requests a second.</p></main><footer>Imprint</footer></body></html>"
    )
    assert markdown(page) == "# Limits\n\nTwelve requests a second."
    assert title(page) == "T"


@pytest.mark.parametrize("page", ["<p>Hello</p>", "Hello", "<!-- c --><div>Hello", "\ufeff<p>Hello"])
def test_a_fragment_is_a_page(page: str) -> None:
    assert markdown(page) == "Hello"


@pytest.mark.parametrize(
    "page", ["", "  \n", "<!-- nothing -->", "<script>x()</script>", "\x00", "<p>", b"\xef\xbb\xbf"]
)
def test_a_page_without_text_gives_none(page: str | bytes) -> None:
    assert markdown(page) == ""


@pytest.mark.parametrize(
    "part",
    [
        "<nav>Menu</nav>",
        "<header>Menu</header>",
        "<footer>Menu</footer>",
        "<aside>Menu</aside>",
        "<script>Menu</script>",
        "<style>Menu</style>",
        "<noscript>Menu</noscript>",
        "<template>Menu</template>",
        "<form><input value=Menu>Menu<button>Menu</button></form>",
        "<select><option>Menu</select>",
        "<div role=navigation>Menu</div>",
        "<div role=search>Menu</div>",
        "<div class='breadcrumb x'>Menu</div>",
        "<div id=sidebar>Menu</div>",
        "<div hidden>Menu</div>",
        "<svg><title>Menu</title><text>Menu</text></svg>",
    ],
)
def test_what_is_no_content_is_left_out(part: str) -> None:
    text = "The article itself, which is longer than the form is."
    assert markdown(f"<body>{part}<h1>Title</h1><p>{text}</p>{part}<p>End</p>") == f"# Title\n\n{text}\n\nEnd"
    assert title(f"<body>{part}<h1>Title</h1>") == "Title"


def test_the_header_of_an_article_and_a_note_in_it_are_content() -> None:
    page = "<article><header><h1>Title</h1></header><p>Text</p><aside class=note>Mind this.</aside><aside>Ad</aside>"
    assert markdown(page) == "# Title\n\nText\n\nMind this."


def test_a_form_around_the_whole_page_is_the_page() -> None:
    assert markdown("<form><p>All of the page.</p><input><form>") == "All of the page."


def test_the_marked_content_is_taken_and_what_is_beside_it_is_not() -> None:
    beside = "<div>Beside it</div>"
    assert markdown(f"<body>{beside}<main><p>A text of some length.</p></main>{beside}") == "A text of some length."
    assert markdown(f"{beside}<div role=main><p>A text of some length.</p></div>") == "A text of some length."
    assert markdown(f"{beside}<article><p>A text of some length.</p></article>") == "A text of some length."
    assert markdown(f"{beside}<main><div id=app></div></main>") == "Beside it"


def test_a_page_that_marks_nothing_is_judged_by_how_much_of_it_is_menus() -> None:
    menu = "".join(f"<li><a href='/{number}'>Entry {number} of a menu</a></li>" for number in range(100))
    sentence = "This is a sentence of the article that says something about the matter at hand. "
    article = "".join(f"<p>Paragraph {number}. {sentence * 3}</p>" for number in range(5))
    text = markdown(f"<html><body><div><ul>{menu}</ul></div><div><h1>Matter</h1>{article}</div></body></html>")
    assert "Entry 50" not in text
    assert all(f"Paragraph {number}. This is a sentence" in text for number in range(5))


def test_a_page_that_cannot_be_judged_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RecursionError

    monkeypatch.setattr("trafilatura.extract", fail)
    text = "A sentence of the page. " * 50
    assert markdown(f"<div>{text}</div>") == text.strip()


def test_headings_have_their_levels_and_lose_their_permalinks() -> None:
    page = (
        "<h1>One</h1><h2><a>Two</a> <code>x</code><a class=headerlink href='#2'>¶</a></h2><h6><div>Six</div><br>!</h6>"
    )
    assert markdown(page) == "# One\n\n## Two `x`\n\n###### Six !"


def test_lists_keep_order_and_depth() -> None:
    page = (
        "<ul><li>a<ul><li>b</li><li>c<pre>  x\n   y</pre></li></ul></li><li>d</li></ul>"
        "<ol start=3><li><p>one</p><p>two</p></li><li>three</li></ol>"
    )
    assert markdown(page) == (
        "- a\n  - b\n  - c\n\n    ```\n      x\n       y\n    ```\n- d\n\n3. one\n\n   two\n4. three"
    )


def test_code_is_kept_whole_with_its_language() -> None:
    code = "def f(x):\n\n    return x &lt; 1  # ```\n"
    page = f"<p>See <code>f()</code>:</p><div class='highlight-python notranslate'><pre><span>{code}</span></pre></div>"
    assert markdown(page) == "See `f()`:\n\n````python\ndef f(x):\n\n    return x < 1  # ```\n````"
    two = "<pre><code class='language-js'>import a;</code><code>require(a);</code></pre>"
    assert markdown(two) == "```js\nimport a;\nrequire(a);\n```"


def test_line_numbers_beside_code_are_left_out() -> None:
    page = "<table><tr><td class=linenos><pre>1\n2</pre></td><td class=code><pre>a\nb</pre></td></tr></table>"
    assert markdown(page) == "```\na\nb\n```"


def test_a_table_of_data_is_a_table() -> None:
    page = (
        "<table><caption>Sizes</caption><thead><tr><th>a|b<th colspan=2>c</thead><tbody>"
        "<tr><td rowspan=2>1<td>2<td><p>3</p><p>4</p><tr><td>x<br>y<td></table>"
    )
    assert markdown(page) == ("Sizes\n\n| a\\|b | c |  |\n| --- | --- | --- |\n| 1 | 2 | 3 4 |\n|  | x y |  |")


def test_a_big_table_is_kept_whole() -> None:
    rows = "".join(f"<tr><td><a href=x>{row}</a></td><td>{row * row}</td></tr>" for row in range(2_000))
    lines = markdown(f"<main><table><tr><th>n</th><th>square</th></tr>{rows}</table></main>").split("\n")
    assert len(lines) == 2_002
    assert lines[-1] == f"| 1999 | {1999 * 1999} |"


def test_a_table_that_lays_out_the_page_is_none() -> None:
    page = "<table><tr><td><h1>Title</h1><p>Text</p></td><td><table><tr><td>a</td></tr></table></td></tr></table>"
    assert markdown(page) == "# Title\n\nText\n\na"


def test_absurd_spans_of_cells_cost_nothing() -> None:
    page = "<table>" + "<tr><td colspan=999999999 rowspan=999999999>a</td><td colspan=-1>b</td></tr>" * 50
    assert len(markdown(page)) < 60_000


def test_quotations_definitions_and_line_ends_are_kept() -> None:
    page = "<blockquote>one<br>two</blockquote><dl><dt>Term</dt><dd>What it means.</dd></dl>"
    assert markdown(page) == "> one\n> two\n\nTerm\n\nWhat it means."


def test_text_that_looks_like_structure_is_escaped() -> None:
    assert (
        markdown("<p># no heading</p><p>a<br>---</p><p>```</p><p>#tag</p>")
        == "\\# no heading\n\na\n\\---\n\n\\```\n\n#tag"
    )


def test_white_space_of_the_source_is_not_that_of_the_text() -> None:
    assert markdown("<p>a\n   b\tc&nbsp;d\u00ade&#8203;f<b>g</b>h</p>\n\n\n<p>i</p>") == "a b c defgh\n\ni"


def test_formulas_give_their_source() -> None:
    source = "<semantics><mi>b</mi><annotation>b_1</annotation></semantics>"
    page = f'<p>So <math alttext="a^2"><mi>a</mi></math> and <math>{source}</math>.'
    assert markdown(page) == "So a^2 and b_1."


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"<meta charset=iso-8859-1><p>Gr\xfc\xdfe \x80", "Grüße €"),
        ("<meta charset=windows-1251><p>Привет".encode("cp1251"), "Привет"),
        ('<meta http-equiv=Content-Type content="text/html; charset=Shift_JIS"><p>日本'.encode("cp932"), "日本"),
        ('<?xml version="1.0" encoding="koi8-r"?><html><p>Привет</p></html>'.encode("koi8-r"), "Привет"),
        ("\ufeff<p>日本".encode("utf-16"), "日本"),
        ("\ufeff<meta charset=latin1><p>日本".encode(), "日本"),
        ("<meta charset=gb2312><p>日本".encode(), "日本"),
        ("<meta charset=unknown-8><p>日本".encode(), "日本"),
        (b"<meta charset=rot13><p>Uryyb", "Uryyb"),
        ("<p>Grüße".encode("cp1252"), "Grüße"),
    ],
)
def test_the_encoding_is_what_the_page_says_and_is(page: bytes, expected: str) -> None:
    assert markdown(page) == expected


def test_text_is_text_already_whatever_it_says_of_itself() -> None:
    assert markdown("<meta charset=iso-8859-1><p>日本") == "日本"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<title> A \n title </title><h1>H</h1>", " A \n title "),
        ("<title></title><meta property=og:title content='Open'><h1>H</h1>", "Open"),
        ("<svg><title>Icon</title></svg><h1>The <i>heading</i></h1>", "The heading"),
        ("<p>Text</p>", None),
    ],
)
def test_the_title_is_the_pages_or_that_for_others_or_the_heading(page: str, expected: str | None) -> None:
    assert title(page) == expected


def test_elements_nested_deeper_than_usual_lose_nothing() -> None:
    assert markdown("<div>" * 1_500 + "Hello" + "</div>" * 1_500 + "<p>after") == "Hello\n\nafter"
    assert markdown("<ul><li>x" * 700).count("x") == 700


@pytest.mark.parametrize("element", ["<div>", "<b>", "<ul><li>", "<table><tr><td>", "<blockquote>"])
def test_elements_nested_without_end_are_refused_and_not_cut_off(element: str) -> None:
    with pytest.raises(RefusedError) as caught:
        markdown(element * 100_000 + "Hello")
    assert caught.value.reason == "nested_too_deeply"


def test_more_text_than_allowed_is_refused_while_it_is_written() -> None:
    with pytest.raises(RefusedError) as caught:
        from_html.parse("<p>some text</p>" * 1_000, 1_000)
    assert caught.value.reason == "text_too_large"


def test_no_entity_and_no_address_of_the_page_is_looked_up() -> None:
    page = (
        '<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><base href="http://127.0.0.1:9/">'
        '<link rel=stylesheet href="/x.css"><p>a&x;b</p><img src="/x.png"><iframe src="/x"></iframe>'
    )
    assert "root:" not in markdown(page)
    assert "b" in markdown(page)
