"""Text of any length, with words as unevenly used as those of a language, and of the lengths that they have there."""

import random


def text(characters: int, rng: random.Random) -> str:
    words: list[str] = []
    size = 0
    while size < characters:
        word = (
            f"{'aeioubcdfghklmnprst'[rng.randrange(19)]}{int(20_000 * rng.random() ** 4):x}{'ing' * rng.randrange(2)}"
        )
        words.append(word)
        size += len(word) + 1
    return " ".join(words)[:characters]
