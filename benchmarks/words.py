"""Text of any length, with words as unevenly used as those of a language, and of the lengths that they have there."""

import random

VOCABULARY = 6_000

_CONSONANTS, _VOWELS = "bcdfghklmnprstvw", "aeiou"


def _word(rank: int) -> str:
    """The rank-th most used word: the first ones are short."""
    letters, left = "", rank
    while not letters or left:
        left, place = divmod(left, len(_CONSONANTS) * len(_VOWELS))
        letters += _CONSONANTS[place % len(_CONSONANTS)] + _VOWELS[place // len(_CONSONANTS)]
    return letters + ("", "n", "s", "ing", "ed")[rank % 5]


WORDS = [_word(rank) for rank in range(VOCABULARY)]


def text(characters: int, rng: random.Random) -> str:
    words: list[str] = []
    size = 0
    while size < characters:
        word = WORDS[int(VOCABULARY * rng.random() ** 3)]
        words.append(word)
        size += len(word) + 1
    return " ".join(words)[:characters]
