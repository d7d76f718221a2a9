"""Text as people write it: of Python's own reference, which lies beside every interpreter."""

import random
from pydoc_data.topics import topics

REFERENCE = " ".join(" ".join(topics.values()).split())


def text(characters: int, rng: random.Random) -> str:
    """So many characters in a row, from a random place on."""
    start = rng.randrange(len(REFERENCE) - characters)
    return REFERENCE[start : start + characters]
