"""Digests of files and of lines of text, which show that a file or the data changed."""

import hashlib
from collections.abc import Iterable


def digest_bytes(content: bytes) -> str:
    """A digest of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_lines(lines: Iterable[str]) -> str:
    """A digest of lines of text, in their order."""
    state = hashlib.blake2b(digest_size=16)
    for line in lines:
        state.update(line.encode() + b"\n")
    return state.hexdigest()


def name_split(part: str, *, has_valid: bool) -> str:
    """The key of the recipe where a part of the fingerprint comes from; see `Task.name_data_part`.

    Args:
        part: the name of a part, such as "valid.text".
        has_valid: whether the recipe names held-out data in data.valid.
    """
    is_held_out = part.startswith("valid") and not has_valid
    return "data.train, of which some is held out," if is_held_out else f"data.{part.partition('.')[0]}"
