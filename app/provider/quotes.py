"""Removal of a client's own words from the provider's error messages.

A message may quote anything that the client sent: the name of a function, an argument, a URL. Such text must not decide
what an error means.
"""

import re
from collections.abc import Collection

MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
"""The character that stands for a stretch of removed text."""

CLOSING = {
    '"': '"',
    "'": "'",
    "`": "`",
    "“": "”",
    "‘": "’",
    "„": "“”",
    "‚": "‘’",
    "«": "»",
    "»": "«",
    "「": "」",
    "『": "』",
    "《": "》",
}
"""Opening quotation marks, each with the marks that close it."""

APOSTROPHES = "'’"

LONGEST_FIELD = 100

FIELD_MARK = "\N{WHITE DIAMOND}"
"""The character that stands before the name of a field that was quoted."""

OF_INPUT = "(?:input|previous_response_id|agent_api_metadata)"

_FIELD = re.compile(
    r"(?:temperature|top_p|top_k|seed|stop|stream|store|max_tokens|max_output_tokens|reasoning|thinking_budget"
    r"|enable_thinking|tools?|tool_choice|parallel_tool_calls|text|response_format|include|truncation|metadata|user"
    rf"|model|instructions|conversation|{OF_INPUT})(?:\.\w+|\[\d+\])*"
)
"""Quoted stretches that stay: names of the request's fields, and one that the provider's backend reports as missing.
None of them has a meaning alone."""


def without_quotes(text: str) -> str:
    """Return a text with `MARK` for each quoted stretch, and the quoted name of a field behind `FIELD_MARK`.

    A quotation that is never closed reaches to the text's end.
    """
    parts: list[str] = []
    place = 0
    while place < len(text):
        char = text[place]
        closing = CLOSING.get(char)
        if closing is None or (char == "'" and place > 0 and text[place - 1].isalnum()):
            parts.append(char)
            place += 1
            continue
        end = _end(text, place + 1, closing)
        quoted = text[place + 1 : end]
        is_field = end < len(text) and len(quoted) < LONGEST_FIELD and _FIELD.fullmatch(quoted) is not None
        parts.append(FIELD_MARK + quoted if is_field else MARK)
        place = end + 1
    return "".join(parts)


def without_names(text: str, names: Collection[str]) -> str:
    """Return a text with `MARK` for each occurrence of a name as a word of its own, in any case.

    Names of a single word stay: no single word decides, and one such as `model` would take the provider's own away.
    """
    lowered = text.lower()
    present = sorted({name for name in names if _may_decide(name) and name.lower() in lowered}, key=len, reverse=True)
    if not present:
        return text
    return re.sub(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, present))})(?![^\W_])", MARK, text, flags=re.IGNORECASE)


def _may_decide(name: str) -> bool:
    return bool(name.strip()) and not (name.isascii() and name.isalnum()) and _FIELD.fullmatch(name) is None


def _end(text: str, place: int, closing: str) -> int:
    """Return the place of the mark that closes a quotation, or the text's length."""
    while place < len(text):
        char = text[place]
        if char == "\\":
            place += 2
            continue
        if char in closing and not (char in APOSTROPHES and text[place + 1 : place + 2].isalnum()):
            return place
        place += 1
    return len(text)
