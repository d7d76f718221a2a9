"""A deterministic check of a summary, before it stands for the beginning of a conversation.

The source is searched for what a summary keeps in any language: numbers, identifiers, URLs, names and decisions. A
summary that keeps none of them is refused, and so is one that is far too short, or no summary at all. The check must
not refuse a good summary. In doubt it accepts, because a refused one costs a call and leaves the history uncompacted:

- a source without names, numbers and decisions (small talk) demands nothing, and one incidental number or name neither;
- names are demanded in the script that they were written in only ("小明" may be "Xiao Ming" in an English summary);
- capitals count as names only where a text does not capitalise its nouns (German) or everything;
- decisions are demanded only of a summary in the language that they were made in;
- of all that is found, one must be kept: which of them matter is not for a deterministic check to say.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from app.chain.answer import Answer
from app.memory.answer_text import begins_with_refusal, is_refused, without_reasoning

LONGEST_TEXT = 100_000
"""Characters of a summary; one that is longer is refused unread."""

LONG_ANSWER = 400
"""Characters. A text that begins like a refusal and is shorter is one, whatever it keeps."""

BYTES_PER_SUMMARY_BYTE = 256
"""Bytes of the compressed source, for each of which groups the summary must have one byte."""

LEAST_LENGTH = 160
"""Bytes that are enough for any source."""

DEMANDED_WEIGHT = 2.0
"""From which weight of all facts in a source on one of them must be in the summary."""

UNSPACED_SCRIPTS = ("CJK", "HANGUL")

AT_ONCE = 50_000
"""Characters of a source that are searched at once: a search of more would hold up the other threads."""

MOST_PHRASES = 100
"""Largest number of quotations, and of names and decisions by language, that are read in such a part."""


class Fault(StrEnum):
    INCOMPLETE = "incomplete"
    REFUSAL = "refusal"
    UNFINISHED_REASONING = "unfinished_reasoning"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NO_FACTS = "no_facts"


WORDS: dict[Fault, str] = {
    Fault.INCOMPLETE: "it was cut off before its end",
    Fault.REFUSAL: "the model refused to write it",
    Fault.UNFINISHED_REASONING: "it holds reasoning that does not end",
    Fault.TOO_SHORT: "it is much too short for what it stands for",
    Fault.TOO_LONG: f"it has more than {LONGEST_TEXT:,} characters",
    Fault.NO_FACTS: "it keeps none of the names, numbers and decisions of the conversation",
}


class BadSummary(ValueError):
    """A model's answer that cannot be used as a summary."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(WORDS[fault])
        self.fault = fault


def checked_summary(answer: Answer, source: str, facts_in: Sequence[str], *, own_prompt: bool = False) -> str:
    """Return the text of a summary.

    Args:
        source: everything that the summary stands for.
        facts_in: the parts of it whose facts are demanded, each by itself.
        own_prompt: the prompt is not the service's own, and may ask for as few words as it likes.

    Raises:
        BadSummary: it cannot be used.
    """
    if is_refused(answer):
        raise BadSummary(Fault.REFUSAL)
    if answer.status == "incomplete":
        raise BadSummary(Fault.INCOMPLETE)
    if len(answer.text) > LONGEST_TEXT:
        raise BadSummary(Fault.TOO_LONG)
    text = without_reasoning(answer.text)
    if text is None:
        raise BadSummary(Fault.UNFINISHED_REASONING)
    if (fault := fault_of(text, source, facts_in, own_prompt=own_prompt)) is not None:
        raise BadSummary(fault)
    return text


def fault_of(text: str, source: str, facts_in: Sequence[str], *, own_prompt: bool = False) -> Fault | None:
    """Return the fault of a summary's text; None if it can be used. A pure function, linear in the length of both."""
    length = len(text.encode("utf-8", "replace"))
    if not any(map(str.isalnum, text)) or (not own_prompt and length < least_length(source)):
        return Fault.TOO_SHORT
    summary = Summary.of(text)
    kept = [keeps_facts(summary, part) for part in facts_in]
    if begins_with_refusal(text, source) and (len(text) < LONG_ANSWER or not all(kept)):
        return Fault.REFUSAL
    return None if all(kept) else Fault.NO_FACTS


def least_length(source: str) -> int:
    """Return the bytes that a summary must have at least.

    What a text says is measured by its compressed size, so that repetitions and fillers demand nothing.
    """
    data = source.encode("utf-8", "replace")
    said = len(zlib.compress(data, level=1)) - len(data) // 100  # What the very same words again come to.
    return min(LEAST_LENGTH, max(0, said) // BYTES_PER_SUMMARY_BYTE)


def keeps_facts(summary: "Summary", source: str) -> bool:
    """Return True if the summary keeps one of the facts of a source, or the source has too few to demand one."""
    source, facts = unicodedata.normalize("NFKC", source), _Facts()
    for start in range(0, len(source), AT_ONCE):
        _find(facts, source[start : start + AT_ONCE], summary)
    if sum(facts.weights.values()) < DEMANDED_WEIGHT:
        return True
    telling = facts.weights.keys() - facts.faint or facts.weights.keys()
    return not (telling | facts.others).isdisjoint(summary.tokens) or any(
        phrase in summary.text for phrase in facts.phrases
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """Words, numbers and identifiers of a summary's text."""

    text: str
    """Normalised, without differences of case."""
    tokens: frozenset[str]
    """Its numbers and identifiers, and the beginnings of its words."""
    scripts: Counter[str]

    @classmethod
    def of(cls, text: str) -> "Summary":
        text = unicodedata.normalize("NFKC", text)
        unlisted = _LIST_NUMBER.sub("", text)
        numbers = [*_numbers(unlisted), *_numbers(_GAP.sub("", unlisted))]
        runs = [_plain(run) for number in _NUMBER.findall(unlisted) for run in re.findall(r"\d+", number)]
        identifiers = [key for found in _IDENTIFIER.findall(text) for key in _keys(found)]
        words = [_folded(word) for word in _WORD.findall(text)]
        beginnings = [word[:end] for word in words for end in range(2, min(6, len(word) + 1))]
        tokens = frozenset([*numbers, *runs, *identifiers, *words, *beginnings])
        return cls(text.casefold(), tokens, Counter(_script(letter) for letter in text[:4000] if letter.isalpha()))

    def is_in(self, script: str) -> bool:
        """Return True if the summary is written in a script, at least in a good part."""
        return self.scripts[script] >= 0.3 * self.scripts.total()


@dataclass(slots=True)
class _Facts:
    weights: dict[str, float] = field(default_factory=dict)
    """Each fact as a token, or as a part of the text, with what it adds to the demand."""
    others: set[str] = field(default_factory=set)
    """Tokens that show a fact to be kept, and demand nothing."""
    faint: set[str] = field(default_factory=set)
    """Facts that a text holds by chance: they show nothing where there are others."""
    phrases: set[str] = field(default_factory=set)
    """Phrases that are searched for in the summary's text instead of among its tokens."""


@dataclass(frozen=True, slots=True)
class _Language:
    spoken: re.Pattern[str]
    """Words that every text of the language has."""
    decision: re.Pattern[str]
    name: re.Pattern[str]
    """Pattern of a sentence that gives a name."""


_ANY = re.IGNORECASE
_GIVEN = r"\s+([^\W\d_]{2,})"
_HAN = r"[\u3400-\u9fff々]"

_LANGUAGES = (
    _Language(
        re.compile(r"\b(?:the|and|of|to|was|is|were|has|had|they|this|with|user)\b", _ANY),
        re.compile(r"\b(?:decided|agreed|decisions?|chose|chosen)\b", _ANY),
        re.compile(r"\bmy name(?:['’]s| is)" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile(r"\b(?:der|die|das|und|ist|nicht|wurde)\b", _ANY),
        re.compile(r"\b(?:entschieden|entschied|beschlossen|entscheidung|geeinigt)\b", _ANY),
        re.compile(r"\b(?:ich hei(?:ß|ss)e|mein name ist)" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile(r"\b(?:le|la|les|des|et|est|pour)\b", _ANY),
        re.compile(r"\b(?:décidé|décision|convenu|choisi)\w*", _ANY),
        re.compile(r"\b(?:je m['’]appelle|mon nom est)" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile(r"\b(?:el|los|las|que|y|se|una)\b", _ANY),
        re.compile(r"\b(?:decid\w+|decisión|acordamos|acordado|elegimos)\b", _ANY),
        re.compile(r"\b(?:me llamo|mi nombre es)" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile(r"\b(?:os|as|que|não|uma|foi|do|da)\b", _ANY),
        re.compile(r"\b(?:decidi\w+|decisão|combinamos|escolhemos)\b", _ANY),
        re.compile(r"\b(?:meu nome é|eu me chamo|chamo-me)" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile(r"\b(?:и|в|на|что|не)\b", _ANY),
        re.compile(r"\b(?:решил\w*|решено|решение|договорились|выбрал\w*)\b", _ANY),
        re.compile(r"\bменя зовут" + _GIVEN, _ANY),
    ),
    _Language(
        re.compile("[的了是在们和]"),
        re.compile("决定|決定|同意|说好|說好|选定"),
        re.compile(f"(?:我叫|我的名字(?:是|叫)|我姓)(?![你您他她它我这那])({_HAN}{{1,3}})"),
    ),
    _Language(
        re.compile("[のはをがです]"),
        re.compile("決定|決め|ことにし"),
        re.compile(f"(?:名前は|私は)((?:{_HAN}|[\u30a0-\u30ff]){{2,6}})(?=です|と申)"),
    ),
    _Language(
        re.compile("[가-힣]"),
        re.compile("결정|하기로"),
        re.compile(r"(?:제|내) 이름은\s*([가-힣]{2,4}?)(?=이?에요|예요|입니다|이야|야|[\s.,!]|$)"),
    ),
)
_GERMAN = _LANGUAGES[1]

_NUMBER = re.compile(r"\d{1,40}(?:[.,'’]\d{1,40}){0,8}")
_GAP = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
"""Between the groups of a long number."""
_LIST_NUMBER = re.compile(r"(?m)^[ \t]*\d{1,2}[.)、][ \t]")
_IDENTIFIER = re.compile(r"(?<![A-Za-z\d_])[A-Za-z\d_](?:[A-Za-z\d_.:/\\@+#=-]{0,300}[A-Za-z\d_])?")
_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile(r"[“「『《«„]([^“”「」『』《》«»„\n]{2,40})[”」』》»“]|`([^`\n]{2,40})`")
_SENTENCE_END = re.compile(r"[.!?。！？\n]")
_CONTENT = re.compile(r"[^\W\d_]{4,}")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3々]{2,}")
_COMMON = re.compile(r"[我你您他她它们的了是在这那就把]|^[\u3040-\u309f]{2}$")
"""Pairs of characters that say nothing: pronouns, particles, endings."""

_NO_NAMES = frozenset(
    re.findall(
        r"\w+",
        "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
        "september october november december english god ok okay hi hello thanks please yes no",
    )
)
_NO_CONTENT = frozenset(
    re.findall(
        r"\w+",
        "that this with have will from they then what when were would about been user tool answers assistant",
    )
)
_NO_GIVEN = frozenset(re.findall(r"\w+", "not the an important of in on for"))


def _find(facts: _Facts, source: str, summary: Summary) -> None:
    """Add the facts of a part of a source. Those are demanded that a summary of this kind can be asked for."""
    for number in _numbers(source):
        if len(number) == 1:
            facts.faint.add(number)
        year = len(number) == 4 and number[:2] in ("19", "20")
        facts.weights[number] = 0.5 if len(number) == 1 or year else 2.0 if len(number) > 3 else 1.0
    for found in _IDENTIFIER.finditer(source):
        if _tells(found[0]):
            first, *others = _keys(found[0])
            facts.weights[first] = 2.0
            facts.others.update(others)
    for name, weight in _capitals(source).items():
        _add(facts, _beginning(name), weight, demanded=weight > 0 and summary.is_in(_script(name[0])))
    for match in islice(_QUOTED.finditer(source), MOST_PHRASES):
        if phrase := (match[1] or match[2]).strip().casefold():
            facts.phrases.add(phrase)
            _add(facts, phrase, 1.0, demanded=summary.is_in(_script(phrase[0])))
    for language in _LANGUAGES:
        for match in islice(language.name.finditer(source), MOST_PHRASES):
            _add_name(facts, match[1], summary)
        demanded = language.spoken.search(summary.text) is not None
        for match in islice(language.decision.finditer(source), MOST_PHRASES):
            _add_decision(facts, source, match, demanded=demanded)


def _add(facts: _Facts, key: str, weight: float, *, demanded: bool) -> None:
    if demanded:
        facts.weights[key] = max(weight, facts.weights.get(key, 0))
    else:
        facts.others.add(key)


def _add_name(facts: _Facts, name: str, summary: Summary) -> None:
    """Add a name from the conversation."""
    if name.casefold() in _NO_GIVEN:
        return
    unspaced = _script(name[0]) in UNSPACED_SCRIPTS
    key = name[:2].casefold() if unspaced else _beginning(name)
    if unspaced:
        facts.phrases.add(key)
    _add(facts, key, 2.0, demanded=summary.is_in(_script(name[0])))


def _add_decision(facts: _Facts, source: str, found: re.Match[str], *, demanded: bool) -> None:
    """Add what a sentence says that tells of a decision."""
    before = _SENTENCE_END.split(source[max(0, found.start() - 200) : found.start()])[-1]
    after = _SENTENCE_END.split(source[found.end() : found.end() + 200], maxsplit=1)[0]
    _add(facts, f"decision: {after}", 2.0, demanded=demanded)
    for part in (before, after):
        facts.others.update(_folded(word)[:4] for word in _CONTENT.findall(part) if _tells_something(word))
        for run in _UNSPACED.findall(part):
            pairs = (run[at : at + 2] for at in range(len(run) - 1))
            facts.phrases.update(pair for pair in pairs if _COMMON.search(pair) is None)


def _tells_something(word: str) -> bool:
    return word.casefold() not in _NO_CONTENT and _script(word[0]) not in UNSPACED_SCRIPTS


def _capitals(source: str) -> dict[str, float]:
    """Return the words that begin with a capital within a sentence, each with its weight as a name."""
    found: set[str] = set()
    words = capitals = 0
    for match in _WORD.finditer(source):
        at, word = match.start(), match[0]
        if at < 2 or source[at - 1] != " " or not (source[at - 2].isalnum() or source[at - 2] in ",;)"):
            continue
        words += 1
        if word[0].isupper() and len(word) > 1:
            capitals += 1
            if word.casefold() not in _NO_NAMES:
                found.add(word)
    german = len({said.casefold() for said in _GERMAN.spoken.findall(source[:20_000])}) > 1
    weight = 0.0 if german or (words > 8 and capitals > words * 0.5) else 1.0
    return dict.fromkeys(found, weight)


def _tells(identifier: str) -> bool:
    """Return True if a word of letters, digits and signs is an identifier that a text does not hold by chance."""
    if len(identifier) < 4 or not re.search(r"[A-Za-z]", identifier):
        return False
    if "_" in identifier[1:-1] or "@" in identifier or "://" in identifier:
        return True
    return re.search(r"\d", identifier) is not None and (len(identifier) > 4 or not identifier.islower())


def _keys(identifier: str) -> Iterator[str]:
    """Yield an identifier, and the host of a URL: a summary may leave out its path."""
    yield identifier.casefold()
    if "://" in identifier:
        yield identifier.casefold().split("://", 1)[1].split("/", 1)[0]


def _numbers(text: str) -> Iterator[str]:
    """Yield the digits of each number, without the signs between them and without leading zeros."""
    return (_plain(re.sub(r"\D", "", match[0])) for match in _NUMBER.finditer(text))


def _plain(digits: str) -> str:
    """Return digits of any script as ASCII, without leading zeros."""
    if digits.isascii():
        return digits.lstrip("0") or "0"
    return "".join(str(unicodedata.digit(digit)) for digit in digits).lstrip("0") or "0"


def _folded(word: str) -> str:
    """Return a word without differences of case and accents."""
    if word.isascii():
        return word.lower()
    return "".join(c for c in unicodedata.normalize("NFD", word.casefold()) if not unicodedata.combining(c))


def _beginning(name: str) -> str:
    """Return the part of a name that its inflected forms have in common."""
    folded = _folded(name)
    return folded[:5] if name.isascii() else folded[: max(2, min(5, len(folded) - 1))]


def _script(letter: str) -> str:
    """Return the script of a letter. Chinese and Japanese are one: they write names alike."""
    script = unicodedata.name(letter, "").split(" ", 1)[0]
    return "CJK" if script.startswith(("HIRAGANA", "KATAKANA")) else script
