"""What of an HTML page is its content: the element that holds it, and what inside it is menu, form or ornament."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from hartonomous.parsing.trees import Element, names, walk

# Never shown as text, or shown elsewhere.
_NEVER = names(
    "script style noscript template head title link meta svg canvas iframe frame object embed video audio map input"
    " select option textarea button datalist dialog progress meter nav"
)
_MENU_ROLES = names("navigation search menu menubar toolbar dialog alertdialog")
_PAGE_ROLES = names("banner contentinfo complementary")
# Class names and ids of parts that are content nowhere.
_MENU_NAMES = names(
    "breadcrumb breadcrumbs pagination pager skip-link sidebar navbar navbox catlinks printfooter mw-editsection"
    " mw-jump-link noprint edit-this-page theme-doc-toc-mobile share-buttons social-share cookie-banner cookie-consent"
    " advertisement headerlink linenos lineno linenumber visually-hidden sr-only screen-reader-text"
)
# An aside with such a name is a note in the text.
_NOTE = re.compile(
    r"note|tip|hint|caution|warning|danger|important|info|admonition|callout|example|footnote", re.IGNORECASE
)
_ORNAMENT = names("i span a sup")
# A form with more of the page's text than this is the page itself, as in ASP.NET.
_FORM_SHARE: Final = 0.5


def text_length(element: Element) -> int:
    """Return the number of characters of text in `element` but for scripts and styles, blanks not counted."""
    length = 0
    for one in element.iter():
        if one.tag not in _NEVER and one.text:
            length += len(one.text.strip())
        if one.tail and one is not element:
            length += len(one.tail.strip())
    return length


def marked_content(body: Element) -> Element | None:
    """Return the element that the page itself marks as its content, or None.

    That is its `main`; without one, its only `article`.
    """
    mains = _outermost(body, lambda element: element.tag == "main" or element.get("role") == "main")
    if mains:
        return max(mains, key=text_length)
    articles = _outermost(body, lambda element: element.tag == "article")
    return articles[0] if len(articles) == 1 else None


def page_form(body: Element) -> Element | None:
    """Return the form that is wrapped around the page, if there is one."""
    forms = _outermost(body, lambda element: element.tag == "form")
    if not forms:
        return None
    whole = text_length(body)
    return next((form for form in forms if text_length(form) > whole * _FORM_SHARE), None)


def is_dropped(element: Element, within_content: bool) -> bool:
    """Whether `element` is no content; `within_content`: whether it stands in a `main` or an `article`."""
    tag = element.tag
    if tag in _NEVER:
        return True
    attributes = element.attrib
    if not within_content and (tag == "footer" or (tag == "header" and next(element.iter("h1"), None) is None)):
        return True
    if tag == "aside":
        return not (within_content and _NOTE.search(attributes.get("class", "") + attributes.get("aria-label", "")))
    return bool(attributes) and _by_attributes(tag, attributes, within_content)


def _by_attributes(tag: str, attributes: Any, within_content: bool) -> bool:
    role = attributes.get("role")
    if role in _MENU_ROLES or (role in _PAGE_ROLES and not within_content):
        return True
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") == "true" and tag in _ORNAMENT:
        return True
    return attributes.get("id") in _MENU_NAMES or not _MENU_NAMES.isdisjoint(attributes.get("class", "").split())


def _outermost(body: Element, wanted: Callable[[Element], bool]) -> list[Element]:
    """Return the elements that are wanted and stand in none that is, in order."""
    found: list[Element] = []
    events = walk(body, "start")
    for _, element in events:
        if wanted(element):
            found.append(element)
            events.skip_subtree()
    return found
