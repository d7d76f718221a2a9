"""Texts as they are compared, and by which lexemes they are asked for. migrations/schema.sql makes these of a text.

Postgres's own parsers find words between spaces. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese are
written without them, or with endings stuck to the words: there, each pair of neighbouring characters is a
lexeme, and so is the last character of a run, so that every character begins one.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

LONGEST_TEXT = 200_000
"""Characters of a text that are searched."""

LONGEST_WORD = 100
"""Characters of a word that are looked up."""

EMOJI = (
    "\u00a9\u00ae\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0"
    "\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\U0001f000-\U0001f0ff"
    "\U0001f170\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"
)
"""Emoji and dingbats, as ranges of a character class, without those that decompose into letters or digits."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff"
    "\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
) + EMOJI
"""The letters of scripts that are written without spaces, and emoji, as ranges of a character class."""

INVISIBLE = (
    "\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
"""Variation selectors, tags, fillers and other invisible characters, as ranges of a character class. They are removed
before texts are compared. Invisible characters that separate words, such as U+200B, are in `BETWEEN`."""

BETWEEN = (
    "\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\u00a8\u00aa-\u00ad\u00af-\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02eb\u02ed"
    "\u02ef-\u02ff\u0375\u03f6\u0482\u055a-\u055f\u0589-\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u060f\u061b-\u061f"
    "\u066a-\u066d\u06d4\u06dd\u06de\u06e9\u06fd\u06fe\u0700-\u070f\u07f6-\u07f9\u07fe\u07ff\u0830-\u083e\u085e"
    "\u0888\u0890\u0891\u08e2\u0964\u0965\u0970\u09f2\u09f3\u09fa\u09fb\u09fd\u0a76\u0af0\u0af1\u0b70"
    "\u0bf3-\u0bfa\u0c77\u0c7f\u0c84\u0d4f\u0d79\u0df4\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d"
    "\u0f85\u0fbe-\u0fc5\u0fc7-\u0fda\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d\u166e\u1680\u169b\u169c"
    "\u16eb-\u16ed\u1735\u1736\u1800-\u180a\u180e\u1940-\u1945\u19de-\u19ff\u1a1e\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad"
    "\u1b5a-\u1b6a\u1b74-\u1b7e\u1bfc-\u1bff\u1c3b-\u1c3f\u1c7e\u1c7f\u1cc0-\u1cc7\u1cd3\u200b-\u20c0"
    "\u2104-\u212e\u213a-\u214d\u214f\u218a-\u2193\u219a-\u21a8\u21ab-\u2319\u231c-\u2327\u2329-\u23ce"
    "\u23d0-\u23e8\u23f4-\u23f7\u23fb-\u244a\u2500-\u25a9\u25ac-\u25b5\u25b7-\u25bf\u25c1-\u25fa\u25ff"
    "\u27c0-\u2933\u2936-\u2b04\u2b08-\u2b1a\u2b1d-\u2b4f\u2b51-\u2b54\u2b56-\u2bff\u2ce5-\u2cea\u2cf9-\u2cfc"
    "\u2cfe\u2cff\u2d70\u2e00-\u2e2e\u2e30-\u2e7f\u2fe0-\u3004\u3008-\u3020\u3037\u303e\u303f\u3190\u3191"
    "\u31c0-\u31e3\u327f\u4dc0-\u4dff\ua490-\ua4c6\ua4fe\ua4ff\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720\ua721"
    "\ua789\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877\ua8ce\ua8cf\ua8f8-\ua8fa\ua8fc\ua92e\ua92f\ua95f"
    "\ua9c1-\ua9cd\ua9de\ua9df\uaa5c-\uaa5f\uaa77-\uaa79\uaade\uaadf\uaaf0\uaaf1\uab5b\uab6a\uab6b\uabeb"
    "\ufbb2-\ufdff\ufe45\ufe46\ufeff-\uff65\uffa0-\ufffd"
)
"""Characters between words."""

MARKS = (
    "\u0300-\u034e\u0350-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07eb-\u07f3"
    "\u07fd\u0816-\u0819\u081b-\u0823\u0825-\u0827\u0829-\u082d\u0859-\u085b\u0898-\u089f\u08ca-\u08e1"
    "\u08e3-\u08ff\u093c\u094d\u0951-\u0954\u09bc\u09cd\u09fe\u0a3c\u0a4d\u0abc\u0acd\u0b3c\u0b4d\u0bcd\u0c3c"
    "\u0c4d-\u0c56\u0cbc\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u0e38-\u0e3a\u0e48-\u0e4b\u0eb8-\u0eba\u0ec8-\u0ecb"
    "\u0f18\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f75\u0f7a-\u0f7d\u0f80-\u0f84\u0f86\u0f87\u0fc6\u1037\u1039"
    "\u103a\u108d\u135d-\u135f\u1714\u1715\u1734\u17d2\u17dd\u18a9\u1939-\u193b\u1a17\u1a18\u1a60"
    "\u1a75-\u1a7f\u1ab0-\u1abd\u1abf-\u1ace\u1b34\u1b44\u1b6b-\u1b73\u1baa\u1bab\u1be6\u1bf2\u1bf3\u1c37"
    "\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8\u1ced\u1cf4\u1cf8\u1cf9\u1dc0-\u1dff\u20d0-\u20dc\u20e1"
    "\u20e5-\u20f0\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f\u3099\u309a\ua66f\ua674-\ua67d\ua69e\ua69f"
    "\ua6f0\ua6f1\ua806\ua82c\ua8c4\ua8e0-\ua8f1\ua92b-\ua92d\ua953\ua9b3\ua9c0\uaab0\uaab2-\uaab4\uaab7"
    "\uaab8\uaabe\uaabf\uaac1\uaaf6\uabed\ufb1e\ufe20-\ufe2f\uff9e\uff9f\U000101fd\U000102e0"
    "\U00010376-\U0001037a\U00010a0d\U00010a0f\U00010a38-\U00010a3f\U00010ae5\U00010ae6\U00010d24-\U00010d27"
    "\U00010eab\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011046\U00011070\U0001107f\U000110b9"
    "\U000110ba\U00011100-\U00011102\U00011133\U00011134\U00011173\U000111c0\U000111ca\U00011235\U00011236"
    "\U000112e9\U000112ea\U0001133b\U0001133c\U0001134d\U00011366-\U00011374\U00011442\U00011446\U0001145e"
    "\U000114c2\U000114c3\U000115bf\U000115c0\U0001163f\U000116b6\U000116b7\U0001172b\U00011839\U0001183a"
    "\U0001193d\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011c3f\U00011d42\U00011d44"
    "\U00011d45\U00011d97\U00016af0-\U00016af4\U00016b30-\U00016b36\U00016ff0\U00016ff1\U0001bc9e"
    "\U0001d165-\U0001d169\U0001d16d-\U0001d172\U0001d17b-\U0001d182\U0001d185-\U0001d18b"
    "\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001e000-\U0001e02a\U0001e130-\U0001e136\U0001e2ae"
    "\U0001e2ec-\U0001e2ef\U0001e8d0-\U0001e8d6\U0001e944-\U0001e94a"
)
"""Combining characters, and characters that decompose into some, as ranges of a character class."""

MOST_MARKS = 30
"""Combining characters in a row that are compared, as in Unicode's stream-safe text format (UAX #15). Normalization
sorts them, which costs the square of their number; no language has so many."""

_RUN = re.compile(f"[{UNSPACED}][{UNSPACED}{INVISIBLE}]*|[^{UNSPACED}{BETWEEN}]+")
_REMOVED = re.compile(f"[\u0300-\u036f{INVISIBLE}]+")
_TOO_MANY_MARKS = re.compile(f"([{MARKS}]{{{MOST_MARKS}}})[{MARKS}]+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')


@dataclass(frozen=True, slots=True)
class Run:
    """A word, or a run of characters that are written without spaces."""

    text: str
    """As it is compared."""
    start: int
    end: int
    """End position in the text that it was found in."""
    spaced: bool


@dataclass(frozen=True, slots=True)
class Term:
    """Runs that are to stand one after the other."""

    runs: tuple[Run, ...]
    exact: bool
    """Whole words. Else a word of a spaced language also finds the words that it begins."""
    excluded: bool


def folded(text: str) -> str:
    """Return a text without case, accents, invisible characters, and differences of width."""
    if text.isascii():
        return text.lower()
    text = _TOO_MANY_MARKS.sub(r"\1", text)
    plain = unicodedata.normalize("NFC", _REMOVED.sub("", unicodedata.normalize("NFKD", text)))
    return plain.lower().replace("ß", "ss").replace("ς", "σ")


def runs(text: str) -> Iterator[Run]:
    for found in _RUN.finditer(text):
        # A run of invisible characters alone is no word.
        if said := folded(found[0]):
            yield Run(said, found.start(), found.end(), _UNSPACED.match(said) is None)


def terms(asked: str) -> list[Term]:
    """Return the terms of a query: every word, in any order; "words in a row"; -without."""
    found = []
    for minus, quoted, word in _TERM.findall(asked):
        parts = tuple(runs(folded(quoted or word)))
        if parts:
            found.append(Term(parts, bool(quoted), bool(minus)))
    return found


def tsquery(
    wanted: Sequence[Term],
    project_id: UUID,
    roles: Sequence[str],
    times: Sequence[str] = (),
    hashed: Callable[[str], str] | None = None,
) -> str:
    """The lexemes that a text must have for all of `wanted` to be in it, as a tsquery literal.

    Args:
        times: what the ids of the texts' turns begin with, as 4 to 6 hex digits; any, if left out.
        hashed: makes of a word what a sealed text has of it. Plain texts are found too: a project has both while it
            is being encrypted.
    """
    ends = [f"={time}" for time in times] or [""]
    marks = " | ".join(f"'={role}{project_id.hex}{end}'" for role in roles for end in ends)
    runs_ = [(run, term.exact) for term in wanted for run in term.runs]
    lexemes = " & ".join(sorted({lexeme for run, exact in runs_ for lexeme in _lexemes(run, exact=exact)}))
    if hashed is not None:
        words = " & ".join(sorted({f"'{hashed(word)}'" for run, _ in runs_ for word in asked(run)}))
        lexemes = f"({lexemes} | {words})"
    return f"({marks}) & {lexemes}"


def whole(text: str) -> Iterator[str]:
    """Return the words by which a sealed text is found: normalized words, and the characters of scripts without spaces,
    one by one and in pairs."""
    for run in runs(folded(text[:LONGEST_TEXT])):
        yield from asked(run)
        if not run.spaced:
            yield from run.text


def asked(run: Run) -> list[str]:
    """Return the look-up words of a run: a word, or the pairs of a script without spaces."""
    if run.spaced or len(run.text) == 1:
        return [run.text[:LONGEST_WORD]]
    return [run.text[i : i + 2] for i in range(len(run.text) - 1)]


def _lexemes(run: Run, *, exact: bool) -> list[str]:
    is_whole = exact and len(run.text) < LONGEST_WORD if run.spaced else len(run.text) > 1
    return [f"'{word}'" + ("" if is_whole else ":*") for word in asked(run)]


_UNSPACED = re.compile(f"[{UNSPACED}]")
