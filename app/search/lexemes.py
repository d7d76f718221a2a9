"""Texts as lexemes, for a tsvector, and what is searched for, as a tsquery.

Postgres's own parsers find words between spaces. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese are
written without them, or with endings stuck to the words: there, each pair of neighbouring characters is a
lexeme, and so is the last character of a run, so that every character begins one.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

LONGEST_TEXT = 200_000
"""Characters of a text that are indexed."""

LONGEST_WORD = 100
LAST_POSITION = 16_383
"""Postgres counts no further."""

MOST_POSITIONS = 255
MOST_BYTES = 900_000
"""A tsvector holds less than a megabyte."""


def _word_characters() -> str:
    """Letters, digits and the marks that belong to them, as ranges of a character class."""
    ranges: list[list[int]] = []
    for point in range(0x10000):
        if unicodedata.category(chr(point))[0] in "LNM":
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "\U00010000-\U0003ffff"


_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[{_word_characters()}])+")
_ASCII_WORD = re.compile("[a-z0-9]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')


@dataclass(frozen=True, slots=True)
class Run:
    """A word, or a run of characters that are written without spaces."""

    text: str
    """As it is compared: without case, accents, and differences of width."""
    start: int
    end: int
    """Where it stands in the text that it was found in."""
    spaced: bool


def runs(text: str) -> Iterator[Run]:
    for found in _RUN.finditer(text):
        raw = found[0]
        yield Run(_folded(raw), found.start(), found.end(), not _is_unspaced(raw[0]))


def document(text: str) -> str | None:
    """A text as a tsvector literal; None if there is nothing in it to find."""
    positions: dict[str, list[int]] = {}
    size = 0
    for place, lexeme in enumerate(_all_lexemes(text[:LONGEST_TEXT]), 1):
        known = positions.get(lexeme)
        if known is None:
            size += len(lexeme.encode()) + 8
            positions[lexeme] = [min(place, LAST_POSITION)]
        elif place < LAST_POSITION and len(known) < MOST_POSITIONS:
            size += 2
            known.append(place)
        if size > MOST_BYTES:
            break
    if not positions:
        return None
    return " ".join([f"'{lexeme}':{','.join(map(str, places))}" for lexeme, places in positions.items()])


def query(asked: str) -> str | None:
    """What is asked for as a tsquery literal: every word, in any order; "words in a row"; -without.

    A word of a spaced language also finds the words that it begins. None if nothing of it can be searched for.
    """
    parts: list[str] = []
    found_any = False
    for minus, quoted, word in _TERM.findall(asked):
        text, phrase = (quoted, True) if quoted else (word, False)
        terms = [_one(run, exact=phrase) for run in runs(text)]
        if not terms:
            continue
        joined = terms[0][0]
        for (_, length), (term, _) in pairwise(terms):
            joined += f" <{length}> {term}"
        parts.append(f"!({joined})" if minus else f"({joined})")
        found_any = found_any or not minus
    return " & ".join(parts) if found_any else None


def asked_runs(asked: str) -> list[Run]:
    """What is to be highlighted."""
    return [run for minus, quoted, word in _TERM.findall(asked) if not minus for run in runs(quoted or word)]


def _one(run: Run, *, exact: bool) -> tuple[str, int]:
    """A run as a part of a tsquery, and how far behind its last lexeme the next run begins."""
    if run.spaced:
        return (f"'{run.text[:LONGEST_WORD]}'" + ("" if exact else ":*"), 1)
    if len(run.text) == 1:
        return f"'{run.text}':*", 1
    pairs = [f"'{run.text[i : i + 2]}'" for i in range(len(run.text) - 1)]
    return " <-> ".join(pairs), 2


def _all_lexemes(text: str) -> Iterable[str]:
    if text.isascii():
        return [word[:LONGEST_WORD] for word in _ASCII_WORD.findall(text.lower())]
    return (lexeme for run in runs(text) for lexeme in _lexemes(run))


def _lexemes(run: Run) -> Iterator[str]:
    if run.spaced:
        yield run.text[:LONGEST_WORD]
        return
    for place in range(len(run.text)):
        yield run.text[place : place + 2]


def _folded(raw: str) -> str:
    if raw.isascii():
        return raw.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", raw))
    return unicodedata.normalize("NFC", plain).casefold() or raw


def _is_unspaced(character: str) -> bool:
    return _FIRST_UNSPACED.match(character) is not None


_FIRST_UNSPACED = re.compile(f"[{_UNSPACED}]")
