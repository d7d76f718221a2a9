"""Markdown of models and users as HTML, whoever wrote it being taken for hostile.

It runs in a process that can be killed (`app/process/killable.py`): a table of 5 kB can ask for 65,536 cells.
"""

import time

import nh3
from markdown_it import MarkdownIt

LONGEST = 20_000
"""Characters of a text that is rendered. A longer one is shown as it is."""

MOST_SECONDS = 0.5
"""CPU time after which the texts that remain are shown as they are."""

TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title"}, "td": {"align"}, "th": {"align"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}

# No HTML of theirs goes through, and no image is fetched: what is left is cleaned all the same.
_reader = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"]).disable(
    "image"
)  # fmt: skip


def rendered(texts: list[str]) -> list[str | None]:
    """Return the HTML of each text, None for one that is too long or comes after the time is used up."""
    until = time.process_time() + MOST_SECONDS
    return [_html(text) if len(text) <= LONGEST and time.process_time() < until else None for text in texts]


def _html(text: str) -> str:
    return nh3.clean(
        _reader.render(text), tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )  # fmt: skip
