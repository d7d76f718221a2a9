"""Chinese translations of the console's texts, one file for each area. The English texts are in templates and pages."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

_QUALITY = re.compile(r"[01](?:\.[0-9]{0,3})?")
"""A preference of `Accept-Language` (RFC 9110, section 12.4.2)."""

Words = Callable[..., str]

CHINESE: dict[str, str] = {}
for _area in sorted((Path(__file__).parent / "chinese").glob("*.toml")):
    CHINESE |= tomllib.loads(_area.read_text())

IN_SCRIPTS = re.compile(r'\bt\(\s*"([^"]+)"')

SAID_BY_SCRIPTS = {
    text for path in (Path(__file__).parent / "assets").glob("*.js") for text in IN_SCRIPTS.findall(path.read_text())
}

SCRIPT_WORDS: dict[str, dict[str, str]] = {
    "en": {},
    "zh": {text: CHINESE[text] for text in sorted(SAID_BY_SCRIPTS & set(CHINESE))},
}
"""Translations of the texts of scripts, which each page has."""


def language_of(accepted: str) -> str:
    """`zh` for who would rather read Chinese, by `Accept-Language`; else `en`."""
    wanted: list[tuple[float, str]] = []
    for each in accepted.split(","):
        tag, _, rest = each.strip().partition(";")
        quality = rest.strip().removeprefix("q=")
        weight = float(quality) if _QUALITY.fullmatch(quality) else 1.0
        wanted.append((-weight, tag.lower()))
    for _, tag in sorted(wanted, key=lambda one: one[0]):
        if tag.startswith(("zh", "en")):
            return tag[:2]
    return "en"


def words(language: str) -> Words:
    """Return a function that translates a sentence and fills in its numbers and names."""

    def say(sentence: str, **filled: object) -> str:
        said = CHINESE.get(sentence, sentence) if language == "zh" else sentence
        return said.format(**filled) if filled else said

    return say
