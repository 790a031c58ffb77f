"""Numbers of tokens on the command line."""

import re

from qkv.errors import BadRecipe

MAX_DIGITS = 10
MAX_LENGTH = 2**30
MULTIPLES = {"": 1, "k": 1024, "m": 1024**2}


def parse_lengths(text: str, option: str = "--length") -> list[int]:
    """The lengths of an option, in ascending order.

    Args:
        text: whole numbers separated by commas, with k for 1024 and m for 1024².
        option: the name of the option, for messages.

    Raises:
        BadRecipe: one is not a length.
    """
    return sorted({_parse_length(part, option) for part in text.split(",")})


def _parse_length(part: str, option: str) -> int:
    match = re.fullmatch(r"\s*([0-9]+)([km]?)\s*", part.lower())
    length = 0 if match is None or len(match[1]) > MAX_DIGITS else int(match[1]) * MULTIPLES[match[2]]
    if not 1 <= length <= MAX_LENGTH:
        raise BadRecipe(
            f"{option} takes numbers of tokens like 512 or 1k,4k,16k, up to 1024m, got {part.strip()[:40]!r}"
        )
    return length
