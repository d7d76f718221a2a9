"""What a model or a user has said, as HTML: whoever wrote it is taken for hostile."""

import re

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

LONGEST_HIGHLIGHTED = 20_000
"""Characters of code that are coloured."""

TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title"}, "td": {"align"}, "th": {"align"}, "ol": {"start"}, "span": {"class"}}
SCHEMES = {"http", "https", "mailto"}

_formatter = HtmlFormatter(nowrap=True, classprefix="hl-")
_CLASS = re.compile(r"hl-[a-z0-9]{1,4}")


def _coloured(code: str, language: str, _: str) -> str:
    if not language or len(code) > LONGEST_HIGHLIGHTED:
        return ""
    try:
        return str(highlight(code, get_lexer_by_name(language), _formatter))
    except ClassNotFound:
        return ""


# No HTML of theirs goes through, and no image is fetched: what is left is cleaned all the same.
_reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "highlight": _coloured}).enable(
    ["table", "strikethrough"]
).disable("image")  # fmt: skip


def rendered(text: str) -> Markup:
    made = _reader.render(text)
    return Markup(  # noqa: S704
        nh3.clean(
            made, tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel="noopener noreferrer nofollow",
            attribute_filter=_filtered,
        )
    )  # fmt: skip


def _filtered(tag: str, attribute: str, value: str) -> str | None:
    if (tag, attribute) == ("span", "class"):
        return " ".join(each for each in value.split() if _CLASS.fullmatch(each)) or None
    return value
